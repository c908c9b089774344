"""The evaluation stage: metrics of every list with intervals, and the paired differences behind a claim."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from catalograph.report.data import Interval, MetricRow, MetricTable
from catalograph.road import Counts, Road
from extract.errors import InvalidData
from extract.store import write_atomic
from recsys.candidates import Candidates
from recsys.interactions import Interactions
from recsys.metrics import Metrics, evaluate, evaluate_conditional
from recsys.significance import bootstrap_difference, bootstrap_mean, permutation_test
from rerank.settings import RerankConfig

DESCRIPTIONS = {
    "retrieved": "the retriever's own order",
    "fused_without_llm": "linear ListNet on the retrievers' scores and ranks, weights from validation",
    "lambdamart": "gradient-boosted trees on the same lists and numbers, tuned on validation",
    "llm_only": "the language model's scores alone",
    "reranked": "the same fusion with the language model's scores added",
}


def evaluate_parts(road: Road) -> dict[str, Any]:
    """What the metrics are made from."""
    return {
        "recommend": road.hash_of("recommend"),
        "rerank": road.hash_of("rerank"),
        "evaluate": road.config.evaluate.model_dump(mode="json"),
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
    trees = [] if settings.lambdamart is None else ["lambdamart"]
    return ["fused_without_llm", *trees, "llm_only", "reranked"]


def comparisons(names: list[str]) -> list[tuple[str, str]]:
    """Pairs (a, b) whose difference b - a is tested: retrieval against each baseline, LLM against fusion."""
    pairs = [(name, "retrieved") for name in names if name not in DESCRIPTIONS]
    if "reranked" in names:
        pairs += [
            ("retrieved", "reranked"),
            ("fused_without_llm", "reranked"),
            ("retrieved", "fused_without_llm"),
        ]
    if "lambdamart" in names:
        pairs += [("lambdamart", "reranked"), ("lambdamart", "llm_only"), ("retrieved", "lambdamart")]
    return pairs


def evaluate_lists(road: Road) -> Counts:
    """Writes `metrics.json` and `per_user.parquet`."""
    settings, truth = road.config.evaluate, road.part("test")
    lists = lists_of(road)
    measured = {name: evaluate(candidates, truth, settings.ks) for name, candidates in lists.items()}
    columns = [f"{metric}@{k}" for metric in settings.metrics for k in settings.ks]

    def interval(values: Any) -> dict[str, float]:
        found = bootstrap_mean(values, samples=settings.bootstrap, seed=road.config.seed)
        return {"mean": found.estimate, "low": found.low, "high": found.high}

    result: dict[str, Any] = {
        "users": len(measured["retrieved"].user_ids),
        "lists": {name: {c: interval(m.per_user[c]) for c in columns} for name, m in measured.items()},
        "comparisons": [
            _comparison(measured[a], measured[b], a, b, column, settings.bootstrap, road.config.seed)
            for a, b in comparisons(list(lists))
            for column in columns
        ],
        "conditional": _conditional(lists, truth, settings.ks, columns),
    }
    write_atomic(road.path("evaluate", "metrics.json"), json.dumps(result, indent=1).encode())
    _write_per_user(road, measured, columns)
    users = len(measured["retrieved"].user_ids)
    return Counts(users, users, outputs=("metrics.json", "per_user.parquet"))


def _conditional(
    lists: Mapping[str, Candidates], truth: Interactions, ks: Sequence[int], columns: list[str]
) -> dict[str, Any]:
    """Means with the truths that were not retrieved taken away: what a reranker of these lists can change."""
    try:
        measured = {n: evaluate_conditional(lists[n], truth, ks) for n in lists if n in DESCRIPTIONS}
    except InvalidData:  # The lists hold the same items, so either all have such a user or none has.
        return {"users": 0, "lists": {}}
    found = {}
    for name, metrics in measured.items():
        values = metrics.mean()
        found[name] = {column: values[column] for column in columns}
    return {"users": len(measured["retrieved"].user_ids), "lists": found}


def _comparison(
    first: Metrics, second: Metrics, a: str, b: str, column: str, samples: int, seed: int
) -> dict[str, Any]:
    x, y = first.per_user[column], second.per_user[column]
    found = bootstrap_difference(x, y, samples=samples, seed=seed)
    return {
        "a": a, "b": b, "metric": column, "difference": found.estimate, "low": found.low, "high": found.high,
        "p": permutation_test(x, y, samples=1000, seed=seed),
    }  # fmt: skip


def _write_per_user(road: Road, measured: Mapping[str, Metrics], columns: list[str]) -> None:
    table = {"user_id": pa.array(measured["retrieved"].user_ids.tolist())}
    for name, metrics in measured.items():
        for column in columns:
            table[f"{name}/{column}"] = pa.array(metrics.per_user[column])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(table), sink)
    write_atomic(road.path("evaluate", "per_user.parquet"), sink.getvalue().to_pybytes())


def read_metrics(road: Road) -> dict[str, Any]:
    """What `evaluate_lists` wrote."""
    found: dict[str, Any] = json.loads(road.path("evaluate", "metrics.json").read_text())
    return found


def means(road: Road) -> dict[str, dict[str, float]]:
    """By list and metric, the mean over users."""
    return {name: {c: v["mean"] for c, v in row.items()} for name, row in read_metrics(road)["lists"].items()}


def tables(road: Road) -> list[MetricTable]:
    """The metrics as tables for the terminal and the report."""
    found = read_metrics(road)
    lists: dict[str, dict[str, dict[str, float]]] = found["lists"]
    columns = list(next(iter(lists.values())))
    differences: dict[str, dict[str, Interval]] = {}
    for row in found["comparisons"]:
        if row["a"] == "retrieved":
            differences.setdefault(row["b"], {})[row["metric"]] = Interval(
                row["difference"], row["low"], row["high"]
            )
    rows = [
        MetricRow(
            name,
            {c: Interval(v["mean"], v["low"], v["high"]) for c, v in values.items()},
            differences.get(name, {}),
            DESCRIPTIONS.get(name, "baseline"),
        )
        for name, values in lists.items()
    ]
    main = MetricTable(
        f"Test split, {found['users']:,} users", columns, rows, "retrieved",
        "Means over users with 95 % bootstrap intervals; items seen in train and validation are left out; "
        "ties by score, then item id.",
    )  # fmt: skip
    return [main, _claims_table(found), _conditional_table(found, columns)]


def _claims_table(found: Mapping[str, Any]) -> MetricTable:
    pairs = list(dict.fromkeys((row["a"], row["b"]) for row in found["comparisons"]))
    columns = list(dict.fromkeys(row["metric"] for row in found["comparisons"]))
    rows = [
        MetricRow(
            f"{b} − {a}",
            {
                row["metric"]: Interval(row["difference"], row["low"], row["high"])
                for row in found["comparisons"]
                if (row["a"], row["b"]) == (a, b)
            },
        )
        for a, b in pairs
    ]
    return MetricTable(
        "Paired differences", columns, rows, None, "An interval that excludes 0 carries a claim."
    )


def _conditional_table(found: Mapping[str, Any], columns: list[str]) -> MetricTable:
    conditional = found["conditional"]
    rows = [
        MetricRow(name, {c: Interval(v) for c, v in values.items()}, {}, DESCRIPTIONS[name])
        for name, values in conditional["lists"].items()
    ]
    return MetricTable(
        f"Only the {conditional['users']:,} users whose held-out item was retrieved", columns, rows, None,
        "The rest cannot be helped by any reranker.",
    )  # fmt: skip
