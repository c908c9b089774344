"""Items as words and vectors at once: the text form's prompt, with what is known of an item beside its words.

The vector of an item, made as for soft tokens (`rerank.token`), is added to the token in front of its words,
and a network of the candidate's numbers to its identifier's logit. Both are silent at first, so that training
starts from the language model as it ranks texts; a head at the candidates' own places had to learn from
nothing what the model already says, and lost to words alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from extract.embed import token_batches
from rerank.known import input_projections, known_of, number_fusion
from rerank.lists import RankingList
from rerank.prompts import EncodedList, PromptEncoder
from rerank.scorer import ListwiseScorer, adapted, load_scorer
from rerank.settings import RerankConfig


@dataclass(frozen=True, slots=True)
class HybridPrompt:
    """One list: the text form's prompt, and the list that its vectors come from."""

    words: EncodedList
    entry: RankingList

    def __len__(self) -> int:
        return len(self.words)


class HybridReranker(nn.Module):
    """A causal language model with what it is told of items beside their words.

    Args:
        decoder: a causal language model of transformers, or its peft wrapper.
        width: D of the item vectors.
        inputs: S numbers of a candidate.
        dropout: on what is added to the words.
    """

    def __init__(self, decoder: Any, width: int, inputs: int, dropout: float) -> None:
        super().__init__()
        size = decoder.config.get_text_config().hidden_size
        self.decoder = decoder
        self.item, self.known = input_projections(width, inputs, size)
        self.fusion = number_fusion(inputs)
        self.dropout = nn.Dropout(dropout)
        for layers in (self.item, self.known, self.fusion):
            for last in list(layers.parameters())[-2:]:
                nn.init.zeros_(last)

    def beside(self, vectors: Tensor, inputs: Tensor) -> Tensor:
        """What is added in front of an item's words [N, size]: vectors [N, D], the last ones' numbers too.

        Args:
            inputs: [M, S] numbers of the last M of the N items, the candidates.
        """
        told: Tensor = self.item(vectors)
        told[len(told) - len(inputs) :] += self.known(inputs)
        dropped: Tensor = self.dropout(told)
        return dropped


class HybridScorer:
    """A `HybridReranker` behind the same calls as `ListwiseScorer`."""

    def __init__(self, model: HybridReranker, encoder: PromptEncoder) -> None:
        self.model, self.encoder = model, encoder
        self._text = ListwiseScorer(model.decoder, encoder)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._text.device

    def words(self, text: str) -> list[int]:
        """Tokens of one item's text."""
        return self._text.words(text)

    def prompt(self, entry: RankingList, words: Mapping[str, list[int]], answer: int = 0) -> HybridPrompt:
        """The prompt of one list, with an answer of the `answer` best candidates to learn from."""
        return HybridPrompt(self._text.prompt(entry, words, answer), entry)

    def learn(self, prompts: Sequence[HybridPrompt]) -> tuple[Tensor, Tensor, Tensor]:
        """Scores [B, K] and mask [B, K] at the answers' first place, and the answers' language-model loss."""
        encoded = [prompt.words for prompt in prompts]
        scores, mask, loss = self._text.read(self._states(prompts, answers=True), encoded)
        return scores + self._from_numbers(prompts), mask, loss

    @torch.no_grad()
    def score(
        self, prompts: Sequence[HybridPrompt], *, token_budget: int = 8192
    ) -> list[NDArray[np.float32]]:
        """The candidates' scores of each list, float32 [K], in the order shown."""
        self.model.eval()
        scores: list[NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(prompts)
        for places in token_batches([len(prompt.words.tokens) for prompt in prompts], token_budget):
            batch = [prompts[i] for i in places]
            states = self._states(batch, answers=False)
            last = torch.stack([row[len(p.words.tokens) - 1] for row, p in zip(states, batch, strict=True)])
            table, _ = self._text.identifier_scores(last, [p.words.candidates for p in batch])
            table = table + self._from_numbers(batch)
            for row, place in zip(table.cpu().numpy(), places, strict=True):
                scores[place] = row[: prompts[place].words.candidates].astype(np.float32)
        return scores

    def _states(self, prompts: Sequence[HybridPrompt], *, answers: bool) -> Tensor:
        """Last hidden states [B, L, size]."""
        rows = [[*p.words.tokens, *(p.words.answer if answers else ())] for p in prompts]
        places, told = [], []
        for row, prompt in enumerate(prompts):
            starts = np.array(prompt.words.starts, np.int64) - 1
            places.append(np.stack([np.full(len(starts), row), starts], axis=1))
            told.append(self.model.beside(*self._known(prompt)))
        where = torch.from_numpy(np.concatenate(places)).to(self.device)
        states, _ = self._text.hidden(rows, (where, torch.cat(told)))
        return states

    def _known(self, prompt: HybridPrompt) -> tuple[Tensor, Tensor]:
        """Vectors [N, D] of the shown items, in the prompt's order, and numbers [K, S] of the candidates."""
        inputs, vectors = known_of(prompt.entry)
        shown = len(prompt.words.starts) - len(prompt.entry.candidates)
        history = prompt.entry.history[len(prompt.entry.history) - shown :]
        if self._text.encoder.layout.newest_first:
            history = history[::-1]
        rows = vectors.rows([*history, *prompt.entry.candidates])
        own = np.where(rows[:, None] >= 0, vectors.matrix[rows], 0).astype(np.float32)
        return torch.from_numpy(own).to(self.device), torch.from_numpy(inputs).to(self.device)

    def _from_numbers(self, prompts: Sequence[HybridPrompt]) -> Tensor:
        """What the numbers alone say [B, K]; 0 at padded places."""
        width = max(len(p.entry.candidates) for p in prompts)
        table = [self.model.fusion(self._known(p)[1]).squeeze(-1) for p in prompts]
        return torch.stack([nn.functional.pad(row, (0, width - len(row))) for row in table])


def build_hybrid_scorer(
    config: RerankConfig, entry: RankingList, *, max_candidates: int, seed: int
) -> HybridScorer:
    """A scorer for lists like `entry`: the model of the configuration with an adapter, as it ranks texts.

    Args:
        entry: any list; its inputs and vectors say how wide the layers are.
    """
    inputs, vectors = known_of(entry)
    text = load_scorer(config, max_candidates=max_candidates)
    torch.manual_seed(seed)
    decoder = adapted(text.model, config.finetune.lora)
    model = HybridReranker(decoder, vectors.width, inputs.shape[1], config.token.dropout)
    return HybridScorer(model.eval(), text.encoder)
