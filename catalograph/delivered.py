"""The test lists of a finished run for the report: as retrieved, as delivered, and the truths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catalograph.evaluation import DELIVERED, reranked_names
from catalograph.reranking import read_fusions
from catalograph.road import Road
from recsys.candidates import Candidates
from rerank.fusion import Fusion, fusion_inputs
from rerank.lists import truths_of


@dataclass(frozen=True)
class Delivered:
    """Lists of the same users, in the same order of rows, before and after reranking."""

    before: Candidates
    after: Candidates
    """The same object as ``before`` where there is no reranker."""
    name: str
    """What the evaluation calls the list ``after``."""
    truths: Mapping[str, frozenset[str]]
    """By user, what was held out."""
    fusion: Fusion | None = None
    """The weights behind ``fused``; None where there is no reranker."""
    fused: Candidates | None = None
    """The lists that the fusion ordered: those delivered, or those the gate chose from."""

    @property
    def reranked(self) -> bool:
        """Whether the delivered lists may differ from the retrieved ones."""
        return self.after is not self.before

    def pulls(self, rows: Sequence[int]) -> list[Mapping[str, NDArray[np.float64]]]:
        """For each asked row, by source what it adds to the fused score of every delivered place [K].

        The fusion is linear, so the sources' parts sum to the fused score. Empty for a row whose delivered
        order is not the fusion's: the gate chose another, or `max_move` held items back.
        """
        if self.fusion is None or self.fused is None:
            return [{} for _ in rows]
        inputs, _ = fusion_inputs(self.fused.take(np.asarray(rows, dtype=np.int64)), self.fusion.names)
        parts = inputs * self.fusion.weights
        sources = [name.partition(":")[2] for name in self.fusion.names]
        return [
            _summed(sources, own) if self._is_fused_order(row, own.sum(axis=1)) else {}
            for row, own in zip(rows, parts, strict=True)
        ]

    def _is_fused_order(self, row: int, scores: NDArray[np.float64]) -> bool:
        """Whether the delivered places [K] of a row are those that its fused scores [K] give."""
        assert self.fused is not None
        items = self.fused.items[row]
        falling = np.diff(scores[items != ""]) <= 1e-6 * np.abs(scores).max(initial=1.0)
        return bool(np.array_equal(items, self.after.items[row]) and falling.all())


def read_delivered(road: Road) -> Delivered:
    """The lists of the stages recommend and rerank, which must be done."""
    before = Candidates.from_parquet(road.path("recommend", "test.parquet"))
    truths = truths_of(road.part("test"))
    if road.config.rerank is None:
        return Delivered(before, before, "retrieved", truths)
    made = reranked_names(road.config.rerank)
    name = next(listed for listed in DELIVERED if listed in made)
    fused = Candidates.from_parquet(road.path("rerank", "reranked.parquet"))
    after = fused if name == "reranked" else Candidates.from_parquet(road.path("rerank", f"{name}.parquet"))
    return Delivered(before, after, name, truths, read_fusions(road)["reranked"], fused)


def _summed(sources: Iterable[str], parts: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Columns [K, S] summed by source: its score and its rank are two inputs of one fusion."""
    found: dict[str, NDArray[np.float64]] = {}
    for source, column in zip(sources, parts.T, strict=True):
        found[source] = found.get(source, 0.0) + column
    return found
