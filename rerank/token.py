"""Items as soft tokens: one vector per item in place of its words, and scores at the candidates' own places.

After the idea of PE-Rank (Liu et al. 2024) and of scoring at each document's own position: any decoder reads
the history and the candidates as one embedding each, a projection of what the feature store and the
retrievers know of them; `hybrid` lets the words follow. A candidate's score is read where its item ends, so
there are no identifiers and no limit on K. Left out: PE-Rank's alignment stage and its constrained decoding.
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
from rerank.inputs import ItemVectors
from rerank.lists import RankingList
from rerank.prompts import item_words
from rerank.scorer import adapted, causal_model, load_model
from rerank.settings import RerankConfig, TokenConfig

SOFT = -1
"""Stands in a prompt's tokens where a soft token goes."""

FUSION = 64
"""Width of the layers that fuse a candidate's numbers."""


@dataclass(frozen=True, slots=True)
class SoftPrompt:
    """One list as the decoder reads it.

    Attributes:
        tokens: [L] token ids, SOFT where an item's vector goes.
        positions: [L] what the decoder is told of places.
        entry: the list itself.
        ends: [K] where each shown candidate ends.
    """

    tokens: NDArray[np.int64]
    positions: NDArray[np.int64]
    entry: RankingList
    ends: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.tokens)


