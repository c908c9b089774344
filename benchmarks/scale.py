"""Candidates for millions of items: seconds, memory, recall as the catalogue grows, and what 2M would take.

    python benchmarks/scale.py --work DIR [--items 50000 100000 200000] [--minutes 9] [--seed 0] [--quick]

Shops are drawn: half as many users as items, 25 choices per item, four fifths of them in three topics of the
user and one fifth by fame, so that a few items are in a large part of all histories; features of 64 numbers
lie near the topic's. Each piece is one model at one size in a process of its own, kept under DIR, so that a
call that was stopped goes on. Times are seconds of one core: `solve` makes sparse EASE, ALS (three rounds,
times five) or content search; `lists` finds the exact best 50 of all users, measured on 1000; `index` makes
the approximate index of item vectors, and `index_recall` is the share of the exact 50 it finds. `ease_recall`
is the same of sparse EASE against exact EASE, at a size that the latter can take.

The last line holds all pieces and, as `extrapolated`, hours and GiB at the target: time by the power of the
size fitted to the three largest shops, memory by the straight line through them. Nothing at the target is
measured. `fits` compares its memory with 20 GB. Needs the extra `ann`.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from extract.features import FeatureTable
from recsys.candidates import block_within
from recsys.interactions import Interactions
from recsys.models import build_model
from recsys.nearest_index import build_index, search_index
from recsys.ranking import Factors, id_places, top_k, top_k_factors

MODELS = ("sparse_ease", "als", "content_search")
TARGET, LIMIT_GB = 2_000_000, 20
TOPIC, WIDTH, PER_USER, K, SAMPLE = 200, 64, 50, 50, 1000
ROUNDS = 3


def shop(n_items: int, seed: int) -> tuple[Interactions, FeatureTable]:
    rng = np.random.default_rng([seed, n_items])
    n_users, n_topics = n_items // 2, n_items // TOPIC
    users = np.repeat(np.arange(n_users, dtype=np.int32), PER_USER)
    favourites = rng.integers(n_topics, size=(n_users, 3), dtype=np.int32)
    topics = favourites[users, rng.integers(3, size=len(users))]
    items = topics * TOPIC + (rng.random(len(users)) ** 2 * TOPIC).astype(np.int32)
    by_fame = rng.random(len(users)) < 0.2
    items[by_fame] = rng.random(by_fame.sum()) ** 3 * n_items
    pairs = np.unique(users.astype(np.int64) * n_items + items)
    ids = np.char.add("i", np.char.zfill(np.arange(n_items).astype(str), 8))
    interactions = Interactions(
        np.char.add("u", np.arange(n_users).astype(str)), ids,
        (pairs // n_items).astype(np.int32), (pairs % n_items).astype(np.int32),
    )  # fmt: skip
    centres = rng.standard_normal((n_topics, WIDTH), dtype=np.float32)
    features = np.repeat(centres, TOPIC, axis=0) + rng.standard_normal((n_items, WIDTH), dtype=np.float32)
    return interactions, FeatureTable(tuple(ids.tolist()), features)


def overlap(exact: NDArray[np.int32], found: NDArray[Any]) -> float:
    return float(np.mean([np.isin(a[a >= 0], b).mean() for a, b in zip(exact, found, strict=True)]))


def piece(name: str, n_items: int, seed: int, work: Path) -> dict[str, Any]:
    train, features = shop(n_items, seed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    given = {"text": features} if name == "content_search" else {}
    # The weight of what nobody chose is a user's total over all items, whatever their number.
    params = {"iterations": ROUNDS, "alpha0": 1000 / n_items} if name == "als" else {}
    clock = [time.process_time()]
    model: Any = build_model(name, params, train, given, seed=seed)
    model.solve()
    clock.append(time.process_time())
    rows = np.random.default_rng(seed).choice(train.n_users, min(SAMPLE, train.n_users), replace=False)
    rows, places = np.sort(rows).astype(np.int32), id_places(train.item_ids)
    block = block_within(4 * 2**30, n_items, 1)
    exact, _ = top_k(model, rows, train.matrix(), K, places=places, block=block)
    clock.append(time.process_time())
    found = {
        "choices": len(train),
        "solve_s": (clock[1] - clock[0]) * (15 / ROUNDS if name == "als" else 1),
        "lists_s": (clock[2] - clock[1]) * train.n_users / len(rows),
        "shop_gib": before / 2**20,
    }
    if isinstance(model, Factors):
        users, items = model.embeddings()
        exact, _ = top_k_factors(users[rows], items, None, K, places=places)
        clock.append(time.process_time())
        path = work / f"{name}-{n_items}.usearch"
        build_index(items, path)
        clock.append(time.process_time())
        near = search_index(path, users[rows], K)
        clock.append(time.process_time())
        found["index_s"] = clock[4] - clock[3]
        found["index_lists_s"] = (clock[5] - clock[4]) * train.n_users / len(rows)
        found["index_recall"] = overlap(exact, near)
        path.unlink()
    elif n_items <= 10_000:
        whole: Any = build_model("ease", {"l2": model.config.l2}, train)
        whole.solve()
        found["ease_recall"] = overlap(top_k(whole, rows, train.matrix(), K, places=places)[0], exact)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {key: round(float(value), 4) for key, value in (found | {"peak_gib": peak}).items()}


def extrapolated(rows: dict[int, dict[str, float]]) -> dict[str, Any]:
    """Hours by a fitted power, GiB by a straight line, from the three largest sizes."""
    sizes = sorted(rows)[-3:]
    if len(sizes) < 3:
        return {}
    found: dict[str, Any] = {}
    for key in rows[sizes[0]]:
        values = np.array([rows[n][key] for n in sizes])
        if key.endswith("_s"):
            power, offset = np.polyfit(np.log(sizes), np.log(values), 1)
            hours = np.exp(offset + power * np.log(TARGET)) / 3600
            found[key.replace("_s", "_h")] = {
                "hours": round(float(hours), 2),
                "power": round(float(power), 2),
            }
    line = np.polyfit(sizes, [rows[n]["peak_gib"] for n in sizes], 1)
    found["peak_gib"] = round(float(np.polyval(line, TARGET)), 1)
    found["fits"] = bool(found["peak_gib"] * 2**30 <= LIMIT_GB * 1e9)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/scale"))
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 25_000, 50_000, 100_000, 200_000])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=9.0, help="no piece begins after these")
    parser.add_argument("--quick", action="store_true", help="2,000 to 8,000 items")
    parser.add_argument("--piece", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(chosen.threads)
    if chosen.piece:
        found = piece(chosen.piece, chosen.items[0], chosen.seed, chosen.work)
        sys.stdout.write(json.dumps(found) + "\n")
        return
    sizes = [2_000, 4_000, 8_000] if chosen.quick else sorted(chosen.items)
    ends, rows = time.monotonic() + 60 * chosen.minutes, {}
    for n_items in sizes:
        for name in chosen.models:
            path = chosen.work / f"{name}-{n_items}-{chosen.seed}.json"
            if not path.is_file():
                if time.monotonic() > ends:
                    sys.stdout.write(json.dumps({"paused": True}) + "\n")
                    raise SystemExit(75)
                command = [sys.executable, __file__, "--piece", name, "--items", str(n_items)]
                command += ["--work", str(chosen.work), "--seed", str(chosen.seed)]
                command += ["--threads", str(chosen.threads)]
                path.write_bytes(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
                sys.stderr.write(f"{name} {n_items} {path.read_text()}")
            rows.setdefault(name, {})[n_items] = json.loads(path.read_text())
    result = {"measured": rows, "extrapolated": {name: extrapolated(found) for name, found in rows.items()}}
    sys.stdout.write(json.dumps({"target_items": TARGET, "seed": chosen.seed, **result}) + "\n")


if __name__ == "__main__":
    main()
