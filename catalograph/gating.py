"""The gate of a run: which groups of users are given reordered lists, and in what order."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalograph.evaluation import grouping
from catalograph.rerank_lists import settings_of
from catalograph.road import Road
from extract.store import write_atomic
from recsys.candidates import Candidates
from recsys.metrics import judge
from rerank.gate import RETRIEVED, Bound, Decision, decide, gated
from rerank.settings import GateConfig

FILE = "gate.json"

ARMS = ("reranked", "lambdamart", "fused_without_llm")
"""The orders that may take a group, the reranker first: it wins a tie."""


def gate_parts(road: Road) -> dict[str, Any]:
    """What the gate's groups are made from; all else it depends on is the stage's already."""
    config, given = settings_of(road).gate, road.config.evaluate.given
    if config is None or config.groups != "given" or given is None:
        return {}
    return {"groups": road.run.input_hash(road.config.data.under_root(given))}


def write_decisions(road: Road, retrieved: Candidates, orders: Mapping[str, Candidates]) -> None:
    """Decides on held-out lists in the orders they would be given in, and writes `gate.json`."""
    config = config_of(road)
    metric, decisions = f"ndcg@{config.k}", []
    if len(retrieved):
        lists = {name: orders[name] for name in ARMS if name in orders} | {RETRIEVED: retrieved}
        valid = road.part("valid")
        found = {name: judge(own, valid).metrics((config.k,)) for name, own in lists.items()}
        groups = groups_of(road, found[RETRIEVED].user_ids)
        decisions = decide({name: own.per_user[metric] for name, own in found.items()}, groups, config)
    record = {
        "metric": metric, "confidence": config.confidence, "groups": config.groups,
        "least_lists": config.least_lists, "lists": len(retrieved),
        "later_half": road.config.data.split.method == "global_time",
        "decisions": [asdict(decision) for decision in decisions],
    }  # fmt: skip
    write_atomic(road.path("finetune", FILE), json.dumps(record, indent=1).encode())


def read_record(road: Road) -> dict[str, Any]:
    """What `write_decisions` wrote."""
    found: dict[str, Any] = json.loads(road.path("finetune", FILE).read_text())
    return found


def gated_lists(road: Road, retrieved: Candidates, orders: Mapping[str, Candidates]) -> Candidates:
    """The test lists, each in the order that was decided for its user's group."""
    decisions = [
        Decision(**{**row, "bounds": {name: Bound(**bound) for name, bound in row["bounds"].items()}})
        for row in read_record(road)["decisions"]
    ]
    return gated(retrieved, orders, groups_of(road, retrieved.user_ids), decisions)


def groups_of(road: Road, users: NDArray[np.str_]) -> NDArray[np.str_]:
    """Each user's group [U]: by choices in train, so that it is the same for held-out and for test lists."""
    name = config_of(road).groups
    if name is None:
        return np.full(len(users), "all users")
    labels = grouping(road, name).labels[road.part("train").user_rows_of(users)]
    return np.where(labels == "", "no group", labels)


def config_of(road: Road) -> GateConfig:
    """The settings of a run that has a gate."""
    config = settings_of(road).gate
    if config is None:
        raise ValueError("this run has no gate")
    return config
