"""Which lists share a forward pass: packs up to a budget of tokens, and beginnings that are read once."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from rerank.packed_attention import Beginning
from rerank.packing import PackedDecoder
from rerank.prompts import EncodedList

logger = logging.getLogger(__name__)

LEAST_SHARED = 16
"""Tokens a beginning must have to be read once; a shorter one costs more calls than it saves."""

Key = tuple[int, ...]


class Passes:
    """Last states of prompts by the passes of a packed decoder."""

    def __init__(self, decoder: PackedDecoder) -> None:
        self._decoder = decoder
        self._kept: dict[Key, Beginning] | None = None

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Inside the block, beginnings that were read stay for further calls with the same people."""
        self._kept = {}
        try:
            yield
        finally:
            self._kept = None

    def last_states(self, prompts: Sequence[EncodedList], token_budget: int) -> Tensor:
        """The last token's state [B, D] of each prompt, in passes of about `token_budget` tokens."""
        keys = [tuple(prompt.tokens[: prompt.shared]) for prompt in prompts]
        times = Counter(key for key in keys if len(key) >= LEAST_SHARED)
        kept = {} if self._kept is None else self._kept
        shared = {key for key, number in times.items() if number > 1 or self._kept is not None}
        states: list[Tensor | None] = [None] * len(prompts)
        for part in _parts(prompts, keys, shared, token_budget):
            self._read(sorted({keys[i] for i in part} & shared - set(kept)), kept, token_budget)
            own = {i: prompts[i].tokens[len(keys[i]) if keys[i] in kept else 0 :] for i in part}
            for batch in packs([len(own[i]) for i in part], token_budget):
                rows = [part[place] for place in batch]
                found = self._decoder.last_states([own[i] for i in rows], [kept.get(keys[i]) for i in rows])
                for i, state in zip(rows, found, strict=True):
                    states[i] = state
            if self._kept is None:
                kept.clear()
        return torch.stack([state for state in states if state is not None])

    def _read(self, keys: Sequence[Key], kept: dict[Key, Beginning], token_budget: int) -> None:
        for batch in packs(list(map(len, keys)), token_budget):
            found = self._decoder.beginnings([keys[i] for i in batch], [None] * len(batch))
            kept.update(zip((keys[i] for i in batch), found, strict=True))


def _parts(
    prompts: Sequence[EncodedList], keys: Sequence[Key], shared: set[Key], token_budget: int
) -> Iterator[list[int]]:
    """Prompts in parts whose shared beginnings fit into memory together: four passes' worth of tokens."""
    part: list[int] = []
    held: set[Key] = set()
    order = sorted(
        range(len(prompts)), key=lambda i: (keys[i] not in shared, keys[i] if keys[i] in shared else ())
    )
    for i in order:
        fresh = keys[i] in shared and keys[i] not in held
        if fresh and held and sum(map(len, held)) + len(keys[i]) > 4 * token_budget:
            yield part
            part, held = [], set()
        if fresh:
            held.add(keys[i])
        part.append(i)
    if part:
        yield part


def packs(lengths: Sequence[int], token_budget: int) -> Iterator[list[int]]:
    """Rows of these lengths in packs of at most `token_budget` tokens, longest first; a longer is alone."""
    pack: list[int] = []
    size = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if pack and size + lengths[row] > token_budget:
            yield pack
            pack, size = [], 0
        pack.append(row)
        size += lengths[row]
    if pack:
        yield pack
