"""Reorders candidates with a listwise scorer: Candidates in, Candidates out, the same items."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from extract.embed import token_batches
from recsys.candidates import Candidates
from rerank.lists import RankingList
from rerank.prompts import EncodedList
from rerank.scorer import ListwiseScorer

Progress = Callable[[int], None]


class ItemTokens:
    """The tokens of each item's text, made once."""

    def __init__(self, scorer: ListwiseScorer, texts: Mapping[str, str]) -> None:
        self._encoder, self._texts = scorer.encoder, texts
        self._tokens: dict[str, list[int]] = {}

    def __getitem__(self, item_id: str) -> list[int]:
        if item_id not in self._tokens:
            self._tokens[item_id] = self._encoder.item(self._texts.get(item_id, ""))
        return self._tokens[item_id]

    def encode(self, entry: RankingList) -> EncodedList:
        """The prompt of one list."""
        return self._encoder.encode([self[i] for i in entry.history], [self[i] for i in entry.candidates])


def score_lists(
    scorer: ListwiseScorer, lists: Sequence[RankingList], texts: Mapping[str, str], *,
    token_budget: int = 8192, progress: Progress | None = None,
) -> list[NDArray[np.float32]]:  # fmt: skip
    """Each list's scores [K] in the order its candidates arrived, not the order they were shown.

    Args:
        texts: item id to the text the model reads; a missing one is shown empty.
        progress: told how many lists are done.
    """
    tokens = ItemTokens(scorer, texts)
    encoded = [tokens.encode(entry) for entry in lists]
    scores: list[NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(lists)
    done = 0
    for batch in token_batches([len(item.tokens) for item in encoded], token_budget):
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
    scorer: ListwiseScorer, candidates: Candidates, lists: Sequence[RankingList], texts: Mapping[str, str], *,
    name: str = "reranker", token_budget: int = 8192, progress: Progress | None = None,
) -> Candidates:  # fmt: skip
    """The candidates in the order of the model's scores, which are kept under `name`.

    Always a permutation of what came in, whatever the model returns: a score that is not finite goes last,
    ties keep the incoming order.
    """
    table = np.full(candidates.items.shape, -np.inf, np.float32)
    for row, scores in enumerate(
        score_lists(scorer, lists, texts, token_budget=token_budget, progress=progress)
    ):
        table[row, : len(scores)] = np.where(np.isfinite(scores), scores, np.finfo(np.float32).min)
    order = np.argsort(-table, axis=1, kind="stable")
    return candidates.reordered(order, name, table)
