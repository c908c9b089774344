"""Tables of retrievers on public data: settings chosen on validation, then three seeds measured on test.

    python benchmarks/tables.py --data DIR --work DIR [--table films] [--models ease ...] [--pause 540]

`--table baby`: DIR holds items.csv and interactions.csv.gz with the column x_label_diffmm. Models that need
no features, against DiffMM's published table and by its protocol: trained on train alone, train items masked
at test, test on label 2.

`--table films`: DIR holds items.csv, interactions.csv.gz with the column colakg_split, and
llm_item_text_colakg.jsonl.gz. Two features, MiniLM vectors of titles, genres and plots, and of texts that a
language model wrote. A tenth of each user's train choices is validation; the chosen setting is then refitted
on train and validation for as many epochs as were best, and both are masked at test.

Every fit is one piece, cached under `--work` with its checkpoints. After `--pause` seconds the command stops
where it is, says so, and the same command goes on. A fit that would train longer than `--minutes` is cut
there and marked `converged: false`; the weights measured are the best on validation so far. A row's `search`
lists every setting that was tried, with its validation figure.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from public_data import Data, baby, films

from recsys import evaluate, retrieve
from recsys.checkpoint import load_checkpoint
from recsys.feature_settings import FEATURE_SETTINGS
from recsys.models import build_model, load_model, save_model
from recsys.settings import TrainConfig
from recsys.train import EpochRecord, fit

METRIC, KS = "ndcg@20", (10, 20)
Setting = dict[str, dict[str, Any]]


class Paused(Exception):
    """The time of this call is over; what was done is kept."""


class Cut(Exception):
    """One fit has had its minutes."""


def settings(params: Mapping[str, list[Any]], train: Mapping[str, list[Any]] | None = None) -> list[Setting]:
    """The product of all choices of a model's settings and of its training."""
    return [{"params": p, "train": t} for p in product_of(params) for t in product_of(train or {})]


def product_of(choices: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*choices.values()):
        yield dict(zip(choices, values, strict=True))


EPOCHS = {"epochs": [1000], "evaluate_every": [5], "patience": [5], "metric": [METRIC]}
BABY: dict[str, list[Setting]] = {
    "popularity": settings({}),
    "item_knn": settings({"neighbours": [50, 200, 1000], "shrink": [0.0, 50.0, 200.0, 1000.0]}),
    "ease": settings({"l2": [50.0, 100.0, 200.0, 400.0, 800.0]}),
    "sparse_ease": settings({"l2": [50.0, 100.0, 200.0, 400.0, 800.0], "neighbours": [50, 200]}),
    "graph_filter": settings({
        "alpha": [0.5, 0.7, 0.9],
        "power": [0.5, 0.75, 1.0],
        "coefficients": [[1.0], [2.0, -1.0]],
    }),
    "als": settings({"alpha0": [0.03, 0.1, 0.3, 1.0], "l2": [0.001, 0.003, 0.01, 0.03]}),
    "bpr_mf": settings({"reg": [1e-3, 1e-2]}, EPOCHS | {"learning_rate": [1e-3, 5e-3]}),
    "lightgcn": settings({"layers": [2], "reg": [1e-3, 3e-3, 1e-2]}, EPOCHS | {"learning_rate": [5e-3]}),
}


FEW = {"epochs": [60], "evaluate_every": [4], "patience": [3], "metric": [METRIC], "batch_size": [16384]}
FILMS: dict[str, list[Setting]] = {
    "popularity": settings({}),
    "item_knn": settings({"neighbours": [50, 200], "shrink": [0.0, 50.0, 200.0]}),
    "ease": settings({"l2": [100.0, 200.0, 400.0, 800.0]}),
    "sparse_ease": settings({"l2": [200.0, 400.0], "neighbours": [200]}),
    "als": settings({"alpha0": [0.03, 0.1, 0.3], "l2": [0.001, 0.003, 0.01], "embedding_size": [128]}),
    "graph_filter": settings({
        "alpha": [0.5, 0.7],
        "power": [1.0, 2.0],
        "content_weight": [0.1, 0.3],
        "coefficients": [[1.0]],
    }),
    "bpr_mf": settings({"reg": [1e-3]}, FEW | {"learning_rate": [1e-2]}),
    "lightgcn": settings({"layers": [2], "reg": [1e-4]}, FEW | {"learning_rate": [1e-2]}),
    "vbpr": settings({"reg": [1e-3]}, FEW | {"learning_rate": [1e-2]}),
    "freedom": settings({}, FEW | {"learning_rate": [1e-2]}),
    "bm3": settings({}, FEW | {"learning_rate": [1e-2]}),
    "smore": settings({}, FEW | {"learning_rate": [1e-2]}),
    "lirdrec": settings({"layers": [2], "embedding_size": [32]}, FEW | {"learning_rate": [5e-3]}),
    "cm3": settings({"layers": [2], "embedding_size": [32]}, FEW | {"learning_rate": [5e-3]}),
}


TABLES = {"baby": (baby, BABY), "films": (films, FILMS)}


