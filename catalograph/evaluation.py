"""The evaluation stage: metrics of every list with intervals, the paired differences behind a claim, groups
of users and items, and what the lists are like.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from catalograph.extraction import feature_tables
from catalograph.road import Counts, Road
from extract.errors import InvalidData
from extract.store import write_atomic
from recsys import groups
from recsys.beyond_accuracy import list_statistics
from recsys.candidates import Candidates
from recsys.metrics import Judged, Metrics, judge
from recsys.significance import bootstrap_means, holm, permutation_tests
from rerank.diagnosis import first_places, flips, gap_closed, order_pairs, place_bins
from rerank.lists import truths_of
from rerank.settings import RerankConfig

RERANKED = ("fused_without_llm", "lambdamart", "llm_only", "reranked", "gated")
DELIVERED = ("gated", "reranked", "retrieved")
"""The list that a run delivers is the first of these that it has."""


def evaluate_parts(road: Road) -> dict[str, Any]:
    """What the metrics are made from."""
    given = road.config.evaluate.given
    return {
        "recommend": road.hash_of("recommend"),
        "rerank": road.hash_of("rerank"),
        "evaluate": road.config.evaluate.model_dump(mode="json"),
        "given": None if given is None else road.run.input_hash(road.config.data.under_root(given)),
        "embed": None if road.config.evaluate.diversity is None else road.hash_of("embed"),
        "seed": road.config.seed,
    }


def lists_of(road: Road) -> dict[str, Candidates]:
    """Every list there is to measure, by name, in the order of the table."""
    lists = {
        name: Candidates.from_parquet(road.path("recommend", f"baseline-{name}.parquet"))
        for name in road.config.evaluate.baselines
    }
    lists["retrieved"] = Candidates.from_parquet(road.path("recommend", "test.parquet"))
    if road.config.rerank is not None:
        for name in reranked_names(road.config.rerank):
            lists[name] = Candidates.from_parquet(road.path("rerank", f"{name}.parquet"))
    return lists


def reranked_names(settings: RerankConfig) -> list[str]:
    """The lists the rerank stage writes, in the order of the table."""
    absent = {"lambdamart": settings.lambdamart is None, "gated": settings.gate is None}
    return [name for name in RERANKED if not absent.get(name)]


def comparisons(names: list[str]) -> list[tuple[str, str]]:
    """Pairs (a, b) whose difference b - a is tested: retrieval against each baseline, LLM against fusion."""
    pairs = [(name, "retrieved") for name in names if name not in ("retrieved", *RERANKED)]
    if "reranked" in names:
        pairs += [
            ("retrieved", "reranked"),
            ("fused_without_llm", "reranked"),
            ("retrieved", "fused_without_llm"),
        ]
    if "gated" in names:
        pairs += [("retrieved", "gated")]
    if "lambdamart" in names:
        pairs += [("lambdamart", "reranked"), ("lambdamart", "llm_only"), ("retrieved", "lambdamart")]
    return pairs


def evaluate_lists(road: Road) -> Counts:
    """Writes `metrics.json` and `per_user.parquet`."""
    settings, truth = road.config.evaluate, road.part("test")
    lists = lists_of(road)
    judged = {name: judge(candidates, truth) for name, candidates in lists.items()}
    measured = {name: found.metrics(settings.ks) for name, found in judged.items()}
    columns = [f"{metric}@{k}" for metric in settings.metrics for k in settings.ks]
    users = len(measured["retrieved"].user_ids)
    oracle = _picked(judged["retrieved"].oracle(settings.ks), columns)
    result: dict[str, Any] = {
        "users": users,
        "lists": _intervals(road, measured, columns),
        "comparisons": _comparisons(road, measured, columns),
        "conditional": _conditional(judged, settings.ks, columns),
        "oracle": oracle,
        "diagnosis": _diagnosis(road, lists, measured, oracle),
        "statistics": _statistics(road, lists),
        "groups": {name: _groups(road, name, judged, columns) for name in settings.groups},
    }
    write_atomic(road.path("evaluate", "metrics.json"), json.dumps(result, indent=1).encode())
    _write_per_user(road, measured, columns)
    return Counts(users, users, outputs=("metrics.json", "per_user.parquet"))


def read_metrics(road: Road) -> dict[str, Any]:
    """What `evaluate_lists` wrote."""
    found: dict[str, Any] = json.loads(road.path("evaluate", "metrics.json").read_text())
    return found


def means(found: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """By list and metric, the mean over users."""
    return {name: {c: v["mean"] for c, v in row.items()} for name, row in found["lists"].items()}


def _picked(metrics: Metrics, columns: list[str]) -> dict[str, float]:
    values = metrics.mean()
    return {column: values[column] for column in columns}


def _intervals(
    road: Road, measured: Mapping[str, Metrics], columns: list[str]
) -> dict[str, dict[str, dict[str, float]]]:
    """Means with intervals; all lists and metrics share the resamples."""
    table = np.stack([metrics.per_user[c] for metrics in measured.values() for c in columns], axis=1)
    found = iter(bootstrap_means(table, samples=road.config.evaluate.bootstrap, seed=road.config.seed))
    return {
        name: {
            c: {"mean": i.estimate, "low": i.low, "high": i.high}
            for c, i in zip(columns, found, strict=False)
        }
        for name in measured
    }


def _comparisons(road: Road, measured: Mapping[str, Metrics], columns: list[str]) -> list[dict[str, Any]]:
    """Differences with intervals, p-values by permutation, and the same corrected over all of them."""
    rows = [(a, b, column) for a, b in comparisons(list(measured)) for column in columns]
    if not rows:
        return []
    gaps = np.stack([measured[b].per_user[c] - measured[a].per_user[c] for a, b, c in rows], axis=1)
    seed = road.config.seed
    intervals = bootstrap_means(gaps, samples=road.config.evaluate.bootstrap, seed=seed)
    p_values = permutation_tests(gaps, seed=seed)
    return [
        {
            "a": a, "b": b, "metric": column, "difference": found.estimate, "low": found.low,
            "high": found.high, "p": float(p), "p_holm": float(corrected),
        }
        for (a, b, column), found, p, corrected in zip(
            rows, intervals, p_values, holm(p_values), strict=True
        )
    ]  # fmt: skip


def _conditional(judged: Mapping[str, Judged], ks: tuple[int, ...], columns: list[str]) -> dict[str, Any]:
    """Means with the truths that were not retrieved taken away: what a reranker of these lists can change."""
    try:
        measured = {n: judged[n].reachable().metrics(ks) for n in ("retrieved", *RERANKED) if n in judged}
    except InvalidData:  # The lists hold the same items, so either all have such a user or none has.
        return {"users": 0, "lists": {}}
    found = {name: _picked(metrics, columns) for name, metrics in measured.items()}
    return {"users": len(measured["retrieved"].user_ids), "lists": found}


def _diagnosis(
    road: Road, lists: Mapping[str, Candidates], measured: Mapping[str, Metrics], oracle: Mapping[str, float]
) -> dict[str, Any] | None:
    """What reranking changed, at what cost in tokens; None without a reranker."""
    if road.config.rerank is None:
        return None
    names = [name for name in RERANKED if name in lists]
    retrieved, truths = lists["retrieved"], truths_of(road.part("test"))
    history = json.loads(road.path("finetune", "history.json").read_text())
    base = measured["retrieved"].mean()
    of_gate = {
        name: json.loads(path.read_text())
        for name in ("gate", "gain_parts")
        if (path := road.path("finetune", f"{name}.json")).is_file()
    }
    return {
        **of_gate,
        "fine_tuning_pairs": history["pair_accuracy"],
        "validation_ndcg@10_by_slot": history["ndcg@10_by_slot"],
        "pairs": {name: flips(order_pairs(retrieved, lists[name], truths)) for name in names},
        "oracle_gap_closed": {
            name: {c: gap_closed(base[c], measured[name].mean()[c], best) for c, best in oracle.items()}
            for name in names
        },
        "by_place": _by_place(retrieved, {n: measured[n] for n in ("retrieved", *names)}, truths, oracle),
        "cost": json.loads(road.path("rerank", "cost.json").read_text()),
    }


def _by_place(
    retrieved: Candidates, measured: Mapping[str, Metrics], truths: Mapping[str, frozenset[str]],
    columns: Iterable[str],
) -> list[dict[str, Any]]:  # fmt: skip
    """Metrics by the place where a list's first truth came in."""
    places = dict(zip(retrieved.user_ids.tolist(), first_places(retrieved, truths).tolist(), strict=True))
    own = np.array([places.get(user, 0) for user in measured["retrieved"].user_ids.tolist()])
    rows = []
    for low, high in place_bins(retrieved.k):
        chosen = (own >= low) & (own <= high)
        if chosen.any():
            lists = {
                name: {c: float(metrics.per_user[c][chosen].mean()) for c in columns}
                for name, metrics in measured.items()
            }
            rows.append({"from": low, "to": high, "users": int(chosen.sum()), "lists": lists})
    return rows


