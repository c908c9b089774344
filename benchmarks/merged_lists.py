"""Is a merged list above every single source, and which way of merging is best?

    python benchmarks/merged_lists.py --data DIR [--sources ease item_knn als] [--seed 0] [--quick]

DIR is a folder with interactions.csv.gz and items.csv: amazon_baby (split x_label_diffmm, models learned from
train, train items masked) or ml1m_posters (split colakg_split, a fifth of train as validation, models
refitted on both). Weights of every way of merging are fitted on validation for NDCG@20 by the same search;
test is read once per row. `merged` is what `candidates.order_by: merged` does; the others are built from the
scores and ranks of a wider pool: reciprocal ranks 1 / (60 + rank), minus log ranks, scores scaled to 0..1
within the pool, and standardised within the pool. `gain` is merged minus the best single source on test with
its interval over users.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys import (
    Candidates,
    Interactions,
    SplitConfig,
    TrainConfig,
    bootstrap_difference,
    judge,
    read_interactions,
    retrieve,
    split_interactions,
)
from recsys.interactions import InteractionColumns
from recsys.merge import best_shares, fit_weights, retrieve_merged
from recsys.models import MODELS, build_model
from recsys.train import fit

K = 50
METRICS = ("recall@20", "ndcg@20")
TABLES: dict[str, tuple[InteractionColumns, SplitConfig, str, bool]] = {
    "userID": (
        InteractionColumns(user="userID", item="itemID", label="x_label_diffmm"),
        SplitConfig(method="label", train_labels=("0",), valid_labels=("1",), test_labels=("2",)),
        "itemID",
        False,
    ),
    "user_id": (
        InteractionColumns(label="colakg_split"),
        SplitConfig(
            method="label", train_labels=("0",), valid_labels=("none",), test_labels=("1",), valid_share=0.2
        ),
        "item_id",
        True,
    ),
}
"""By the name of the user column: columns, split, the catalogue's id, and whether models are refitted."""
SETTINGS: dict[str, dict[str, Any]] = {"ease": {"l2": 250.0}, "item_knn": {"neighbours": 100, "shrink": 50.0}}
LIGHTGCN = TrainConfig(epochs=100, batch_size=4096, learning_rate=5e-3, patience=3, evaluate_every=5)
Votes = NDArray[np.float64]


def reciprocal_ranks(scores: Votes, ranks: Votes) -> Votes:
    """1 / (60 + rank)."""
    return 1 / (60 + ranks)


def log_ranks(scores: Votes, ranks: Votes) -> Votes:
    """Minus log(1 + rank)."""
    return -np.log1p(ranks)


def scaled(scores: Votes, ranks: Votes) -> Votes:
    """0 for the lowest score of the pool, 1 for the highest."""
    low, high = (np.expand_dims(f(scores, axis=1), 1) for f in (np.nanmin, np.nanmax))
    return np.asarray((scores - low) / np.maximum(high - low, 1e-12))


def standardised_in_pool(scores: Votes, ranks: Votes) -> Votes:
    """Mean 0 and deviation 1 within the pool."""
    mean, deviation = (np.expand_dims(f(scores, axis=1), 1) for f in (np.nanmean, np.nanstd))
    return np.asarray((scores - mean) / np.maximum(deviation, 1e-12))


OTHERS: dict[str, Callable[[Votes, Votes], Votes]] = {
    "reciprocal_ranks": reciprocal_ranks,
    "log_ranks": log_ranks,
    "scaled": scaled,
    "standardised_in_pool": standardised_in_pool,
}


def pool_votes(pool: Candidates, way: Callable[[Votes, Votes], Votes]) -> NDArray[np.float32]:
    """Votes [S, U, P] of every source on the pool, -inf at padded places."""
    votes = []
    for name, scores in pool.scores.items():
        ranks = np.where(pool.ranks[name] > 0, pool.ranks[name], 10**6).astype(np.float64)
        own = way(scores.astype(np.float64), ranks)
        votes.append(np.where(pool.mask, np.where(np.isfinite(own), own, 0), -np.inf))
    return np.stack(votes).astype(np.float32)


