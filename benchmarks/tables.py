"""Tables of retrievers on public data: settings chosen on validation, then three seeds measured on test.

    python benchmarks/tables.py --data DIR --work DIR [--table films] [--models ease ...] [--pause 540]

`--table baby`: DIR holds items.csv and interactions.csv.gz with the column x_label_diffmm. Models that need
no features, against DiffMM's published table and by its protocol: trained on train alone, train items masked
at test, test on label 2.

`--table films`: DIR holds items.csv, interactions.csv.gz with the column colakg_split, and
llm_item_text_colakg.jsonl.gz. Two features, MiniLM vectors of titles, genres and plots, and of texts that a
language model wrote. A fifth of each user's train choices is validation; the chosen setting is then refitted
on train and validation for as many epochs as were best, and both are masked at test.

The row `merged` is one list of all rows, with weights from validation (`candidates.order_by: merged`), and
`merged_ids` one of the rows without features; `gain_over` is what it gains over each row, with its interval
over users.
`seconds_to_best` counts from the raw files to the best figure on validation: reading, embedding what the
model reads, and every fit of the search.

Every fit is one piece, cached under `--work` with its checkpoints. After `--pause` seconds the command stops
where it is, says so, and the same command goes on. A fit that would train longer than `--minutes` is cut
there and marked `converged: false`; the weights measured are the best on validation so far. A row's `search`
lists every setting that was tried, with its validation figure. All seconds are those of the processor, over
all threads, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from public_data import Data, baby, films
from table_grids import BABY, FILMS, METRIC, UNSEEDED, Setting

from recsys import bootstrap_difference, evaluate, retrieve
from recsys.checkpoint import load_checkpoint
from recsys.feature_settings import FEATURE_SETTINGS
from recsys.knock_outs import KNOCK_OUTS
from recsys.merge import fit_weights, retrieve_merged
from recsys.models import build_model, load_model, save_model
from recsys.settings import TrainConfig
from recsys.train import EpochRecord, fit

KS = (10, 20)
Values = dict[str, NDArray[np.float64]]


class Paused(Exception):
    """The time of this call is over; what was done is kept."""


class Cut(Exception):
    """One fit has had its minutes."""


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

        Done before, it is only read, unless its weights are gone and asked for, or it was cut at other
        minutes.
        """
        refitted = [] if epochs is None else [epochs]
        key = json.dumps([model, setting, seed, *refitted], sort_keys=True)
        folder = self.work / f"{model}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
        card = folder / "piece.json"
        if card.is_file() and (not weights or (folder / "model.safetensors").is_file()):
            done = json.loads(card.read_text())
            if done["cut_at"] in (None, self.minutes):
                return folder, done
        train = self.data.split.train if epochs is None else self.data.known
        valid = self.data.split.valid if epochs is None else None
        clock, began = folder / "seconds", time.process_time()
        before = float(clock.read_text()) if clock.is_file() else 0.0
        recommender = build_model(model, setting["params"], train, self.data.features, seed=seed)
        config = TrainConfig.model_validate(
            setting["train"] | {"seed": seed} | ({"epochs": epochs} if epochs else {})
        )
        folder.mkdir(exist_ok=True)

        def watch(record: EpochRecord) -> None:
            clock.write_text(str(spent := before + time.process_time() - began))
            if epochs is None and spent > 60 * self.minutes:
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
            cut_at = None
        except Cut:
            found = load_checkpoint(folder / "checkpoints")
            assert found is not None
            kept = {n.removeprefix("best/"): t for n, t in found.tensors.items() if n.startswith("best/")}
            if not kept:
                raise SystemExit(f"{model}: no epoch was measured within {self.minutes} minutes") from None
            recommender.restore({name: tensor.numpy() for name, tensor in kept.items()})
            ran, best, converged = found.meta["epoch"], found.meta["best_epoch"], False
            cut_at = self.minutes
        seconds = before + time.process_time() - began
        done = {"setting": setting, "seed": seed, "seconds": round(seconds, 1), "valid": {}}
        done |= {"epochs": ran, "best_epoch": best, "converged": converged, "cut_at": cut_at}
        if valid is not None:
            lists = retrieve({"model": recommender}, train, self._users("valid"), max(KS))
            done["valid"] = evaluate(lists, valid, KS).mean()
        save_model(recommender, folder)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        card.write_text(json.dumps(done))
        sys.stderr.write(f"{model} {json.dumps(done)}\n")
        if time.monotonic() > self.ends:
            raise Paused
        return folder, done

    def chosen(self, model: str, grid: list[Setting], seed: int) -> tuple[Path, dict[str, Any], list[Any]]:
        """The fit that was best on validation, in its folder with its weights, and all that were tried."""
        search = [self.piece(model, setting, seed) for setting in grid]
        kept, best = max(search, key=lambda found: float(found[1]["valid"][METRIC]))
        kept, best = self.piece(model, best["setting"], seed, weights=True)
        for folder, _ in search:
            if folder != kept:
                (folder / "model.safetensors").unlink(missing_ok=True)
        return kept, best, [done for _, done in search]

    def final(self, model: str, best: Mapping[str, Any], seed: int) -> tuple[Path, dict[str, Any]]:
        """The fit that is measured on test."""
        # 0 epochs: a closed form, which has none to choose.
        best_epoch = -1 if best["best_epoch"] is None else best["best_epoch"]
        epochs = best_epoch + 1 if self.data.refit else None
        return self.piece(model, best["setting"], seed, epochs=epochs, weights=True)

    def row(self, model: str, grid: list[Setting], seeds: list[int]) -> dict[str, Any]:
        """The best setting by validation on the first seed, and its test figures on all of them."""
        _, best, search = self.chosen(model, grid, seeds[0])
        fits = [self.final(model, best, seed) for seed in seeds]
        runs = [done for _, done in fits]
        values = [self.tested(folder) for folder, _ in fits]
        metrics = {name: [float(v[name].mean()) for v in values] for name in values[0]}
        read = self.data.seconds.get("choices", 0.0)
        if model in FEATURE_SETTINGS:
            read += sum(self.data.seconds.get(name, 0.0) for name in self.data.features)
        return {
            "test": {name: round(float(np.mean(values)), 4) for name, values in metrics.items()},
            "test_std": {name: round(float(np.std(values, ddof=1)), 4) for name, values in metrics.items()}
            if len(seeds) > 1
            else {},
            "seeds": len(seeds),
            "converged": best["converged"] and (self.data.refit or all(run["converged"] for run in runs)),
            "refitted": self.data.refit,
            "seconds_to_best": round(read + sum(done["seconds"] for done in search), 1),
            "seconds": [run["seconds"] for run in runs],
            "epochs": [run["epochs"] for run in runs],
            "setting": best["setting"],
            "valid": round(best["valid"][METRIC], 5),
            "search": [
                {"setting": d["setting"], METRIC: round(d["valid"][METRIC], 5), "seconds": d["seconds"]}
                for d in search
            ],
        }

    def merged(self, names: Mapping[str, list[Setting]], seed: int) -> tuple[dict[str, Any], Values]:
        """One list of all these models, its weights from validation, and its values on test."""
        fits = {name: self.chosen(name, grid, seed)[:2] for name, grid in names.items()}
        train, valid = self.data.split.train, self.data.split.valid
        tried = {name: load_model(folder, train, self.data.features) for name, (folder, _) in fits.items()}
        weights, reached = fit_weights(tried, train, valid, max(KS), seed=seed)
        folders = {name: self.final(name, best, seed)[0] for name, (_, best) in fits.items()}
        models = {n: load_model(f, self.data.known, self.data.features) for n, f in folders.items()}
        lists = retrieve_merged(models, self.data.known, self._users("test"), max(KS), weights)
        found = evaluate(lists, self.data.split.test, KS)
        row = {
            "test": {name: round(value, 4) for name, value in found.mean().items()},
            "weights": {name: round(weight, 3) for name, weight in weights.items() if weight},
            "valid": round(reached, 5),
            "gain_over": {n: gains(self.tested(f), found.per_user) for n, f in folders.items()},
        }
        return row, dict(found.per_user)

    def tested(self, folder: Path) -> Values:
        """Test values per user of the model kept in a folder."""
        kept = folder / "test.npz"
        if not kept.is_file():
            model = load_model(folder, self.data.known, self.data.features)
            lists = retrieve({"model": model}, self.data.known, self._users("test"), max(KS))
            np.savez(kept, **evaluate(lists, self.data.split.test, KS).per_user)
        return dict(np.load(kept))

    def _users(self, part: str) -> list[str]:
        truth = getattr(self.data.split, part)
        return [str(user) for user in truth.user_ids[np.unique(truth.user_rows)]]