def _statistics(road: Road, lists: Mapping[str, Candidates]) -> dict[str, dict[str, float | None]]:
    """What the lists are like, by list and `statistic@k`."""
    settings = road.config.evaluate
    features = None if settings.diversity is None else feature_tables(road)[settings.diversity]
    found: dict[str, dict[str, float | None]] = {}
    for name, candidates in lists.items():
        by_k = list_statistics(candidates, road.part("train"), settings.ks, features)
        found[name] = {f"{field}@{k}": v for k, s in by_k.items() for field, v in asdict(s).items()}
    return found


def _groups(road: Road, name: str, judged: Mapping[str, Judged], columns: list[str]) -> dict[str, Any]:
    """By group of a grouping (or of several, joined by *): users, and every list's metrics."""
    train = road.part("train")
    chosen = [grouping(road, part) for part in name.split("*")]
    found: dict[str, Any] = {}
    for listed, whole in judged.items():
        users = train.user_rows_of(whole.user_ids)
        for group, part in groups.judged_by_group(whole, chosen, users).items():
            entry = found.setdefault(group, {"users": len(part.user_ids), "measured": {}})
            entry["measured"][listed] = part.metrics(road.config.evaluate.ks)
    return {
        group: {"users": entry["users"], "lists": _intervals(road, entry["measured"], columns)}
        for group, entry in found.items()
    }


def grouping(road: Road, name: str) -> groups.Grouping:
    """The groups of a name in `recsys.groups.GROUPINGS`, by the train choices or the table that was given."""
    train, given = road.part("train"), road.config.evaluate.given
    if name == "given" and given is not None:
        return groups.given(groups.read_groups(road.config.data.under_root(given)), train)
    return {"activity": groups.activity, "popularity": groups.popularity, "warmth": groups.warmth}[name](
        train
    )


def _write_per_user(road: Road, measured: Mapping[str, Metrics], columns: list[str]) -> None:
    table: dict[str, Any] = {"user_id": pa.array(measured["retrieved"].user_ids.tolist())}
    for name, metrics in measured.items():
        for column in columns:
            values: NDArray[np.float64] = metrics.per_user[column]
            table[f"{name}/{column}"] = pa.array(values)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(table), sink)
    write_atomic(road.path("evaluate", "per_user.parquet"), sink.getvalue().to_pybytes())
