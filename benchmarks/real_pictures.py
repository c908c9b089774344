"""Real pictures: can captions that a small model writes of posters place films whose texts nobody has?

    python benchmarks/real_pictures.py --data DIR --work DIR [--seeds 3] [--seed 0] [--quick]

DIR holds ml1m_posters. A fifth of the films with a poster, drawn at random, is cold: all their choices are
test. A small convolutional network learns from the posters (64 pixels high) and genres of warm films alone,
chooses on a tenth of them from which probability on it names a genre, and writes the genres it sees on the
posters of cold films, whose texts are hidden. Then films are features by MiniLM, and cold films are ranked
among each other for users by their warm choices. Warm films are told by their true genres; cold films by
their captions (`caption`), by those of other cold films (`permuted`), or by their true genres (`genres`: what
a perfect captioner of this kind would give). `title` and `plot` are what texts would give if they were not
hidden; `title+caption` and `title+permuted` say what the picture adds to a title.

Ids are drawn anew: many films share a caption, ties go by id, and MovieLens numbers films by fame. Each seed
draws other cold films, another captioner and another model. `difference` rows are NDCG@20 with intervals over
the users of each seed. Everything is published whatever it is.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from cold_items import GRIDS, METRICS, Cold, fitted
from numpy.typing import NDArray
from PIL import Image
from public_data import embedded
from torch import nn

from extract.features import FeatureTable
from recsys import Interactions, bootstrap_difference, read_interactions
from recsys.interactions import InteractionColumns

HEIGHT, WIDTH = 64, 44
MODELS = ("content_search", "lirdrec")
SHOWN = ("caption", "permuted", "genres", "title", "plot", "title+caption", "title+permuted")
QUICK = SHOWN[:4]
PAIRS = (
    ("random", "caption"), ("permuted", "caption"), ("title", "caption"), ("plot", "caption"),
    ("caption", "genres"), ("title", "title+caption"), ("title+permuted", "title+caption"),
)  # fmt: skip


def films_with_posters(folder: Path) -> tuple[list[dict[str, str]], Interactions]:
    with (folder / "items.csv").open(encoding="utf-8", newline="") as lines:
        rows = [
            r for r in csv.DictReader(lines) if r["has_poster"] == "1" and r["poster_is_placeholder"] == "0"
        ]
    columns = InteractionColumns(user="user_id", item="item_id")
    whole, _ = read_interactions(
        folder / "interactions.csv.gz", columns, [r["item_id"] for r in rows], unknown="drop"
    )
    return rows, whole


def posters(folder: Path, rows: Sequence[Mapping[str, str]]) -> NDArray[np.uint8]:
    """[I, 3, HEIGHT, WIDTH]."""
    pictures = np.empty((len(rows), 3, HEIGHT, WIDTH), dtype=np.uint8)
    with zipfile.ZipFile(folder / "posters_224.zip") as archive:
        for n, row in enumerate(rows):
            with Image.open(io.BytesIO(archive.read(row["poster_file"]))) as picture:
                small = picture.convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.BOX)
                pictures[n] = np.asarray(small).transpose(2, 0, 1)
    return pictures


def captioner(n_genres: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width, out in ((3, 32), (32, 64), (64, 96), (96, 128)):
        layers += [nn.Conv2d(width, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(128, n_genres)
    )


def seen_genres(
    pictures: NDArray[np.uint8],
    truth: NDArray[np.bool_],
    warm: NDArray[np.bool_],
    epochs: int,
    seed: int,
) -> tuple[NDArray[np.bool_], dict[str, float]]:
    """The genres [I, G] that a network taught by warm films sees on all posters, and how well."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    held = warm & (rng.random(len(warm)) < 0.1)
    rows = np.flatnonzero(warm & ~held)
    inputs = torch.from_numpy(pictures).float() / 127.5 - 1
    targets = torch.from_numpy(truth).float()
    model = captioner(truth.shape[1])
    steps = epochs * -(-len(rows) // 64)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(epochs):
        order = rng.permutation(rows)
        for start in range(0, len(order), 64):
            batch = torch.from_numpy(order[start : start + 64])
            shift = tuple(int(n) for n in rng.integers(-4, 5, size=2))
            shown = torch.roll(inputs[batch], shift, dims=(2, 3))
            shown = shown.flip(3) if rng.random() < 0.5 else shown
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(model(shown), targets[batch]).backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        found = torch.cat([torch.sigmoid(model(part)) for part in inputs.split(256)]).numpy()
    best = found == found.max(axis=1, keepdims=True)
    limits = np.arange(0.1, 0.7, 0.05)
    named = {limit: best | (found >= limit) for limit in limits}
    limit = max(limits, key=lambda at: f1(named[at][held], truth[held]))
    # The same words for every film: the two commonest genres of warm films, the best that needs no picture.
    always = np.zeros(truth.shape[1], dtype=np.bool_)
    always[np.argsort(-truth[warm].sum(axis=0))[:2]] = True
    quality = {
        "threshold": float(limit),
        "f1_cold": f1(named[limit][~warm], truth[~warm]),
        "f1_warm": f1(named[limit][rows], truth[rows]),
        "f1_cold_without_looking": f1(np.broadcast_to(always, truth[~warm].shape), truth[~warm]),
    }
    return named[limit], {name: round(value, 4) for name, value in quality.items()}


def f1(named: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Over all pairs of a film and a genre."""
    return float(2 * (named & truth).sum() / (named.sum() + truth.sum()))


def texts(
    rows: Sequence[Mapping[str, str]], cold: NDArray[np.bool_], told: Sequence[str], seed: int
) -> Callable[[str], list[str]]:
    """What each film is told by, under a name of SHOWN."""
    true = [sentence(row["genres"].split("|")) for row in rows]
    caption = [told[n] if cold[n] else true[n] for n in range(len(rows))]
    moved = list(caption)
    places = np.flatnonzero(cold)
    for place, other in zip(places, np.random.default_rng(seed).permutation(places), strict=True):
        moved[place] = caption[other]
    titles, plots = ([row[key] for row in rows] for key in ("title", "plot"))
    made = {"caption": caption, "permuted": moved, "genres": true, "title": titles, "plot": plots}
    return lambda name: [
        ". ".join(parts) for parts in zip(*(made[part] for part in name.split("+")), strict=True)
    ]


def sentence(genres: Sequence[str]) -> str:
    return f"a poster of a film: {', '.join(genres).lower()}"


class Bench:
    """One seed; what is slow is kept under `work`."""

    def __init__(self, chosen: argparse.Namespace, seed: int, ends: float) -> None:
        self.work, self.seed, self.ends, self.chosen = chosen.work / f"seed-{seed}", seed, ends, chosen
        self.work.mkdir(parents=True, exist_ok=True)
        self.rows, whole = films_with_posters(chosen.data)
        if chosen.quick:
            whole = whole.take(whole.user_rows % 10 == 0)
        codes = np.random.default_rng([7, seed]).permutation(whole.n_items)
        self.ids = np.array([f"f{code:05d}" for code in codes])
        self.data = Cold.split(replace(whole, item_ids=self.ids), "random", seed)
        self.cold = np.bincount(self.data.test.item_rows, minlength=whole.n_items) > 0

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        path = self.work / f"{name}.json"
        if not path.is_file():
            if time.monotonic() > self.ends:
                sys.stdout.write(json.dumps({"paused": True}) + "\n")
                raise SystemExit(75)
            began = time.monotonic()
            path.write_text(json.dumps(make()))
            sys.stderr.write(f"seed {self.seed} {name} {time.monotonic() - began:.0f} s\n")
        return json.loads(path.read_text())

    def captions(self) -> dict[str, Any]:
        names = sorted({genre for row in self.rows for genre in row["genres"].split("|")})
        truth = np.array([[genre in row["genres"].split("|") for genre in names] for row in self.rows])
        epochs = 2 if self.chosen.quick else self.chosen.epochs
        found, quality = seen_genres(
            posters(self.chosen.data, self.rows), truth, ~self.cold, epochs, self.seed
        )
        told = [sentence([g for g, there in zip(names, row, strict=True) if there]) for row in found.tolist()]
        return {"told": told, "quality": quality}

    def values(self, model: str, shown: str, told: Sequence[str]) -> dict[str, list[float]]:
        features: dict[str, FeatureTable] = {}
        if shown != "random":
            said = texts(self.rows, self.cold, told, self.seed)(shown)
            once = sorted(set(said))
            # These texts are the same for every seed.
            folder = self.chosen.work if shown in {"title", "plot", "genres"} else self.work
            cache = folder / f"{shown}.safetensors"
            table = embedded(cache, [str(n) for n in range(len(once))], once)
            place = {text: n for n, text in enumerate(once)}
            rows = [place[text] for text in said]
            features["text"] = FeatureTable(tuple(self.ids), table.matrix[rows], table.present[rows])
        fit = fitted(model, GRIDS[model][0], self.data.train, features, self.seed)
        return self.data.measure(fit, among_all=False)

    def row(self) -> dict[str, Any]:
        written = self.kept("captions", self.captions)
        values = {"random": self.kept("random", lambda: self.values("random", "random", []))}
        models = MODELS[:1] if self.chosen.quick else self.chosen.models
        result: dict[str, Any] = {"captioner": written["quality"], "cold_films": int(self.cold.sum())}
        for model in models:
            for shown in QUICK if self.chosen.quick else SHOWN:
                make = lambda m=model, s=shown: self.values(m, s, written["told"])  # noqa: E731
                values[shown] = self.kept(f"{model}-{shown}", make)
            result[model] = {
                shown: {metric: round(float(np.mean(found[metric])), 4) for metric in METRICS}
                for shown, found in values.items()
            }
            differences = {}
            for base, other in PAIRS:
                if not {base, other} <= values.keys():
                    continue
                both = (np.array(values[name]["ndcg@20"]) for name in (base, other))
                found = bootstrap_difference(*both)
                differences[f"{other} - {base}"] = [
                    round(v, 4) for v in (found.estimate, found.low, found.high)
                ]
            result[model]["difference"] = differences
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/real_pictures"))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=9.0, help="no piece begins after these")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the users, two epochs, content search"
    )
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    ends = time.monotonic() + 60 * chosen.minutes
    if chosen.quick:
        chosen.work, chosen.seeds = chosen.work / "quick", 1
    seeds = range(chosen.seed, chosen.seed + chosen.seeds)
    result = {seed: Bench(chosen, seed, ends).row() for seed in seeds}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
