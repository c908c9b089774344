"""Reorders candidates with a listwise scorer: Candidates in, Candidates out, the same items."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from extract.embed import token_batches
from recsys.candidates import Candidates
from rerank.lists import RankingList

Progress = Callable[[int], None]


class Scorer(Protocol):
    """What ranks lists: `ListwiseScorer` by words, `TokenScorer` by vectors."""

    model: Any

    @property
    def device(self) -> Any:
        """Where the model is."""
        ...

    def words(self, text: str) -> list[int]:
        """Tokens of one item's text."""
        ...

    def prompt(self, entry: RankingList, words: Mapping[str, list[int]], answer: int = 0) -> Any:
        """One list as the model reads it, of a length in tokens; with an answer to learn from."""
        ...

    def learn(self, prompts: Sequence[Any]) -> tuple[Any, Any, Any]:
        """Scores [B, K] and mask [B, K] with gradients, and a language-model loss."""
        ...

    def score(self, prompts: Sequence[Any], *, token_budget: int = 8192) -> list[NDArray[np.float32]]:
        """Each list's scores [K] in the order shown."""
        ...


class ItemWords(dict[str, list[int]]):
    """The tokens of each item's text, made once; an item without text has none."""

    def __init__(self, scorer: Scorer, texts: Mapping[str, str]) -> None:
        super().__init__()
        self._words, self._texts = scorer.words, texts

    def __missing__(self, item_id: str) -> list[int]:
        self[item_id] = self._words(self._texts.get(item_id, ""))
        return self[item_id]


def score_lists(
    scorer: Scorer, lists: Sequence[RankingList], texts: Mapping[str, str], *,
    token_budget: int = 8192, progress: Progress | None = None,
) -> list[NDArray[np.float32]]:  # fmt: skip
    """Each list's scores [K] in the order its candidates arrived, not the order they were shown.

    Args:
        texts: item id to the text the model reads; a missing one is shown empty.
        progress: told how many lists are done.
    """
    words = ItemWords(scorer, texts)
    encoded = [scorer.prompt(entry, words) for entry in lists]
    scores: list[NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(lists)
    done = 0
    for batch in token_batches([len(prompt) for prompt in encoded], token_budget):
        found = scorer.score([encoded[i] for i in batch], token_budget=token_budget)
        for place, shown in zip(batch, found, strict=True):
            arrived = np.empty_like(shown)
            arrived[lists[place].places] = shown
            scores[place] = arrived
        done += len(batch)
        if progress is not None:
            progress(done)
    return scores


def reorder(
    scorer: Scorer, candidates: Candidates, lists: Sequence[RankingList], texts: Mapping[str, str], *,
    name: str = "reranker", token_budget: int = 8192, progress: Progress | None = None,
) -> Candidates:  # fmt: skip
    """The candidates in the order of the model's scores, which are kept under `name`.

    Always a permutation of what came in, whatever the model returns: a score that is not finite goes last,
    ties keep the incoming order.
    """
    found = score_lists(scorer, lists, texts, token_budget=token_budget, progress=progress)
    return ordered_by(candidates, found, name)


def ordered_by(candidates: Candidates, found: Sequence[NDArray[np.float32]], name: str) -> Candidates:
    """The candidates by scores [K] of each list in arriving order; ties keep the incoming order."""
    table = np.full(candidates.items.shape, -np.inf, np.float32)
    for row, scores in enumerate(found):
        table[row, : len(scores)] = np.where(np.isfinite(scores), scores, np.finfo(np.float32).min)
    order = np.argsort(-table, axis=1, kind="stable")
    return candidates.reordered(order, name, table)
