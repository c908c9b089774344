"""The reranking stages: fine-tune on out-of-fold lists, fit fusion on validation, reorder the test lists."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalograph.gain_parts import FILE as PARTS
from catalograph.gain_parts import write_gain_parts
from catalograph.gating import FILE, gate_parts, gated_lists, groups_of, write_decisions
from catalograph.model_card import model_card
from catalograph.rerank_lists import (
    Part,
    final_lists,
    item_texts,
    needs_inputs,
    settings_of,
    teacher_path,
    training_lists,
    validation_lists,
)
from catalograph.rerank_parts import all_scores, blocks_of, fill_blocks
from catalograph.reranker_model import fresh_scorer, load_trained, model_identity, save_scorer
from catalograph.retrieval import source_names
from catalograph.road import Counts, Road
from extract.store import write_atomic
from recsys.candidates import Candidates
from rerank.diagnosis import arrived, by_slot, flips, score_pairs
from rerank.fusion import Fusion, fit_fusion, fused
from rerank.inference import OneByOne, Reader, held_within, ordered_by, rank_lists, reorder
from rerank.lambdamart import LambdaMart, fit_lambdamart
from rerank.lists import RankingList, in_one_window
from rerank.prompts import LAYOUTS

logger = logging.getLogger(__name__)


def finetune_parts(road: Road) -> dict[str, Any]:
    """What the adapter and the fusion weights are made from."""
    settings = settings_of(road)
    return {
        "recommend": road.hash_of("recommend"),
        "caption": road.hash_of("caption") if "{caption}" in settings.item else None,
        "embed": road.hash_of("embed") if needs_inputs(settings) and settings.token.features else None,
        # Without limits a run is the one that older versions made.
        "rerank": settings.model_dump(mode="json", exclude=None if settings.guard else {"guard"}),
        "layout": asdict(LAYOUTS[settings.prompt]),
        "model": model_identity(settings),
        "catalog": road.catalog_parts(),
        "teacher": None if (teacher := teacher_path(road)) is None else road.run.input_hash(teacher),
        "seed": road.config.seed,
        **gate_parts(road),
    }


def rerank_parts(road: Road) -> dict[str, Any]:
    """What the reordered lists are made from."""
    return {"finetune": road.hash_of("finetune"), "recommend": road.hash_of("recommend")}


def finetune(road: Road) -> Counts:
    """Writes `adapter/`, `fusion.json`, `history.json`; where asked for `lambdamart.json`, `gate.json` and
    `gain_parts.json`.
    """
    from recsys.team import join
    from rerank.train import fine_tune, ndcg_of

    road.use_threads()
    settings, seed = settings_of(road), road.config.seed
    texts = item_texts(road)
    lists, made = training_lists(road)
    (valid_candidates, valid), judged = validation_lists(road)
    if settings.gate is not None:
        # A table of groups that names nobody is told now, not after hours of training.
        groups_of(road, judged[0].user_ids)
    outputs = ["adapter", "fusion.json", "history.json"]
    if settings.lambdamart is not None:
        trees = fit_lambdamart(lists, valid, settings.lambdamart, seed=seed)
        write_atomic(road.path("finetune", "lambdamart.json"), json.dumps(asdict(trees)).encode())
        outputs.append("lambdamart.json")
    scorer = fresh_scorer(road, lists)
    before = rank_lists(scorer, valid, texts, settings.inference)
    with road.progress.task("finetune", None) as task:
        window = settings.inference.window
        learnt, held = ([in_one_window(e, window, seed=seed) for e in some] for some in (lists, valid))
        join().tell("fine_tune", scorer, learnt, held, texts, settings.finetune, seed)
        history = fine_tune(
            scorer, learnt, held, texts, settings.finetune, seed=seed,
            checkpoints=road.path("finetune", "checkpoints/none").parent,
            progress=lambda step, total, losses: task.reach(step, total),
        )  # fmt: skip
    adapter = road.path("finetune", "adapter/none").parent
    save_scorer(scorer, adapter, settings)
    after = rank_lists(scorer, valid, texts, settings.inference)
    fusions = _fit_fusions(road, valid_candidates, valid, after)
    ndcg = [ndcg_of(scores, arrived(entry), 10) for entry, scores in zip(valid, after, strict=True)]
    record = {
        "lists": {"made": made, "with_truth": len(lists), "validation": len(valid)},
        "pair_accuracy": flips(score_pairs(valid, before, after)),
        "ndcg@10_by_slot": by_slot(valid, ndcg),
        "steps": history.steps,
        "evaluations": history.evaluations,
    }
    write_atomic(road.path("finetune", "history.json"), json.dumps(record).encode())
    write_atomic(adapter / "README.md", model_card(settings, finetune_parts(road), record).encode())
    write_atomic(road.path("finetune", "fusion.json"), json.dumps(fusions, indent=1).encode())
    if settings.gate is not None:
        # From here on nothing is trained, and lists are read as the rerank stage reads them.
        getattr(scorer, "pack", lambda: None)()
        orders = orders_of(road, _read(road, scorer, judged, texts), *judged)
        write_decisions(road, judged[0], orders)
        outputs.append(FILE)
    if settings.gate is not None and settings.gate.parts:
        readers: dict[bool, Reader] = {True: OneByOne(scorer), False: scorer}
        write_gain_parts(
            road, judged, orders,
            lambda part, own, alone: orders_of(
                road, _read(road, readers[alone], part, own), *part
            )["reranked"],
        )  # fmt: skip
        outputs.append(PARTS)
    shutil.rmtree(road.path("finetune", "checkpoints/none").parent, ignore_errors=True)
    return Counts(len(lists), len(lists), outputs=tuple(sorted(outputs)))


def rerank(road: Road) -> Counts:
    """Writes the test lists in every order there is: model alone, fusions with it and without it, trees."""
    road.use_threads()
    candidates, lists = final_lists(road)
    store = road.path("rerank", "none").parent
    blocks = blocks_of(road, store, len(lists))
    fill_blocks(road, blocks, lists, lambda: load_trained(road, lists))
    found, cost = all_scores(blocks)
    orders = orders_of(road, ordered_by(candidates, found, "reranker"), candidates, lists)
    outputs = write_orders(road, candidates, orders)
    # Times are in the stage's own record: outputs are equal for equal runs.
    told = {"lists": len(lists), **asdict(cost)}
    write_atomic(road.path("rerank", "cost.json"), json.dumps(told).encode())
    return Counts(len(lists), len(lists), outputs=(*outputs, "cost.json"))


def write_orders(road: Road, candidates: Candidates, orders: dict[str, Candidates]) -> tuple[str, ...]:
    """Writes lists in every order, that of the gate too; the files' names."""
    if settings_of(road).gate is not None:
        orders["gated"] = gated_lists(road, candidates, orders)
        orders["gated"].to_trec(road.path("rerank", "gated.trec"), "catalograph")
    for name, ordered in orders.items():
        ordered.to_parquet(road.path("rerank", f"{name}.parquet"))
    orders["reranked"].to_trec(road.path("rerank", "reranked.trec"), "catalograph")
    runs = (f"{name}.trec" for name in ("reranked", "gated") if name in orders)
    return (*(f"{name}.parquet" for name in orders), *runs)