def ordered(pool: Candidates, votes: NDArray[np.float32], shares: NDArray[np.float64]) -> Candidates:
    """The pool in the order of the weighted votes."""
    used = shares > 0
    final = np.tensordot(shares[used], votes[used], axes=1)
    return pool.reordered(np.argsort(-final, axis=1, kind="stable"), "sum", final)


def users_of(part: Interactions) -> list[str]:
    """The users with a row in a part."""
    return [str(user) for user in part.user_ids[np.unique(part.user_rows)]]


def fitted(
    names: list[str], train: Interactions, valid: Interactions | None, epochs: int | None, seed: int
) -> tuple[dict[str, Any], int | None]:
    """The models, trained; epochs of the trained one are chosen on `valid` or given."""
    models = {}
    for name in names:
        began = time.perf_counter()
        params = {"layers": 2, "reg": 1e-3} if name == "lightgcn" else SETTINGS.get(name, {})
        config = LIGHTGCN.model_copy(update={"epochs": epochs} if epochs else {})
        models[name] = build_model(name, params, train, seed=seed)
        history = fit(models[name], train, valid, config)
        if history.best_epoch is not None:
            epochs = history.best_epoch + 1
        sys.stderr.write(f"{name}: {time.perf_counter() - began:.1f} s\n")
    return models, epochs


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--sources", nargs="+", choices=list(MODELS), default=["popularity", "item_knn", "ease"]
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="item_knn and popularity only")
    chosen = parser.parse_args()
    names = ["popularity", "item_knn"] if chosen.quick else chosen.sources
    with (chosen.data / "items.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    columns, split_config, id_column, refit = TABLES["userID" if "itemID" in rows[0] else "user_id"]
    ids = [row[id_column] for row in rows]
    interactions, _ = read_interactions(chosen.data / "interactions.csv.gz", columns, np.array(ids), "drop")
    split = split_interactions(interactions, split_config)
    models, epochs = fitted(names, split.train, split.valid, None, chosen.seed)
    weights, reached = fit_weights(models, split.train, split.valid, K, seed=chosen.seed)

    every = dict.fromkeys(models, 1.0)
    width = K * len(models)
    pool = retrieve_merged(models, split.train, users_of(split.valid), width, every)
    judged = judge(pool, split.valid)
    chosen_shares = {
        way: best_shares(pool_votes(pool, vote), judged.hits, judged.n_truth) for way, vote in OTHERS.items()
    }
    final, seen = models, split.train
    if refit:
        seen = split.train.concat(split.valid)
        final, _ = fitted(names, seen, None, epochs, chosen.seed)
    people = users_of(split.test)
    lists = {name: retrieve(final, seen, people, K, order_by=name) for name in names}
    lists["merged"] = retrieve_merged(final, seen, people, K, weights)
    pool = retrieve_merged(final, seen, people, width, every)
    for way, (shares, _) in chosen_shares.items():
        lists[way] = ordered(pool, pool_votes(pool, OTHERS[way]), shares)
    measured = {name: judge(found, split.test).metrics([20]) for name, found in lists.items()}
    gain = {}
    for metric in METRICS:
        best = max(names, key=lambda name: measured[name].mean()[metric])
        found = bootstrap_difference(measured[best].per_user[metric], measured["merged"].per_user[metric])
        gain[metric] = {"over": best, "gain": found.estimate, "low": found.low, "high": found.high}
    result = {
        "test": {name: {m: round(found.mean()[m], 4) for m in METRICS} for name, found in measured.items()},
        "valid_ndcg@20": {"merged": reached} | {way: value for way, (_, value) in chosen_shares.items()},
        "weights": weights,
        "gain": gain,
    }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
