"""Items that nobody chose yet: who finds them, by their features alone?

    python benchmarks/cold_items.py --data DIR --work DIR [--by least_chosen random] [--seed 0] [--quick]

DIR holds ml1m_posters. A fifth of the chosen items is made cold: the least chosen ones, or drawn at random
(the least chosen have few choices, so their figures are noisy, and nobody may want them). All their choices
are test; models learn from all others. Settings are chosen on a cold split of the train part, made in the
same way. Lists of 20 are made among the cold items alone (can a new item be given to the right people?) and
among all unseen items (does it reach a list at all?). Features are MiniLM vectors of titles, genres and
plots (`plot`), and of texts that a language model wrote (`told`). `permuted` rows are the chosen setting with
the features of other items. `difference` rows are NDCG@20 among cold items with intervals over users.

Models learn ids of warm items only, so for EASE, ALS or LightGCN all cold items tie; `popularity` stands for
them. amazon_baby has no texts or pictures, so nothing there can tell cold items apart.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from public_data import films

from extract.features import FeatureTable
from recsys import Interactions, SplitConfig, bootstrap_difference, evaluate, retrieve, split_interactions
from recsys.knock_outs import permuted
from recsys.list_rules import ListRules, ruled_lists
from recsys.models import build_model
from recsys.settings import TrainConfig
from recsys.train import fit

METRICS = ("recall@20", "ndcg@20")
SHARE = 0.2
LONG = {"batch_size": 16384, "learning_rate": 5e-3}
Setting = tuple[dict[str, Any], dict[str, Any]]
GRIDS: dict[str, list[Setting]] = {
    "random": [({}, {})],
    "popularity": [({}, {})],
    "content_search": [({}, {})],
    "graph_filter": [
        ({"content_weight": c, "neighbours": k}, {}) for c, k in itertools.product((0.3, 0.9), (20, 100))
    ],
    "vbpr": [({}, LONG | {"epochs": e, "learning_rate": 1e-2}) for e in (4, 12)],
    "lirdrec": [({"layers": 2, "embedding_size": 32}, LONG | {"epochs": e}) for e in (4, 12)],
    # Its loss compares all pairs of a batch.
    "cm3": [({"layers": 2, "embedding_size": 32}, LONG | {"epochs": 4, "batch_size": 4096})],
}


class Random:
    """Scores without a reason."""

    def __init__(self, n_items: int, seed: int) -> None:
        self._n, self._seed = n_items, seed

    def score(self, user_rows: NDArray[np.int32]) -> NDArray[np.float32]:
        rows = [np.random.default_rng([self._seed, row]).random(self._n) for row in user_rows.tolist()]
        return np.float32(rows)


@dataclass(frozen=True)
class Cold:
    """Warm choices to learn from, and the choices of cold items."""

    train: Interactions
    test: Interactions

    @classmethod
    def split(cls, whole: Interactions, by: str, seed: int) -> Cold:
        config = SplitConfig.model_validate({
            "valid_share": 0, "test_share": 0, "cold_share": SHARE, "cold_by": by, "seed": seed,
        })  # fmt: skip
        parts = split_interactions(whole, config)
        return cls(parts.train, parts.test)

    def measure(self, model: Any, *, among_all: bool) -> dict[str, list[float]]:
        """Values per user with a cold truth and a history."""
        known = np.isin(self.test.user_rows, self.train.user_rows)
        truth = self.test.take(known)
        cold = np.zeros(truth.n_items, dtype=np.bool_)
        cold[self.test.item_rows] = True
        people = [str(user) for user in truth.user_ids[np.unique(truth.user_rows)]]
        lists = ruled_lists(
            lambda models, users, k: retrieve(models, self.train, users, k),
            {"model": model}, self.train, people, 20, ListRules(None if among_all else cold),
        )  # fmt: skip
        found = evaluate(lists, truth, (20,)).per_user
        return {name: found[name].tolist() for name in METRICS}


def fitted(
    name: str, setting: Setting, train: Interactions, features: Mapping[str, FeatureTable], seed: int
) -> Any:
    """A model that has learned all of `train`."""
    if name == "random":
        return Random(train.n_items, seed)
    params, training = setting
    model = build_model(name, params, train, features, seed=seed)
    fit(model, train, None, TrainConfig.model_validate(training | {"seed": seed}))
    return model


class Bench:
    """Pieces kept under `work`, so that a call that was stopped goes on."""

    def __init__(self, work: Path, features: Mapping[str, FeatureTable], ends: float) -> None:
        self.work, self.features, self.ends = work, features, ends
        work.mkdir(parents=True, exist_ok=True)

    def piece(
        self, name: str, setting: Setting, data: Cold, seed: int, label: str, *, shuffled: bool = False
    ) -> dict[str, dict[str, list[float]]]:
        """Values per user among cold items and among all; `label` tells data sets apart."""
        key = json.dumps([name, setting, seed, label, shuffled, sorted(self.features)])
        path = self.work / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.json"
        if not path.is_file():
            if time.monotonic() > self.ends:
                sys.stdout.write(json.dumps({"paused": True}) + "\n")
                raise SystemExit(75)
            began = time.monotonic()
            given = self.features
            if shuffled:
                given = {n: permuted(table, seed) for n, table in given.items()}
            model = fitted(name, setting, data.train, given, seed)
            found = {
                "among_cold": data.measure(model, among_all=False),
                "among_all": data.measure(model, among_all=True),
            }
            path.write_text(json.dumps(found))
            mean = np.mean(found["among_cold"]["ndcg@20"])
            sys.stderr.write(f"{label} {key} {mean:.4f} {time.monotonic() - began:.0f} s\n")
        read: dict[str, dict[str, list[float]]] = json.loads(path.read_text())
        return read


def table(bench: Bench, whole: Interactions, by: str, grids: Mapping[str, list[Setting]], seed: int) -> Any:
    """All rows for one kind of cold items."""
    outer = Cold.split(whole, by, seed)
    inner = Cold.split(outer.train, by, seed)
    rows: dict[str, Any] = {}
    values: dict[str, NDArray[np.float64]] = {}
    for name, grid in grids.items():
        search = [
            float(np.mean(bench.piece(name, s, inner, seed, f"{by} inner")["among_cold"]["ndcg@20"]))
            for s in (grid if len(grid) > 1 else [])
        ]
        best = grid[int(np.argmax(search))] if search else grid[0]
        for shuffled in [False, True] if name not in {"random", "popularity"} else [False]:
            found = bench.piece(name, best, outer, seed, f"{by} outer", shuffled=shuffled)
            row = f"{name}, permuted" if shuffled else name
            rows[row] = {
                view: {metric: round(float(np.mean(v)), 4) for metric, v in measured.items()}
                for view, measured in found.items()
            } | (
                {"setting": best, "search": [round(v, 4) for v in search]} if search and not shuffled else {}
            )
            values[row] = np.array(found["among_cold"]["ndcg@20"])
    pairs = [(base, name) for base in ("random", "content_search") for name in values if name != base]
    differences = {}
    for base, name in pairs:
        if base in values:
            found = bootstrap_difference(values[base], values[name])
            differences[f"{name} - {base}"] = [round(v, 4) for v in (found.estimate, found.low, found.high)]
    n_cold = int(np.unique(outer.test.item_rows).size)
    return {
        "cold_items": n_cold, "test_choices": len(outer.test), "users": len(values["random"]),
        "rows": rows, "difference": differences,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/cold_items"))
    parser.add_argument(
        "--by", nargs="+", choices=["least_chosen", "random"], default=["least_chosen", "random"]
    )
    parser.add_argument("--models", nargs="+", choices=list(GRIDS), default=list(GRIDS))
    parser.add_argument("--features", nargs="+", default=["plot", "told"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=9.0, help="no piece begins after these")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="closed forms, texts alone, random cold items")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    chosen.work.mkdir(parents=True, exist_ok=True)
    names = ["plot"] if chosen.quick else chosen.features
    data = films(chosen.data, chosen.work, names)
    whole = data.split.train.concat(data.split.valid, data.split.test)
    if chosen.quick:
        grids = {name: GRIDS[name][:1] for name in ("random", "content_search", "graph_filter")}
        whole = whole.take(whole.user_rows % 10 == 0)
    else:
        grids = {name: GRIDS[name] for name in dict.fromkeys(["random", *chosen.models])}
    label = "quick" if chosen.quick else "-".join(names)
    bench = Bench(chosen.work / label, data.features, time.monotonic() + 60 * chosen.minutes)
    kinds = ["random"] if chosen.quick else chosen.by
    result = {by: table(bench, whole, by, grids, chosen.seed) for by in kinds}
    sys.stdout.write(json.dumps({"features": names, "seed": chosen.seed, **result}) + "\n")


if __name__ == "__main__":
    main()
