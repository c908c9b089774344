"""Lists to practise ranking on, from shops that no run ever sees; no retriever is needed to make them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catalograph.demo.shop import Shop
from rerank.prompts import EncodedList, PromptEncoder


@dataclass(frozen=True, slots=True)
class Example:
    """One list: its prompt, the K identifier tokens dealt to it, the place of the truth, and the answer's
    tokens.
    """

    prompt: EncodedList
    identifiers: list[int]
    truth: int
    answer: list[int]


def lists_of(
    shop: Shop,
    encoder: PromptEncoder,
    candidates: int,
    history: int,
    hardness: float,
    rng: np.random.Generator,
) -> Iterator[Example]:
    """One list per person. A letter means nothing by itself, so every list is dealt its own."""
    with_captions = rng.random() < 0.85
    texts = [
        encoder.item(
            f"{shop.title(row)}, {shop.trait_names(row).caption}" if with_captions else shop.title(row)
        )
        for row in range(len(shop.category))
    ]
    letters = sorted(encoder.identifiers)
    described = np.column_stack([shop.category, shop.traits + 100 * np.arange(1, 4)])
    starts = np.r_[0, np.flatnonzero(np.diff(shop.people)) + 1, len(shop.people)]
    for begin, end in itertools.pairwise(starts):
        at = int(rng.integers(begin + 3, end))
        before, truth = shop.chosen[begin:at], shop.chosen[at]
        if rng.random() > 0.5 * hardness:
            truth = _twin(described, before[-1], rng)
        others = _plausible(described, before, truth, candidates - 1, hardness, rng)
        places = rng.permutation(candidates)
        rows = np.r_[truth, others][places]
        order = [int(np.flatnonzero(places == k)[0]) for k in range(min(3, candidates))]
        shown = before[-int(rng.integers(2, history + 1)) :]
        encoder.identifiers = [letters[i] for i in rng.permutation(len(letters))]
        prompt = encoder.encode([texts[i] for i in shown], [texts[i] for i in rows])
        yield Example(prompt, encoder.identifiers[:candidates], order[0], encoder.answer(order))


def _twin(described: NDArray[np.int64], row: int, rng: np.random.Generator) -> int:
    """An item that shares all but at most one trait with item `row`: the easiest thing there is to find in a
    list.
    """
    alike = (described == described[row]).sum(axis=1)
    alike[row] = 0
    best = np.flatnonzero(alike == alike.max())
    return int(rng.choice(best))


def _plausible(
    described: NDArray[np.int64],
    before: NDArray[np.int64],
    truth: int,
    count: int,
    hardness: float,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """`count` items that a retriever could offer beside the truth.

    A retriever is made up that likes what is like the history. Its order is cut to a window that the
    truth lies in, at random, so that likeness to the history as a whole says little and what was chosen
    last says much. At `hardness` 0 the order is random.
    """
    pool = np.append(np.setdiff1d(rng.integers(len(described), size=300), np.r_[before, truth]), truth)
    alike = (described[pool][:, None, :] == described[before][None, :, :]).mean(axis=1)
    score = hardness * alike @ rng.uniform(0, 8, 4) + rng.gumbel(size=len(pool)) * rng.uniform(0.5, 2)
    order = pool[np.argsort(-score)]
    at = int(np.flatnonzero(order == truth)[0])
    begin = int(np.clip(at - rng.integers(count + 1), 0, len(order) - count - 1))
    window = order[begin : begin + count + 1]
    others: NDArray[np.int64] = window[window != truth]
    return others
