"""Items as soft tokens: one vector per item in place of its words, and scores at the candidates' own places.

After the idea of PE-Rank (Liu et al. 2024) and of scoring at each document's own position: any decoder reads
the history and the candidates as one embedding each, a projection of what the feature store and the
retrievers know of them. A candidate's score is read at its own place, so there are no identifiers and no
limit on K. Left out: PE-Rank's alignment stage and its constrained decoding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from extract.embed import token_batches
from extract.errors import InvalidData
from extract.store import write_atomic
from rerank.inference import Scorer
from rerank.known import input_projections, known_of, number_fusion
from rerank.lists import RankingList
from rerank.scorer import adapted, causal_model, load_model
from rerank.settings import RerankConfig, TokenConfig


@dataclass(frozen=True, slots=True)
class SoftPrompt:
    """One list as the decoder reads it: its history and its candidates, one place each.

    Attributes:
        positions: [L] what the decoder is told of places, L = H + K.
        entry: the list itself.
    """

    positions: NDArray[np.int64]
    entry: RankingList

    def __len__(self) -> int:
        return len(self.positions)


def soft_prompt(entry: RankingList) -> SoftPrompt:
    """History and candidates one after the other.

    A history in order is numbered by choice, oldest first; one without order shares place 0. All candidates
    share the place behind it: their order was drawn by lot.
    """
    history = len(entry.history)
    positions = np.full(history + len(entry.candidates), history if entry.ordered else 1, np.int64)
    positions[:history] = np.arange(history) if entry.ordered else 0
    return SoftPrompt(positions, entry)


class TokenReranker(nn.Module):
    """A decoder with what turns items into its embeddings and its states into scores.

    Args:
        decoder: a causal language model of transformers.
        width: D of the item vectors.
        inputs: S numbers of a candidate.
        dropout: on soft tokens and last states.
    """

    def __init__(self, decoder: Any, width: int, inputs: int, dropout: float) -> None:
        super().__init__()
        size = decoder.config.get_text_config().hidden_size
        self.decoder = decoder
        self.item, self.known = input_projections(width, inputs, size)
        self.kind = nn.Parameter(0.02 * torch.randn(2, size))
        # A fusion of the inputs at first, as the head is silent; the decoder learns what that misses.
        self.head = nn.Linear(size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.fusion = number_fusion(inputs)
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: SoftBatch) -> Tensor:
        """Scores [B, K] of the shown candidates; padded places hold numbers that mean nothing."""
        embedded = self.item(batch.vectors)[batch.items] + self.kind[batch.kinds]
        where = batch.starts[:, :, None].expand(-1, -1, embedded.shape[2])
        embedded = embedded.scatter_add(1, where, self.known(batch.inputs) * batch.mask[:, :, None])
        embedded = self.dropout(embedded)
        base = causal_model(self.decoder)
        states = base.get_decoder()(
            inputs_embeds=embedded.to(base.dtype), attention_mask=batch.real.long(),
            position_ids=batch.positions, use_cache=False,
        ).last_hidden_state  # fmt: skip
        rows = torch.arange(len(states), device=states.device)[:, None]
        own = self.dropout(states[rows, batch.starts].float())
        scores: Tensor = (self.head(own) + self.fusion(batch.inputs)).squeeze(-1)
        return scores


@dataclass(frozen=True, slots=True)
class SoftBatch:
    """B prompts of at most L places and K candidates, padded on the right.

    Attributes:
        real: [B, L] True where a prompt has a place.
        positions: [B, L].
        vectors: [N, D] of the items that occur, the last one of an unknown item.
        items: [B, L] row in `vectors`.
        kinds: [B, L] 0 in the history, 1 among the candidates.
        inputs: [B, K, S].
        mask: [B, K] True for a real candidate.
        starts: [B, K] its place.
    """

    real: Tensor
    positions: Tensor
    vectors: Tensor
    items: Tensor
    kinds: Tensor
    inputs: Tensor
    mask: Tensor
    starts: Tensor


def collate(prompts: Sequence[SoftPrompt], device: torch.device) -> SoftBatch:
    """One batch; each item's vector is projected once however often it occurs."""
    length, width = max(map(len, prompts)), max(len(p.entry.candidates) for p in prompts)
    inputs = np.zeros((len(prompts), width, known_of(prompts[0].entry)[0].shape[1]), np.float32)
    grids = {
        name: np.full((len(prompts), length), empty, np.int64)
        for name, empty in (("real", 0), ("positions", 0), ("items", -1), ("kinds", 0))
    }
    starts, mask = (np.zeros((len(prompts), width), np.int64) for _ in range(2))
    matrices: list[NDArray[np.float32]] = []
    used: dict[int, dict[int, int]] = {}
    total = 0
    for row, prompt in enumerate(prompts):
        own, vectors = known_of(prompt.entry)
        size, history = len(prompt), len(prompt.entry.history)
        count = size - history
        grids["real"][row, :size], grids["positions"][row, :size] = 1, prompt.positions
        grids["kinds"][row, history:size] = 1
        inputs[row, :count], mask[row, :count] = own, 1
        starts[row, :count] = np.arange(history, size)
        known = used.setdefault(id(vectors), {})
        for place, item in enumerate(vectors.rows([*prompt.entry.history, *prompt.entry.candidates])):
            if item >= 0:
                if item not in known:
                    known[int(item)] = total
                    matrices.append(vectors.matrix[item])
                    total += 1
                grids["items"][row, place] = known[int(item)]
    unknown = np.zeros_like(known_of(prompts[0].entry)[1].matrix[:1])
    table = np.concatenate([np.stack(matrices), unknown]) if matrices else unknown
    grids["items"][grids["items"] < 0] = len(table) - 1
    tensors = {name: torch.from_numpy(grid).to(device) for name, grid in grids.items()}
    tensors["real"] = tensors["real"].bool()
    return SoftBatch(
        **tensors, vectors=torch.from_numpy(table).to(device), inputs=torch.from_numpy(inputs).to(device),
        mask=torch.from_numpy(mask).to(device).bool(), starts=torch.from_numpy(starts).to(device),
    )  # fmt: skip