@dataclass(frozen=True)
class Bench:
    """One table under way: its data, where pieces are kept, and when this call must end."""

    data: Data
    work: Path
    ends: float
    minutes: float

    def piece(
        self, model: str, setting: Setting, seed: int, *, epochs: int | None = None, weights: bool = False
    ) -> tuple[Path, dict[str, Any]]:
        """One fit on train, measured on validation, or of so many epochs on all that is known.

        Done before, it is only read, unless its weights are gone and asked for.
        """
        refitted = [] if epochs is None else [epochs]
        key = json.dumps([model, setting, seed, self.minutes, *refitted], sort_keys=True)
        folder = self.work / f"{model}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
        card = folder / "piece.json"
        if card.is_file() and (not weights or (folder / "model.safetensors").is_file()):
            return folder, json.loads(card.read_text())
        train = self.data.split.train if epochs is None else self.data.known
        valid = self.data.split.valid if epochs is None else None
        recommender = build_model(model, setting["params"], train, self.data.features, seed=seed)
        config = TrainConfig.model_validate(
            setting["train"] | {"seed": seed} | ({"epochs": epochs} if epochs else {})
        )
        records: list[EpochRecord] = []
        done = {"setting": setting, "seed": seed}
        began = time.perf_counter()
        spent = sum(row["seconds"] for row in _records(folder / "checkpoints"))

        def watch(record: EpochRecord) -> None:
            records.append(record)
            if spent + sum(r.seconds for r in records) > 60 * self.minutes:
                raise Cut
            if time.monotonic() > self.ends:
                raise Paused

        try:
            history = fit(
                recommender,
                train,
                valid,
                config,
                checkpoints=folder / "checkpoints",
                progress=watch,
            )
            ran, best, converged = len(history.records), history.best_epoch, history.stopped != "epochs"
            seconds = sum(r.seconds for r in history.records) or time.perf_counter() - began
        except Cut:
            found = load_checkpoint(folder / "checkpoints")
            assert found is not None
            # Without validation there is no best yet, and the last weights stay.
            kept = {n.removeprefix("best/"): t for n, t in found.tensors.items() if n.startswith("best/")}
            if kept:
                recommender.restore({name: tensor.numpy() for name, tensor in kept.items()})
            ran, best, converged = found.meta["epoch"], found.meta["best_epoch"], False
            seconds = 60 * self.minutes
        done |= {"seconds": round(seconds, 1), "epochs": ran, "best_epoch": best, "converged": converged}
        done["valid"] = self._measure(recommender, "valid") if epochs is None else {}
        save_model(recommender, folder)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        card.write_text(json.dumps(done))
        return folder, done

    def row(self, model: str, grid: list[Setting], seeds: list[int]) -> dict[str, Any]:
        """The best setting by validation on the first seed, and its test figures on all of them."""
        search = []
        for setting in grid:
            folder, done = self.piece(model, setting, seeds[0])
            search.append((done["valid"][METRIC], folder, done))
            self._note(model, done)
        _, kept, best = max(search, key=lambda found: found[0])
        for _, folder, _ in search:
            if folder != kept:
                (folder / "model.safetensors").unlink(missing_ok=True)
        # 0 epochs: a closed form, which has none to choose.
        best_epoch = -1 if best["best_epoch"] is None else best["best_epoch"]
        epochs = best_epoch + 1 if self.data.refit else None
        runs = [
            self._tested(*self.piece(model, best["setting"], seed, epochs=epochs, weights=True))
            for seed in seeds
        ]
        metrics = {name: [run["test"][name] for run in runs] for name in runs[0]["test"]}
        return {
            "test": {name: round(float(np.mean(values)), 4) for name, values in metrics.items()},
            "test_std": {name: round(float(np.std(values, ddof=1)), 4) for name, values in metrics.items()}
            if len(seeds) > 1
            else {},
            "seeds": len(seeds),
            "converged": best["converged"] and (self.data.refit or all(run["converged"] for run in runs)),
            "refitted": self.data.refit,
            "seconds": [run["seconds"] for run in runs],
            "epochs": [run["epochs"] for run in runs],
            "setting": best["setting"],
            "search": [{"setting": d["setting"], METRIC: round(value, 5)} for value, _, d in search],
        }

    def _tested(self, folder: Path, done: dict[str, Any]) -> dict[str, Any]:
        card = folder / "test.json"
        if not card.is_file():
            model = load_model(folder, self.data.known, self.data.features)
            card.write_text(json.dumps(self._measure(model, "test")))
        return done | {"test": json.loads(card.read_text())}

    def _measure(self, model: Any, part: str) -> dict[str, float]:
        truth = getattr(self.data.split, part)
        seen = self.data.split.train if part == "valid" else self.data.known
        users = [str(user) for user in truth.user_ids[np.unique(truth.user_rows)]]
        return evaluate(retrieve({"model": model}, seen, users, max(KS)), truth, KS).mean()

    def _note(self, model: str, done: Mapping[str, Any]) -> None:
        sys.stderr.write(f"{model} {json.dumps(done)}\n")
        if time.monotonic() > self.ends:
            raise Paused


def _records(checkpoints: Path) -> list[dict[str, Any]]:
    found = load_checkpoint(checkpoints)
    return [] if found is None else list(found.meta["records"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--table", choices=TABLES, default="baby")
    parser.add_argument("--models", nargs="*", help="these rows only")
    parser.add_argument("--seed", type=int, default=0, help="the first of the seeds")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=15.0, help="of training, a fit at most")
    parser.add_argument("--pause", type=float, default=float("inf"), help="seconds until this call stops")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one seed, closed forms of one setting")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    read, grids = TABLES[chosen.table]
    if chosen.quick:
        grids = {name: grids[name][:1] for name in ("popularity", "item_knn", "ease")}
    work = chosen.work / chosen.table
    work.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + chosen.pause
    # Vectors are minutes of embedding: not for rows that do not read them.
    read_features = FEATURE_SETTINGS.keys() & set(chosen.models or grids)
    data = read(chosen.data, work, ("plot", "told") if read_features else ())
    bench = Bench(data, work, ends, chosen.minutes)
    seeds = list(range(chosen.seed, chosen.seed + (1 if chosen.quick else chosen.seeds)))
    rows, paused = {}, False
    try:
        for name in chosen.models or grids:
            rows[name] = bench.row(name, grids[name], seeds)
    except Paused:
        paused = True
    result = {"table": chosen.table, "paused": paused, "published": dict(data.published), "rows": rows}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
