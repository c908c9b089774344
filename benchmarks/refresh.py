"""A night in a large shop: 1 % of the items changed and new choices, refreshed and done anew.

    python benchmarks/refresh.py [--items 100000] [--users 20000] [--seed 0] [--quick] [--data DIR]

The catalogue has titles, attributes and pictures; captions and text vectors come from an engine without a
model, and ready vectors of width 384 are drawn around 200 centres, so that no time is a model's: what is
measured is all that surrounds one, and with real models the share is that of the items that changed. Content
search over both features retrieves 50 items per user. It is trained once, and a first refresh makes its
lists. Then of 1 % of the items six tenths get another title and another vector, two tenths leave and two
tenths are new; 1 % of the users choose once more, and some who are new choose five. `catalograph refresh`
brings the run up to that day, and `catalograph refresh --full` does everything anew with the same models,
each in a process of its own, the quick one before and after the slow one.

Claims: both have the same content hash, and the refresh takes at most 5 % of the time.

The last line is one JSON object; exit 1 where a claim fails (with --quick the share is told, not judged: what
a process costs to start is most of it then).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

PICTURES, WIDTH, CENTRES, EACH, LISTED = 1000, 384, 200, 20, 50
SHARE = 0.01
MOST = 0.05
WORDS = np.array([first + second for first in "bdfglmnprst" for second in ("ak", "el", "im", "on", "ur")])


@dataclass
class Shop:
    """Items and choices by row; what is written is what they are by now."""

    chance: np.random.Generator
    ids: list[str]
    titles: list[str]
    centres: np.ndarray[Any, Any]
    centre_of: np.ndarray[Any, Any]
    vectors: np.ndarray[Any, Any]
    choices: list[tuple[str, str, int]]

    def vectors_of(self, centres: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        noise = self.chance.standard_normal((len(centres), WIDTH)).astype(np.float32)
        return self.centres[centres] + np.float32(0.7) * noise

    def titles_of(self, count: int) -> list[str]:
        return [" ".join(line) for line in WORDS[self.chance.integers(0, len(WORDS), (count, 6))]]

    def choose(self, users: Sequence[str], each: int, moment: int) -> None:
        """So many choices of each, most of them of the first items."""
        rows = np.floor(len(self.ids) * self.chance.random((len(users), each)) ** 2).astype(np.int64)
        for user, own in zip(users, np.minimum(rows, len(self.ids) - 1), strict=True):
            self.choices += [
                (user, self.ids[row], moment + n) for n, row in enumerate(dict.fromkeys(own.tolist()))
            ]

    def pass_a_night(self) -> None:
        """What the docstring says."""
        n = len(self.ids)
        changed = self.chance.choice(n, int(n * SHARE * 0.8), replace=False)
        altered, gone = np.split(changed, [int(n * SHARE * 0.6)])
        for row, title in zip(altered.tolist(), self.titles_of(len(altered)), strict=True):
            self.titles[row] = title
        self.vectors[altered] = self.vectors_of(self.centre_of[altered])
        kept = np.setdiff1d(np.arange(n), gone)
        self.ids = [self.ids[row] for row in kept]
        self.titles = [self.titles[row] for row in kept]
        self.vectors, self.centre_of = self.vectors[kept], self.centre_of[kept]
        fresh = len(gone)
        self.ids += [f"item-{n + row:08d}" for row in range(fresh)]
        self.titles += self.titles_of(fresh)
        centres = self.chance.integers(0, CENTRES, fresh)
        self.centre_of = np.concatenate([self.centre_of, centres])
        self.vectors = np.concatenate([self.vectors, self.vectors_of(centres)])
        users = sorted({user for user, _, _ in self.choices})
        again = self.chance.choice(users, max(1, int(len(users) * SHARE)), replace=False)
        self.choose(again.tolist(), 1, 10**6)
        self.choose([f"late-{row}" for row in range(max(1, len(users) // 1000))], 5, 10**6)

    def write(self, folder: Path) -> None:
        """The catalogue, the vectors and the choices."""
        rows = len(self.ids)
        numbers = np.array([int(name[5:]) for name in self.ids])
        columns = {
            "item_id": self.ids,
            "title": self.titles,
            "photo": [f"{number % PICTURES}.jpg" for number in numbers.tolist()],
            "brand": WORDS[numbers % len(WORDS)].tolist(),
        }
        pq.write_table(pa.table(columns), folder / "catalog.parquet")
        flat = pa.array(np.ascontiguousarray(self.vectors, dtype=np.float32).ravel())
        vectors = pa.FixedSizeListArray.from_arrays(flat, WIDTH)
        pq.write_table(pa.table({"item_id": self.ids, "vector": vectors}), folder / "vectors.parquet")
        names = ("user_id", "item_id", "time")
        pairs = dict(zip(names, map(list, zip(*self.choices, strict=True)), strict=True))
        pq.write_table(pa.table(pairs), folder / "clicks.parquet")
        assert rows == len(self.vectors)


def open_shop(items: int, users: int, seed: int) -> Shop:
    chance = np.random.default_rng(seed)
    centres = chance.standard_normal((CENTRES, WIDTH)).astype(np.float32)
    centre_of = chance.integers(0, CENTRES, items)
    ids = [f"item-{row:08d}" for row in range(items)]
    shop = Shop(chance, ids, [], centres, centre_of, np.zeros((0, WIDTH)), [])
    shop.titles, shop.vectors = shop.titles_of(items), shop.vectors_of(centre_of)
    shop.choose([f"user-{row:06d}" for row in range(users)], EACH, 0)
    return shop


def write_settings(folder: Path, items: int) -> Path:
    """The configuration and the pictures."""
    chance = np.random.default_rng(0)
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for number in range(PICTURES):
        pixels = chance.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{number}.jpg")
    fake = {"engine": "fake", "buckets": max(4, min(1000, items // 1000))}
    settings = {
        "data": {
            "catalog": "catalog.parquet", "pictures": "pictures", "interactions": "clicks.parquet",
            "catalog_columns": {"picture": "photo", "attributes": ["brand"]},
            "interaction_columns": {"timestamp": "time"},
            "split": {"method": "random", "valid_share": 0.1, "test_share": 0.0},
            "unknown_items": "drop",
        },
        "caption": fake | {"prompt": "titled", "batch_size": 64},
        "features": {
            "text": {"template": "{title}. {caption}", "embed": fake},
            "drawn": {"vectors": {"path": "vectors.parquet"}},
        },
        "retrievers": {"content": {"model": "content_search", "features": ["text", "drawn"]}},
        "candidates": {"k": LISTED, "order_by": "content"},
    }  # fmt: skip
    config = folder / "shop.yaml"
    config.write_text(yaml.safe_dump(settings))
    return config


@dataclass(frozen=True)
class Done:
    """One process that ended."""

    seconds: float
    peak_mb: float
    stages: dict[str, dict[str, Any]]


def call(*arguments: str) -> Done:
    """The command line in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        command = [sys.executable, "-m", "catalograph", *arguments, "--json"]
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - began
        out.seek(0), err.seek(0)
        if process.returncode:
            raise SystemExit(f"{arguments[0]} exits {process.returncode}:\n{err.read()[-3000:]}")
        stages = json.loads(out.read())["stages"]
    told = ", ".join(f"{name} {row['seconds']:.1f}" for name, row in stages.items())
    print(f"{' '.join(arguments[:1])}: {seconds:.1f} s ({told})", file=sys.stderr)
    return Done(seconds, usage.ru_maxrss / 1024, stages)