def soft_prompt(entry: RankingList, words: Sequence[Sequence[int]]) -> SoftPrompt:
    """History and candidates one after the other, each a soft token and then its words.

    A history in order is numbered by choice, oldest first; one without order shares place 0. All candidates
    share the place behind it: their order was drawn by lot.

    Args:
        words: token ids of the H + K items, empty for soft tokens alone.
    """
    history, count = len(entry.history), len(entry.history) + len(entry.candidates)
    lengths = np.array([1 + len(own) for own in words], np.int64).reshape(count)
    starts = np.cumsum(lengths) - lengths
    tokens = np.full(int(lengths.sum()), SOFT, np.int64)
    places = np.full(count, history if entry.ordered else 1, np.int64)
    places[:history] = np.arange(history) if entry.ordered else 0
    for start, own in zip(starts, words, strict=True):
        tokens[start + 1 : start + 1 + len(own)] = own
    positions = np.repeat(places - starts, lengths) + np.arange(len(tokens))
    return SoftPrompt(tokens, positions, entry, (starts + lengths - 1)[history:])


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
        self.item = nn.Linear(width, size)
        self.known = nn.Sequential(nn.Linear(inputs, size), nn.GELU(), nn.Linear(size, size))
        self.kind = nn.Parameter(0.02 * torch.randn(2, size))
        # A fusion of the inputs at first, as the head is silent; the decoder learns what that misses.
        self.head = nn.Linear(size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.fusion = nn.Sequential(
            nn.Linear(inputs, FUSION), nn.GELU(), nn.Linear(FUSION, FUSION), nn.GELU(), nn.Linear(FUSION, 1)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: SoftBatch) -> Tensor:
        """Scores [B, K] of the shown candidates; padded places hold numbers that mean nothing."""
        embedded = self.item(batch.vectors)[batch.items] + self.kind[batch.kinds]
        where = batch.starts[:, :, None].expand(-1, -1, embedded.shape[2])
        embedded = embedded.scatter_add(1, where, self.known(batch.inputs) * batch.mask[:, :, None])
        embedded = self.dropout(embedded)
        base = causal_model(self.decoder)
        if (words := batch.tokens >= 0).any():
            text = base.get_input_embeddings()(batch.tokens.clamp(min=0))
            embedded = torch.where(words[:, :, None], text.to(embedded.dtype), embedded)
        states = base.get_decoder()(
            inputs_embeds=embedded.to(base.dtype), attention_mask=batch.real.long(),
            position_ids=batch.positions, use_cache=False,
        ).last_hidden_state  # fmt: skip
        rows = torch.arange(len(states), device=states.device)[:, None]
        own = self.dropout(states[rows, batch.ends].float())
        scores: Tensor = (self.head(own) + self.fusion(batch.inputs)).squeeze(-1)
        return scores


@dataclass(frozen=True, slots=True)
class SoftBatch:
    """B prompts of at most L places and K candidates, padded on the right.

    Attributes:
        tokens: [B, L] token ids, SOFT at soft tokens and padding.
        real: [B, L] True where a prompt has a place.
        positions: [B, L].
        vectors: [N, D] of the items that occur, the last one of an unknown item.
        items: [B, L] row in `vectors` at soft tokens.
        kinds: [B, L] 0 in the history, 1 among the candidates.
        inputs: [B, K, S].
        mask: [B, K] True for a real candidate.
        starts: [B, K] where its soft token stands.
        ends: [B, K] where its last token stands.
    """

    tokens: Tensor
    real: Tensor
    positions: Tensor
    vectors: Tensor
    items: Tensor
    kinds: Tensor
    inputs: Tensor
    mask: Tensor
    starts: Tensor
    ends: Tensor


def collate(prompts: Sequence[SoftPrompt], device: torch.device) -> SoftBatch:
    """One batch; each item's vector is projected once however often it occurs."""
    length, width = max(map(len, prompts)), max(len(p.ends) for p in prompts)
    inputs = np.zeros((len(prompts), width, _known(prompts[0].entry)[0].shape[1]), np.float32)
    grids = {
        name: np.full((len(prompts), length), empty, np.int64)
        for name, empty in (("tokens", SOFT), ("real", 0), ("positions", 0), ("items", -1), ("kinds", 0))
    }
    ends, starts, mask = (np.zeros((len(prompts), width), np.int64) for _ in range(3))
    matrices: list[NDArray[np.float32]] = []
    used: dict[int, dict[int, int]] = {}
    total = 0
    for row, prompt in enumerate(prompts):
        own, vectors = _known(prompt.entry)
        size, count, history = len(prompt), len(prompt.ends), len(prompt.entry.history)
        soft = np.flatnonzero(prompt.tokens == SOFT)
        grids["tokens"][row, :size], grids["real"][row, :size] = prompt.tokens, 1
        grids["positions"][row, :size] = prompt.positions
        grids["kinds"][row, soft[history:]] = 1
        inputs[row, :count], mask[row, :count] = own, 1
        starts[row, :count], ends[row, :count] = soft[history:], prompt.ends
        known = used.setdefault(id(vectors), {})
        for place, item in zip(soft, vectors.rows([*prompt.entry.history, *prompt.entry.candidates])):
            if item >= 0:
                if item not in known:
                    known[int(item)] = total
                    matrices.append(vectors.matrix[item])
                    total += 1
                grids["items"][row, place] = known[int(item)]
    unknown = np.zeros_like(_known(prompts[0].entry)[1].matrix[:1])
    table = np.concatenate([np.stack(matrices), unknown]) if matrices else unknown
    grids["items"][grids["items"] < 0] = len(table) - 1
    tensors = {name: torch.from_numpy(grid).to(device) for name, grid in grids.items()}
    tensors["real"] = tensors["real"].bool()
    return SoftBatch(
        **tensors, vectors=torch.from_numpy(table).to(device), inputs=torch.from_numpy(inputs).to(device),
        mask=torch.from_numpy(mask).to(device).bool(), starts=torch.from_numpy(starts).to(device),
        ends=torch.from_numpy(ends).to(device),
    )  # fmt: skip


def _known(entry: RankingList) -> tuple[NDArray[np.float32], ItemVectors]:
    if entry.inputs is None or entry.vectors is None:
        raise InvalidData(
            "R304", f"the list of user {entry.user_id} has no inputs for a soft token",
            next_step="give inputs and vectors to ranking_lists",
        )  # fmt: skip
    return entry.inputs, entry.vectors


class TokenScorer:
    """A `TokenReranker` behind the same calls as `ListwiseScorer`.

    Args:
        tokenizer: for `hybrid`, whose items' words follow their soft token; None for soft tokens alone.
        item_tokens: an item's words are cut to this many tokens.
    """

    def __init__(self, model: TokenReranker, tokenizer: Any = None, item_tokens: int = 0) -> None:
        self.model, self._tokenizer, self._item_tokens = model, tokenizer, item_tokens

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.kind.device

    def words(self, text: str) -> list[int]:
        """Tokens of one item's text; none without a tokenizer."""
        return [] if self._tokenizer is None else item_words(self._tokenizer, text, self._item_tokens)

    def prompt(self, entry: RankingList, words: Mapping[str, list[int]], answer: int = 0) -> SoftPrompt:
        """The prompt of one list; a soft prompt has no answer to learn."""
        return soft_prompt(entry, [words[item] for item in (*entry.history, *entry.candidates)])

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
                scores[place] = row[: len(prompts[place].ends)].astype(np.float32)
        return scores


def build_token_scorer(config: RerankConfig, entry: RankingList, *, seed: int) -> TokenScorer:
    """A scorer for lists like `entry`: a fresh decoder, or the model of the configuration with an adapter.

    Args:
        entry: any list; its inputs and vectors say how wide the soft token's layers are.
    """
    inputs, vectors = _known(entry)
    torch.manual_seed(seed)
    tokenizer = None
    if config.model is None:
        decoder = _fresh_decoder(config.token)
    else:
        tokenizer, decoder = load_model(config)
        decoder = adapted(decoder, config.finetune.lora)
    model = TokenReranker(decoder, vectors.width, inputs.shape[1], config.token.dropout)
    return TokenScorer(model.eval(), tokenizer if config.form == "hybrid" else None, config.item_tokens)


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


def load_trained(scorer: TokenScorer, path: Path) -> None:
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
