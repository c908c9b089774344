"""The lists a reranker learns from, is validated on and reorders, from what earlier stages wrote."""

from __future__ import annotations

import logging

import numpy as np

from catalograph.extraction import captions, feature_tables
from catalograph.retrieval import folds_of, source_names
from catalograph.road import Road
from extract.features import FeatureTable
from extract.prompts import render_text
from recsys.candidates import Candidates
from recsys.interactions import Interactions
from rerank.inputs import ItemVectors, item_vectors, list_inputs
from rerank.lists import RankingList, ranking_lists, shown_histories
from rerank.settings import RerankConfig

logger = logging.getLogger(__name__)


def settings_of(road: Road) -> RerankConfig:
    """The reranker's settings of a run that has one."""
    settings = road.config.rerank
    if settings is None:
        raise ValueError("this run has no reranker")
    return settings


def item_texts(road: Road) -> dict[str, str]:
    """What the language model reads of each item."""
    written = captions(road)
    template = settings_of(road).item
    return {item.item_id: render_text(template, item, written.get(item.item_id)) for item in road.catalog}


def training_lists(road: Road) -> tuple[list[RankingList], int]:
    """Out-of-fold lists that hold a truth, at most `max_lists`, and how many were made."""
    lists: list[RankingList] = []
    for number, fold in enumerate(folds_of(road)):
        candidates = Candidates.from_parquet(road.path("recommend", f"fold-{number}.parquet"))
        lists += _lists(road, candidates, fold.train, fold.held_out)
    useful = [entry for entry in lists if entry.relevance.any()]
    limit = settings_of(road).finetune.max_lists
    if limit is not None and len(useful) > limit:
        chosen = np.random.default_rng(road.config.seed).choice(len(useful), limit, replace=False)
        useful = [useful[i] for i in np.sort(chosen)]
    logger.info("%d out-of-fold lists, %d with a truth are used", len(lists), len(useful))
    return useful, len(lists)


def validation_lists(road: Road) -> tuple[Candidates, list[RankingList]]:
    """Lists of validation users that hold a truth, at most `validation_lists`."""
    candidates = Candidates.from_parquet(road.path("recommend", "valid.parquet"))
    lists = _lists(road, candidates, road.part("train"), road.part("valid"))
    useful = np.flatnonzero([entry.relevance.any() for entry in lists])
    limit = settings_of(road).finetune.validation_lists
    if len(useful) > limit:
        useful = np.sort(np.random.default_rng(road.config.seed).choice(useful, limit, replace=False))
    return candidates.take(useful), [lists[row] for row in useful]


def final_lists(road: Road) -> tuple[Candidates, list[RankingList]]:
    """The candidates of all users, and their lists."""
    candidates = Candidates.from_parquet(road.path("recommend", "test.parquet"))
    return candidates, _lists(road, candidates, road.known, None)


def needs_inputs(settings: RerankConfig) -> bool:
    """Whether anything reads more of a list than words."""
    return settings.form != "text" or settings.lambdamart is not None


def _lists(
    road: Road, candidates: Candidates, known: Interactions, truth: Interactions | None
) -> list[RankingList]:
    settings, seed = settings_of(road), road.config.seed
    users = [str(user) for user in candidates.user_ids]
    histories = shown_histories(known, users, length=settings.history, seed=seed)
    if not needs_inputs(settings):
        return ranking_lists(candidates, histories, truth, seed=seed, ordered=known.ordered)
    vectors = _vectors(road, known)
    inputs = list_inputs(candidates, known, vectors, source_names(road.config))
    return ranking_lists(
        candidates, histories, truth, seed=seed, inputs=inputs, vectors=vectors, ordered=known.ordered
    )


def _vectors(road: Road, known: Interactions) -> ItemVectors:
    token, tables = settings_of(road).token, feature_tables(road)
    features: dict[str, FeatureTable] = {name: tables[name] for name in token.features}
    return item_vectors(known, features, width=token.choices, reference=road.part("train"))
