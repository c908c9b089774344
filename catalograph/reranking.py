"""The reranking stages: fine-tune on out-of-fold lists, fit fusion on validation, reorder the test lists."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from catalograph.extraction import captions
from catalograph.filling import model_folder
from catalograph.retrieval import folds_of, source_names
from catalograph.road import Counts, Road
from extract.models import find_model
from extract.prompts import render_text
from extract.store import write_atomic
from recsys.candidates import Candidates
from recsys.interactions import Interactions
from rerank.fusion import Fusion, fit_fusion, fused
from rerank.lists import RankingList, ranking_lists, shown_histories
from rerank.prompts import LAYOUTS
from rerank.settings import RerankConfig

if TYPE_CHECKING:
    from rerank.scorer import ListwiseScorer

logger = logging.getLogger(__name__)

FUSIONS = ("fused_without_llm", "reranked")


def finetune_parts(road: Road) -> dict[str, Any]:
    """What the adapter and the fusion weights are made from."""
    settings = _settings(road)
    return {
        "recommend": road.hash_of("recommend"),
        "caption": road.hash_of("caption") if "{caption}" in settings.item else None,
        "rerank": settings.model_dump(mode="json"),
        "layout": asdict(LAYOUTS[settings.prompt]),
        "model": find_model(model_folder(settings.model), settings.revision).identity,
        "catalog": road.catalog_parts(),
        "seed": road.config.seed,
    }


def rerank_parts(road: Road) -> dict[str, Any]:
    """What the reordered lists are made from."""
    return {"finetune": road.hash_of("finetune"), "recommend": road.hash_of("recommend")}


def finetune(road: Road) -> Counts:
    """Writes `adapter/`, `fusion.json` and `history.json`."""
    from rerank.scorer import with_lora
    from rerank.train import fine_tune

    road.use_threads()
    settings, seed = _settings(road), road.config.seed
    texts = item_texts(road)
    lists, made = _training_lists(road)
    valid_candidates, valid = _validation_lists(road)
    scorer = with_lora(_load(road), settings.finetune.lora, seed=seed)
    before = _validation_scores(scorer, valid, texts)
    with road.progress.task("finetune", None) as task:
        history = fine_tune(
            scorer, lists, valid, texts, settings.finetune, seed=seed,
            checkpoints=road.path("finetune", "checkpoints/none").parent,
            progress=lambda step, total, losses: task.reach(step, total),
        )  # fmt: skip
    _save_adapter(scorer, road.path("finetune", "adapter/none").parent, settings.model)
    after = _validation_scores(scorer, valid, texts)
    fusions = _fit_fusions(road, valid_candidates, valid, after)
    shutil.rmtree(road.path("finetune", "checkpoints/none").parent, ignore_errors=True)
    record = {
        "lists": {"made": made, "with_truth": len(lists), "validation": len(valid)},
        "pair_accuracy": {"before": _pair_accuracy(valid, before), "after": _pair_accuracy(valid, after)},
        "steps": history.steps,
        "evaluations": history.evaluations,
    }
    write_atomic(road.path("finetune", "history.json"), json.dumps(record).encode())
    write_atomic(road.path("finetune", "fusion.json"), json.dumps(fusions, indent=1).encode())
    return Counts(len(lists), len(lists), outputs=("adapter", "fusion.json", "history.json"))


def rerank(road: Road) -> Counts:
    """Writes the test lists in three orders: language model alone, fusion with it, fusion without it."""
    from rerank.inference import reorder

    road.use_threads()
    candidates = Candidates.from_parquet(road.path("recommend", "test.parquet"))
    lists = _lists(road, candidates, road.known, None)
    scorer = _load(road, adapter=road.path("finetune", "adapter"))
    with road.progress.task("rerank", len(lists)) as task:
        llm = reorder(scorer, candidates, lists, item_texts(road), progress=task.reach)
    fusions = read_fusions(road)
    orders = {
        "llm_only": llm,
        "reranked": fused(llm, fusions["reranked"], "fused"),
        "fused_without_llm": fused(candidates, fusions["fused_without_llm"], "fused"),
    }
    for name, ordered in orders.items():
        ordered.to_parquet(road.path("rerank", f"{name}.parquet"))
    orders["reranked"].to_trec(road.path("rerank", "reranked.trec"), "catalograph")
    return Counts(len(lists), len(lists), outputs=(*(f"{name}.parquet" for name in orders), "reranked.trec"))


def item_texts(road: Road) -> dict[str, str]:
    """What the language model reads of each item."""
    written = captions(road)
    template = _settings(road).item
    return {item.item_id: render_text(template, item, written.get(item.item_id)) for item in road.catalog}


def read_fusions(road: Road) -> dict[str, Fusion]:
    """The fitted weights."""
    stored = json.loads(road.path("finetune", "fusion.json").read_text())
    return {name: Fusion(tuple(row), np.array(list(row.values()))) for name, row in stored.items()}


def _settings(road: Road) -> RerankConfig:
    settings = road.config.rerank
    if settings is None:
        raise ValueError("this run has no reranker")
    return settings


def _load(road: Road, adapter: Path | None = None) -> ListwiseScorer:
    from extract.transformers_captioner import pick_device
    from rerank.scorer import load_scorer

    settings = _settings(road)
    files = find_model(model_folder(settings.model), settings.revision)
    resolved = settings.model_copy(update={"model": str(files.folder), "revision": None})
    scorer = load_scorer(resolved, max_candidates=road.config.candidates.k, adapter=adapter)
    scorer.model.to(pick_device(road.config.device))
    return scorer


def _save_adapter(scorer: ListwiseScorer, folder: Path, model: str) -> None:
    """Writes what peft writes, without what differs between equal runs: a set's order, our own path."""
    for config in scorer.model.peft_config.values():
        config.target_modules = sorted(config.target_modules)
        config.base_model_name_or_path = model
    # No embedding is trained; left to itself, peft would ask the model hub whether the vocabulary has grown.
    scorer.model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    # An empty model card that repeats the path.
    (folder / "README.md").unlink(missing_ok=True)


