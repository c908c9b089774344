"""The lists a reranker learns from, is validated on and reorders, from what earlier stages wrote."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from catalograph.extraction import captions, feature_tables
from catalograph.retrieval import folds_of, source_names
from catalograph.road import Road
from extract.errors import InvalidData
from extract.features import FeatureTable
from recsys.candidates import Candidates
from recsys.interactions import Interactions
from rerank.gate import moment, set_aside
from rerank.guard import Words, words_of
from rerank.inputs import ItemVectors, item_vectors, list_inputs
from rerank.lists import RankingList, ranking_lists, shown_histories
from rerank.settings import RerankConfig
from rerank.teacher import read_orders, taught

logger = logging.getLogger(__name__)

Part = tuple[Candidates, list[RankingList]]
"""Candidates, and the same as lists."""


def settings_of(road: Road) -> RerankConfig:
    """The reranker's settings of a run that has one."""
    settings = road.config.rerank
    if settings is None:
        raise ValueError("this run has no reranker")
    return settings


def item_texts(road: Road) -> dict[str, str]:
    """What the language model reads of each item."""
    written, words = captions(road), item_words(road)
    return {item.item_id: words(item, written.get(item.item_id)) for item in road.catalog}


def item_words(road: Road) -> Words:
    """How the language model's words are made of an item and a caption."""
    settings = settings_of(road)
    return words_of(settings.guard, settings.item, list(road.catalog), captions(road))


def training_lists(road: Road) -> tuple[list[RankingList], int]:
    """Out-of-fold lists that hold a truth, at most `max_lists`, and how many were made.

    Lists that a teacher ordered learn from its order; InvalidData R307 where it ordered none.
    """
    lists: list[RankingList] = []
    reference = _reference(road)
    for number, fold in enumerate(folds_of(road)):
        candidates = Candidates.from_parquet(road.path("recommend", f"fold-{number}.parquet"))
        lists += _lists(road, candidates, fold.train, fold.held_out, reference)
    if (path := teacher_path(road)) is not None:
        lists = _taught(lists, path)
    useful = [entry for entry in lists if entry.relevance.any()]
    limit = settings_of(road).finetune.max_lists
    if limit is not None and len(useful) > limit:
        chosen = np.random.default_rng(road.config.seed).choice(len(useful), limit, replace=False)
        useful = [useful[i] for i in np.sort(chosen)]
    logger.info("%d out-of-fold lists, %d with a truth are used", len(lists), len(useful))
    return useful, len(lists)


def teacher_path(road: Road) -> Path | None:
    """The file of a teacher's orders."""
    name = settings_of(road).finetune.teacher
    return None if name is None else road.config.data.under_root(name)


def _taught(lists: list[RankingList], path: Path) -> list[RankingList]:
    found = taught(lists, read_orders(path))
    changed = sum(new is not old for new, old in zip(found, lists, strict=True))
    if not changed:
        raise InvalidData(
            "R307", "the teacher ordered no training list", where=str(path),
            next_step="order the lists in 50-recommend/fold-*.parquet, by their user_id and item_id",
        )  # fmt: skip
    logger.info("a teacher's order is the label of %d of %d lists", changed, len(lists))
    return found


def validation_lists(road: Road) -> tuple[Part, Part]:
    """Lists of validation users that hold a truth: at most `validation_lists` to fit and choose on, and those
    of other users on which the gate decides (none without a gate).

    Under a split by time the gate's are those whose truths begin later, and no truth of their time is in the
    others.
    """
    settings, seed, valid = settings_of(road), road.config.seed, road.part("valid")
    candidates = Candidates.from_parquet(road.path("recommend", "valid.parquet"))
    reference = _reference(road)
    lists = _lists(road, candidates, road.part("train"), valid, reference)
    useful = np.flatnonzero([entry.relevance.any() for entry in lists])
    limit = settings.finetune.validation_lists
    if settings.gate is None:
        if len(useful) > limit:
            useful = np.sort(np.random.default_rng(seed).choice(useful, limit, replace=False))
        return _part(candidates, lists, useful), _part(candidates, lists, useful[:0])
    first = None
    if road.config.data.split.method == "global_time":
        first = first_times(valid)[valid.user_rows_of(candidates.user_ids[useful])]
    chosen, left = set_aside(useful, limit, seed, first)
    left = _drawn(left, settings.gate.lists, seed)
    judged = _part(candidates, lists, left)
    if first is not None and not len(left):
        logger.warning(
            "validation has too few moments to set later lists aside: the gate keeps the retrieved order"
        )
    if first is None or valid.timestamps is None or not len(left):
        return _part(candidates, lists, chosen), judged
    earlier = valid.take(valid.timestamps < moment(first))
    own, past = _part(candidates, lists, chosen)[0], road.part("train")
    fitted = _lists(road, own, past, earlier, reference)
    kept = np.flatnonzero([entry.relevance.any() for entry in fitted])
    return _part(own, fitted, kept), judged


def first_times(part: Interactions) -> NDArray[np.int64]:
    """When each user of the axis [U] first chose; the largest number for one who did not."""
    found = np.full(part.n_users, np.iinfo(np.int64).max)
    if part.timestamps is not None:
        np.minimum.at(found, part.user_rows, part.timestamps)
    return found


def _part(candidates: Candidates, lists: Sequence[RankingList], rows: NDArray[np.int64]) -> Part:
    return candidates.take(rows), [lists[row] for row in rows]


def _drawn(rows: NDArray[np.int64], limit: int, seed: int) -> NDArray[np.int64]:
    draw = np.random.default_rng([seed, 1])
    return np.sort(draw.choice(rows, limit, replace=False)) if len(rows) > limit else rows


def final_lists(road: Road) -> tuple[Candidates, list[RankingList]]:
    """The candidates of all users, and their lists."""
    candidates = Candidates.from_parquet(road.path("recommend", "test.parquet"))
    return candidates, _lists(road, candidates, road.known, None, _reference(road))


def lists_with(road: Road, candidates: Candidates, tables: Mapping[str, FeatureTable]) -> list[RankingList]:
    """Validation lists made again with other feature vectors."""
    return _lists(road, candidates, road.part("train"), road.part("valid"), _reference(road), tables)


def needs_inputs(settings: RerankConfig) -> bool:
    """Whether anything reads more of a list than words."""
    return settings.form != "text" or settings.lambdamart is not None


def _lists(
    road: Road, candidates: Candidates, known: Interactions, truth: Interactions | None,
    reference: ItemVectors | None, tables: Mapping[str, FeatureTable] | None = None,
) -> list[RankingList]:  # fmt: skip
    settings, seed = settings_of(road), road.config.seed
    users = [str(user) for user in candidates.user_ids]
    histories = shown_histories(known, users, length=settings.history, seed=seed)
    if reference is None:
        return ranking_lists(candidates, histories, truth, seed=seed, ordered=known.ordered)
    tables = feature_tables(road) if tables is None else tables
    features = {name: tables[name] for name in settings.token.features}
    vectors = item_vectors(known, features, width=settings.token.choices, reference=reference)
    inputs = list_inputs(candidates, known, vectors, source_names(road.config))
    return ranking_lists(
        candidates, histories, truth, seed=seed, inputs=inputs, vectors=vectors, ordered=known.ordered
    )


def _reference(road: Road) -> ItemVectors | None:
    """Whose basis the vectors made from choices share; None where nothing reads more than words."""
    settings = settings_of(road)
    if not needs_inputs(settings):
        return None
    return item_vectors(road.part("train"), {}, width=settings.token.choices)
