"""The order candidates come in, chosen on validation where the configuration leaves it open, and the rules
that their lists keep.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from catalograph.road import Road
from extract.errors import ConfigError
from extract.store import write_atomic
from extract.tables import read_columns
from recsys.candidates import Candidates, block_within, retrieve
from recsys.interactions import Interactions
from recsys.list_rules import ListRules, category_rows, ruled_lists
from recsys.merge import fit_weights, retrieve_merged
from recsys.metrics import evaluate
from recsys.nearest_index import build_index
from recsys.ranking import Factors, Recommender

SELECTION = "ndcg@20"
MERGED = "merged"


@dataclass(frozen=True)
class Order:
    """How candidates are ordered: by one retriever, or by a weighted sum of all (`weights`); the NDCG@20 on
    validation of every source, of the sum too; and the rules of their lists.
    """

    name: str
    k: int
    scores: dict[str, float]
    weights: dict[str, float] | None = None
    rules: ListRules = field(default_factory=ListRules)
    memory: float = 4 * 2**30
    """Bytes that a block of users may take."""

    def lists(
        self, models: Mapping[str, Recommender], seen: Interactions, users: Sequence[str]
    ) -> Candidates:
        """The candidates of some users, with every model's score and rank."""

        block = block_within(self.memory, seen.n_items, len(models))

        def make(models: Mapping[str, Recommender], users: Sequence[str], k: int) -> Candidates:
            if self.weights is not None:
                return retrieve_merged(models, seen, users, k, self.weights, block=block)
            return retrieve(models, seen, users, k, order_by=self.name, block=block)

        return ruled_lists(make, models, seen, users, self.k, self.rules)

    def alone(
        self, models: Mapping[str, Recommender], seen: Interactions, users: Sequence[str]
    ) -> Candidates:
        """The list of one model as a baseline, under the same rules."""

        def make(models: Mapping[str, Recommender], users: Sequence[str], k: int) -> Candidates:
            return retrieve(models, seen, users, k, block=block_within(self.memory, seen.n_items, 1))

        return ruled_lists(make, models, seen, users, self.k, self.rules)


def users_of(part: Interactions) -> list[str]:
    """The users with at least one interaction in a part, in the order of the user axis."""
    return [str(user) for user in part.user_ids[np.unique(part.user_rows)]]


def choose_order(
    road: Road, models: Mapping[str, Recommender], train_part: Interactions, valid_part: Interactions
) -> Order:
    """The order the candidates come in, chosen on validation where the configuration leaves it open."""
    config, rules, memory = road.config, _rules(road, train_part), _memory(road)
    users, order_by, k = users_of(valid_part), config.candidates.order_by, config.candidates.k
    if not users:
        if order_by in ("best", MERGED):
            raise ConfigError(
                "C205",
                f"candidates.order_by is {order_by}, and there is no validation split to choose by",
                next_step="name a retriever in candidates.order_by, or give data.split.valid_share",
            )
        return Order(order_by, k, {}, None, rules, memory)
    scores = {}
    for name, model in models.items():
        lists = Order(name, 20, {}, memory=memory).alone({name: model}, train_part, users)
        scores[name] = evaluate(lists, valid_part, (20,)).mean()[SELECTION]
    if order_by == MERGED:
        block = block_within(memory, train_part.n_items, len(models))
        weights, reached = fit_weights(models, train_part, valid_part, k, seed=config.seed, block=block)
        return Order(MERGED, k, scores | {MERGED: reached}, weights, rules, memory)
    name = max(scores, key=lambda name: scores[name]) if order_by == "best" else order_by
    return Order(name, k, scores, None, rules, memory)


def _memory(road: Road) -> float:
    return road.config.candidates.memory_gib * 2**30


def saved_order(road: Road, train: Interactions) -> Order:
    """The order that the recommend stage chose."""
    leader = json.loads(road.path("recommend", "leader.json").read_text())
    k, rules = road.config.candidates.k, _rules(road, train)
    return Order(leader["order_by"], k, leader[SELECTION], leader["weights"], rules, _memory(road))


def rule_parts(road: Road) -> dict[str, Any]:
    """What the rules are made from."""
    chosen = road.config.candidates
    files = {"allow": chosen.allow, "deny": chosen.deny}
    parts = {
        name: None if path is None else road.run.input_hash(road.config.data.under_root(path))
        for name, path in files.items()
    }
    return {**parts, "catalog": None if chosen.cap_by is None else road.catalog_parts()}


def _rules(road: Road, train: Interactions) -> ListRules:
    chosen, ids = road.config.candidates, train.item_ids
    allowed: NDArray[np.bool_] | None = None
    if chosen.allow is not None:
        allowed = np.isin(ids, _item_ids(road, chosen.allow))
    if chosen.deny is not None:
        allowed = (True if allowed is None else allowed) & ~np.isin(ids, _item_ids(road, chosen.deny))
    if allowed is not None and not allowed.any():
        raise ConfigError("C206", "candidates.allow and candidates.deny leave no item of the catalogue")
    if chosen.cap_by is None:
        return ListRules(allowed)
    values = [road.catalog[item].attributes.get(chosen.cap_by, "") for item in ids.tolist()]
    labels = [[part.strip() for part in value.split("|") if part.strip()] for value in values]
    return ListRules(allowed, category_rows(labels), chosen.cap)


def _item_ids(road: Road, path: str) -> NDArray[np.str_]:
    table = read_columns(road.config.data.under_root(path), ("item_id",), ids=("item_id",))
    return np.asarray(table["item_id"].to_pylist(), dtype=np.str_)


def write_embeddings(road: Road, models: Mapping[str, Recommender], known: Interactions) -> list[str]:
    """User and item vectors of every model that has them: `embeddings/NAME-users.parquet` with the columns
    user_id and vector, and `embeddings/NAME-items.parquet`. Their inner products are the scores. Where it is
    asked for, `embeddings/NAME-items.usearch` finds the highest of them.
    """
    for name, model in models.items():
        if isinstance(model, Factors):
            for side, ids, vectors in zip(
                ("user", "item"), (known.user_ids, known.item_ids), model.embeddings(), strict=True
            ):
                width = vectors.shape[1]
                flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).ravel())
                column = pa.FixedSizeListArray.from_arrays(flat, width)
                table = pa.table({f"{side}_id": pa.array(ids.tolist(), pa.string()), "vector": column})
                sink = pa.BufferOutputStream()
                pq.write_table(table, sink, compression="zstd")
                path = road.path("recommend", f"embeddings/{name}-{side}s.parquet")
                write_atomic(path, sink.getvalue().to_pybytes())
            if road.config.candidates.index:
                path = road.path("recommend", f"embeddings/{name}-items.usearch")
                build_index(model.embeddings()[1], path)
    return ["embeddings"] if any(isinstance(model, Factors) for model in models.values()) else []