def _lists(
    road: Road, candidates: Candidates, known: Interactions, truth: Interactions | None
) -> list[RankingList]:
    histories = shown_histories(
        known,
        [str(user) for user in candidates.user_ids],
        length=_settings(road).history,
        seed=road.config.seed,
    )
    return ranking_lists(candidates, histories, truth, seed=road.config.seed)


def _training_lists(road: Road) -> tuple[list[RankingList], int]:
    """Out-of-fold lists that hold a truth, at most `max_lists`, and how many were made."""
    lists: list[RankingList] = []
    for number, fold in enumerate(folds_of(road)):
        candidates = Candidates.from_parquet(road.path("recommend", f"fold-{number}.parquet"))
        lists += _lists(road, candidates, fold.train, fold.held_out)
    useful = [entry for entry in lists if entry.relevance.any()]
    limit = _settings(road).finetune.max_lists
    if limit is not None and len(useful) > limit:
        chosen = np.random.default_rng(road.config.seed).choice(len(useful), limit, replace=False)
        useful = [useful[i] for i in np.sort(chosen)]
    logger.info("%d out-of-fold lists, %d with a truth are used", len(lists), len(useful))
    return useful, len(lists)


def _validation_lists(road: Road) -> tuple[Candidates, list[RankingList]]:
    candidates = Candidates.from_parquet(road.path("recommend", "valid.parquet"))
    lists = _lists(road, candidates, road.part("train"), road.part("valid"))
    useful = np.flatnonzero([entry.relevance.any() for entry in lists])
    limit = _settings(road).finetune.validation_lists
    if len(useful) > limit:
        useful = np.sort(np.random.default_rng(road.config.seed).choice(useful, limit, replace=False))
    return candidates.take(useful), [lists[row] for row in useful]


def _validation_scores(
    scorer: ListwiseScorer, valid: list[RankingList], texts: Mapping[str, str]
) -> list[NDArray[np.float32]]:
    from rerank.inference import score_lists

    return score_lists(scorer, valid, texts)


def _fit_fusions(
    road: Road, candidates: Candidates, valid: list[RankingList], scores: list[NDArray[np.float32]]
) -> dict[str, dict[str, float]]:
    if not valid:
        logger.warning("no validation list holds a truth: the fusions keep the first source's order")
    relevance = np.zeros(candidates.items.shape, np.float32)
    table = np.full(candidates.items.shape, np.nan, np.float32)
    for row, (entry, own) in enumerate(zip(valid, scores, strict=True)):
        relevance[row, entry.places] = entry.relevance
        table[row, : len(own)] = own
    order = np.argsort(-np.nan_to_num(table, nan=-np.inf), axis=1, kind="stable")
    with_llm = candidates.reordered(order, "reranker", table)
    sources = source_names(road.config)
    fitted = {
        "fused_without_llm": fit_fusion(candidates, relevance, sources),
        "reranked": fit_fusion(
            with_llm, np.take_along_axis(relevance, order, axis=1), [*sources, "reranker"]
        ),
    }
    return {name: dict(zip(f.names, map(float, f.weights), strict=True)) for name, f in fitted.items()}


def _pair_accuracy(valid: list[RankingList], scores: list[NDArray[np.float32]]) -> float:
    """Share of (truth, other) pairs in the right order: what preference training is known to move little."""
    right = total = 0
    for entry, own in zip(valid, scores, strict=True):
        relevance = np.empty_like(entry.relevance)
        relevance[entry.places] = entry.relevance
        good, other = own[relevance > 0], own[relevance == 0]
        right += int((good[:, None] > other[None, :]).sum())
        total += len(good) * len(other)
    return right / total if total else 0.0
