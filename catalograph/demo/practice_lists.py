"""Lists to practise ranking on, from shops that no run ever sees; no retriever is needed to make them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catalograph.demo.shop import Shop
from rerank.prompts import EncodedList, PromptEncoder

ANSWERS = 3
"""Candidates that the answer names."""


@dataclass(frozen=True)
class Lesson:
    """What kind of lists to make."""

    candidates: int
    """K."""
    history: tuple[int, int]
    """The shortest and the longest history that is shown."""
    batch: int
    """Lists per step."""


@dataclass(frozen=True)
class Example:
    """One list.

    Attributes:
        prompt: its tokens.
        identifiers: K identifier tokens dealt to the candidates.
        history: H items as tokens, newest first.
        utility: [K] what each candidate was worth to the person at that moment, without the noise.
        answer: the answer's tokens, the candidates of highest utility.
    """

    prompt: EncodedList
    identifiers: list[int]
    history: list[list[int]]
    utility: NDArray[np.float32]
    answer: list[int]


def lists_of(
    shop: Shop, encoder: PromptEncoder, lesson: Lesson, rng: np.random.Generator
) -> Iterator[Example]:
    """One list per person, at the person's last choice. A letter means nothing by itself, so every list is
    dealt its own.
    """
    with_captions = rng.random() < 0.85
    texts = [
        encoder.item(
            f"{shop.title(row)}, {shop.trait_names(row).caption}" if with_captions else shop.title(row)
        )
        for row in range(len(shop.category))
    ]
    letters, (shortest, longest) = sorted(encoder.identifiers), lesson.history
    described = np.column_stack([shop.category, shop.traits + 100 * np.arange(1, 4)])
    starts = np.r_[0, np.flatnonzero(np.diff(shop.people)) + 1, len(shop.people)]
    for person, (begin, end) in enumerate(itertools.pairwise(starts)):
        before = shop.chosen[begin : end - 1]
        rows = _offered(described, before, lesson.candidates, rng)
        utility = shop.utility_of_last[person, rows]
        shown = before[-int(rng.integers(shortest, longest + 1)) :]
        encoder.identifiers = [letters[i] for i in rng.permutation(len(letters))]
        prompt = encoder.encode([texts[i] for i in shown], [texts[i] for i in rows])
        answer = encoder.answer(np.argsort(-utility)[:ANSWERS].tolist())
        identifiers = encoder.identifiers[: lesson.candidates]
        yield Example(prompt, identifiers, [texts[i] for i in shown[::-1]], utility, answer)


def _offered(
    described: NDArray[np.int64], before: NDArray[np.int64], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """`count` items in random order, as a retriever could offer them: one is made up for every list, which
    likes, to some degree, what is like the history.
    """
    pool = np.setdiff1d(rng.integers(len(described), size=300), before)
    alike = (described[pool][:, None, :] == described[before][None, :, :]).mean(axis=1)
    score = alike @ rng.uniform(0, 8, 4) * rng.random() + rng.gumbel(size=len(pool))
    return rng.permutation(pool[np.argsort(-score)[:count]])