def gains(a: Values, b: Values) -> dict[str, list[float]]:
    """What b gains over a, with the bounds of the interval over users."""
    found = {name: bootstrap_difference(a[name], b[name]) for name in ("recall@20", METRIC)}
    return {name: [round(v, 4) for v in (g.estimate, g.low, g.high)] for name, g in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--table", choices=TABLES, default="baby")
    parser.add_argument("--models", nargs="*", help="these rows only")
    parser.add_argument("--control", choices=KNOCK_OUTS, help="features that say nothing instead")
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
    names = chosen.models or list(grids)
    work = chosen.work / chosen.table
    own = work / chosen.control if chosen.control else work
    own.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + chosen.pause
    # Vectors are minutes of embedding: not for rows that do not read them.
    read_features = FEATURE_SETTINGS.keys() & set(names)
    data = read(chosen.data, work, ("plot", "told") if read_features else ())
    if chosen.control:
        known = {n: KNOCK_OUTS[chosen.control](t, chosen.seed) for n, t in data.features.items()}
        data = replace(data, features=known)
    bench = Bench(data, own, ends, chosen.minutes)
    seeds = list(range(chosen.seed, chosen.seed + (1 if chosen.quick else chosen.seeds)))
    rows: dict[str, Any] = {}
    paused = False
    try:
        for name in names:
            rows[name] = bench.row(name, grids[name], seeds[:1] if name in UNSEEDED else seeds)
        plain = [name for name in names if name not in FEATURE_SETTINGS]
        if len(names) > 1:
            rows["merged"], values = bench.merged({name: grids[name] for name in names}, seeds[0])
        if data.features and 1 < len(plain) < len(names):
            rows["merged_ids"], ids = bench.merged({name: grids[name] for name in plain}, seeds[0])
            rows["merged"]["gain_over"]["merged_ids"] = gains(ids, values)
    except Paused:
        paused = True
    result = {"table": chosen.table, "paused": paused, "published": dict(data.published), "rows": rows}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