class TokenScorer:
    """A `TokenReranker` behind the same calls as `ListwiseScorer`."""

    def __init__(self, model: TokenReranker) -> None:
        self.model = model

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.kind.device

    def words(self, text: str) -> list[int]:
        """No tokens: no words are read."""
        return []

    def prompt(self, entry: RankingList, words: Mapping[str, list[int]], answer: int = 0) -> SoftPrompt:
        """The prompt of one list; a soft prompt has no answer to learn."""
        return soft_prompt(entry)

    def learn(self, prompts: Sequence[SoftPrompt]) -> tuple[Tensor, Tensor, Tensor]:
        """Scores [B, K] and mask [B, K] with gradients, and a language-model loss of 0."""
        batch = collate(prompts, self.device)
        return self.model(batch), batch.mask, torch.zeros((), device=self.device)

    @torch.no_grad()
    def score(self, prompts: Sequence[SoftPrompt], *, token_budget: int = 8192) -> list[NDArray[np.float32]]:
        """The candidates' scores of each list, float32 [K], in the order shown."""
        self.model.eval()
        scores: list[NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(prompts)
        for places in token_batches([len(prompt) for prompt in prompts], token_budget):
            table = self.model(collate([prompts[i] for i in places], self.device)).cpu().numpy()
            for row, place in zip(table, places, strict=True):
                scores[place] = row[: len(prompts[place].entry.candidates)].astype(np.float32)
        return scores


def build_token_scorer(config: RerankConfig, entry: RankingList, *, seed: int) -> TokenScorer:
    """A scorer for lists like `entry`: a fresh decoder, or the model of the configuration with an adapter.

    Args:
        entry: any list; its inputs and vectors say how wide the soft token's layers are.
    """
    inputs, vectors = known_of(entry)
    torch.manual_seed(seed)
    if config.model is None:
        decoder = _fresh_decoder(config.token)
    else:
        decoder = adapted(load_model(config)[1], config.finetune.lora)
    return TokenScorer(TokenReranker(decoder, vectors.width, inputs.shape[1], config.token.dropout).eval())


def _fresh_decoder(config: TokenConfig) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    # No word is ever read, so the vocabulary is as small as the class allows.
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=1, hidden_size=config.width, intermediate_size=config.feed_forward,
            num_hidden_layers=config.layers, num_attention_heads=config.heads,
            num_key_value_heads=config.heads, pad_token_id=0, bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip


def save_trained(scorer: Scorer, path: Path) -> None:
    """Writes every trained weight to one safetensors file."""
    weights = {name: p.detach().cpu() for name, p in scorer.model.named_parameters() if p.requires_grad}
    write_atomic(path, save_tensors({name: tensor.contiguous() for name, tensor in weights.items()}))


def load_trained(scorer: Scorer, path: Path) -> None:
    """Takes back what `save_trained` wrote; InvalidData where the weights are of another model."""
    stored = load_tensors(path.read_bytes())
    weights = {name: p for name, p in scorer.model.named_parameters() if p.requires_grad}
    wrong = {n for n in {*stored, *weights} if n not in stored or n not in weights}
    wrong |= {n for n in set(stored) - wrong if stored[n].shape != weights[n].shape}
    if wrong:
        raise InvalidData(
            "R305", "trained weights do not fit the reranker", where=str(path),
            why=f"differs: {', '.join(sorted(wrong)[:5])}", next_step="run the finetune stage again",
        )  # fmt: skip
    with torch.no_grad():
        for name, parameter in weights.items():
            parameter.copy_(stored[name])