def _read(road: Road, scorer: Reader, part: Part, texts: Mapping[str, str]) -> Candidates:
    """Lists in the model's own order, without a limit."""
    free = settings_of(road).inference.model_copy(update={"max_move": None})
    with road.progress.task("rerank", len(part[1])) as task:
        return reorder(scorer, *part, texts, config=free, progress=task.reach)


def orders_of(
    road: Road, llm: Candidates, candidates: Candidates, lists: list[RankingList]
) -> dict[str, Candidates]:
    """Lists in every order: the same for those the gate decides on as for those that are delivered.

    Args:
        llm: the candidates in the model's own order.
    """
    reading = settings_of(road).inference
    fusions = read_fusions(road)
    reranked = fused(llm, fusions["reranked"], "fused")
    orders = {
        "llm_only": held_within(llm, candidates, "reranker", reading.max_move),
        "reranked": held_within(reranked, candidates, "fused", reading.max_move),
        "fused_without_llm": fused(candidates, fusions["fused_without_llm"], "fused"),
    }
    if settings_of(road).lambdamart is not None:
        stored = json.loads(road.path("finetune", "lambdamart.json").read_text())
        orders["lambdamart"] = ordered_by(candidates, LambdaMart(stored["text"]).scores(lists), "lambdamart")
    return orders


def read_fusions(road: Road) -> dict[str, Fusion]:
    """The fitted weights."""
    stored = json.loads(road.path("finetune", "fusion.json").read_text())
    return {name: Fusion(tuple(row), np.array(list(row.values()))) for name, row in stored.items()}


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