def measure(folder: Path, items: int, users: int, seed: int) -> dict[str, Any]:
    """The whole experiment."""
    from catalograph.runs import content_hash

    config, runs = write_settings(folder, items), folder / "runs"
    shop = open_shop(items, users, seed)
    shop.write(folder)
    trained = call("recommend", "-c", str(config), "--run-dir", str(runs / "trained"))

    def refresh(name: str, come_from: str, *flags: str) -> Done:
        given = ("-c", str(config), "--run-dir", str(runs / name), "--from", str(runs / come_from))
        return call("refresh", *given, *flags)

    first = refresh("first", "trained")
    shop.pass_a_night()
    shop.write(folder)
    before = refresh("night", "first")
    full = refresh("full", "first", "--full")
    after = refresh("again", "first")
    hashes = {content_hash(runs / name) for name in ("night", "full", "again")}
    seconds = [before.seconds, after.seconds]
    return {
        "items": items, "users": users, "changed": SHARE, "seed": seed,
        "equal": len(hashes) == 1,
        "refresh_seconds": [round(value, 1) for value in seconds],
        "full_seconds": round(full.seconds, 1),
        "share": round(float(np.mean(seconds)) / full.seconds, 4),
        "users_ranked_anew": before.stages["recommend"]["anew"],
        "first_refresh_seconds": round(first.seconds, 1),
        "train_and_recommend_seconds": round(trained.seconds, 1),
        "refresh_peak_mb": round(before.peak_mb), "full_peak_mb": round(full.peak_mb),
        "refresh_stages": {name: row["seconds"] for name, row in before.stages.items()},
        "full_stages": {name: row["seconds"] for name, row in full.stages.items()},
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0, help="of the shop and of the night")
    parser.add_argument("--quick", action="store_true", help="5,000 items and 1,000 users")
    parser.add_argument("--data", type=Path, help="empty folder that is kept")
    chosen = parser.parse_args(argv)
    items, users = (5000, 1000) if chosen.quick else (chosen.items, chosen.users)
    with tempfile.TemporaryDirectory(prefix="catalograph-refresh-") as scratch:
        result = measure(chosen.data or Path(scratch), items, users, chosen.seed)
    print(json.dumps(result))
    return 0 if result["equal"] and (chosen.quick or result["share"] <= MOST) else 1


if __name__ == "__main__":
    sys.exit(main())
