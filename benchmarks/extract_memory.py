"""Extracts a catalogue of a million items with engines that need no model: memory, rows per second, resuming.

    python benchmarks/extract_memory.py [--items 1000000] [--seed 0] [--quick] [--data DIR] [--limit 540]

The catalogue has a title, a text, two attributes and a picture per item; the items share 1,000 picture
files, but the instruction holds the title, so every item reaches the captioner. `extract --update`
brings a store up to date in a process of its own, and the kernel says what that process needed at most
(ru_maxrss, pages of memory-mapped files included). First 10,000 items, then all: that process is killed three
times at random moments and started again. Then the same command once more, with nothing to do.

Claims: at most 1 GB more than for 10,000 items; no committed shard is computed again; the second run takes
less than 60 s per million items. `--limit` ends a first run early: the same command goes on in DIR.

The last line is one JSON object; exit 1 where a claim fails, 3 where the limit ended the run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

from extract import ShardStore

SMALL, PICTURES, KILLS, BLOCK = 10_000, 1000, 3, 50_000
WORDS = np.array([first + second for first in "bdfglmnprst" for second in ("ak", "el", "im", "on", "ur")])


def write_data(folder: Path, items: int, seed: int) -> Path:
    """A catalogue of `items`, its pictures and a configuration; the configuration's path."""
    config = folder / "shop.yaml"
    if config.exists():
        return config
    chance = np.random.default_rng(seed)
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for number in range(PICTURES):
        pixels = chance.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{number}.jpg")
    names = ("item_id", "title", "text", "photo", "brand", "colour")
    with pq.ParquetWriter(folder / "catalog.parquet", pa.schema([(n, pa.string()) for n in names])) as writer:
        for start in range(0, items, BLOCK):
            rows = range(start, min(items, start + BLOCK))
            words = WORDS[chance.integers(0, len(WORDS), (len(rows), 18))]
            columns = (
                [f"item-{row:08d}" for row in rows],
                [" ".join(line[:4]) for line in words],
                [" ".join(line[4:16]) for line in words],
                [f"{number}.jpg" for number in chance.integers(0, PICTURES, len(rows))],
                words[:, 16].tolist(),
                words[:, 17].tolist(),
            )
            writer.write_table(pa.table(dict(zip(names, columns))))
    clicks = {"user_id": ["u1", "u2"], "item_id": ["item-00000000", "item-00000001"]}
    pq.write_table(pa.table(clicks), folder / "clicks.parquet")
    buckets = max(4, min(1000, items // 1000))
    fake = {"engine": "fake", "buckets": buckets}
    columns = {"text": ["text"], "picture": "photo", "attributes": ["brand", "colour"]}
    settings = {
        "data": {
            "catalog": "catalog.parquet", "pictures": "pictures", "interactions": "clicks.parquet",
            "catalog_columns": columns,
        },
        "caption": fake | {"prompt": "titled", "batch_size": 64},
        "features": {"all": {"template": "{title}. {text} {caption}", "embed": fake}},
        "retrievers": {"popularity": {"model": "popularity"}},
    }  # fmt: skip
    config.write_text(yaml.safe_dump(settings))
    return config


@dataclass(frozen=True)
class Finished:
    """One process that ended."""

    code: int
    seconds: float
    peak_mb: float


def extract(config: Path, kill_after: float | None = None) -> Finished:
    """Runs the command line in a process of its own; SIGKILL after that many seconds."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, "-m", "catalograph", "extract", "-c", str(config), "--update"]
    command += ["--store", str(config.parent / "store"), "--json"]
    began = time.monotonic()
    log = config.parent / "log.txt"
    with log.open("w") as stream:
        process = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream)
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if kill_after is not None and time.monotonic() - began > kill_after:
                process.send_signal(signal.SIGKILL)
            time.sleep(0.02)
    code = os.waitstatus_to_exitcode(status)
    process.returncode = code
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(f"extract exits {code}:\n{log.read_text()[-3000:]}")
    return Finished(code, time.monotonic() - began, usage.ru_maxrss / 1024)


def stores(config: Path) -> list[ShardStore]:
    """The shard stores below the configuration's store."""
    return [ShardStore.open(path.parent) for path in sorted((config.parent / "store").rglob("store.json"))]


def lines(config: Path) -> int:
    """Manifest lines of all stores: one per shard unless one was computed twice."""
    return sum(store.manifest.path.read_bytes().count(b"\n") for store in stores(config))


def first_run(config: Path, items: int, seed: int, deadline: float) -> list[Finished]:
    """Kills at random moments, then a run to the end; all processes so far, of earlier calls too."""
    record = config.parent / "processes.jsonl"
    runs = (
        [Finished(**json.loads(line)) for line in record.read_text().splitlines()] if record.exists() else []
    )
    chance = random.Random(seed)
    moments = [3 + chance.uniform(0, items / 10_000) for _ in range(KILLS)]
    while not runs or runs[-1].code:
        left = deadline - time.monotonic()
        if left <= 0:
            break
        runs.append(extract(config, min(left, moments[len(runs)] if len(runs) < KILLS else left)))
        with record.open("a") as file:
            file.write(json.dumps(asdict(runs[-1])) + "\n")
    return runs


def measure(folder: Path, items: int, seed: int, limit: float) -> dict[str, object] | None:
    """The whole experiment; None where the limit came first."""
    deadline = time.monotonic() + limit
    small = write_data(folder / "small", min(SMALL, items // 10), seed)
    large = write_data(folder / "large", items, seed)
    base = extract(small)
    runs = first_run(large, items, seed, deadline)
    if runs[-1].code:
        return None
    again = extract(large)
    found = stores(large)
    seconds = sum(run.seconds for run in runs)
    peak = max(run.peak_mb for run in (*runs, again))
    return {
        "items": items,
        "rows_per_second": round(items / seconds, 1),
        "seconds": round(seconds, 1),
        "peak_mb": round(peak, 1),
        "peak_mb_small": round(base.peak_mb, 1),
        "growth_bytes_per_item": round((peak - base.peak_mb) * 2**20 / items, 1),
        "kills": sum(run.code != 0 for run in runs),
        "shards": sum(len(store.rows()) for store in found),
        "manifest_lines": lines(large),
        "rows": [sum(row.n_in for row in store.rows().values()) for store in found],
        "verify_problems": sum(len(store.verify()) for store in found),
        "second_run_seconds": round(again.seconds, 1),
        "seed": seed,
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0, help="of the catalogue and of the kills")
    parser.add_argument("--quick", action="store_true", help="20,000 items against 2,000")
    parser.add_argument("--data", type=Path, help="folder that is kept, and gone on with")
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds for the first run")
    chosen = parser.parse_args(argv)
    items = 20_000 if chosen.quick else chosen.items
    with tempfile.TemporaryDirectory(prefix="catalograph-memory-") as scratch:
        result = measure(chosen.data or Path(scratch), items, chosen.seed, chosen.limit)
    if result is None:
        print(json.dumps({"unfinished": True, "next": "the same command goes on in --data"}))
        return 3
    print(json.dumps(result))
    holds = (
        float(str(result["peak_mb"])) - float(str(result["peak_mb_small"])) <= 1024
        and result["manifest_lines"] == result["shards"]
        and result["rows"] == [items, items]
        and not result["verify_problems"]
        and float(str(result["second_run_seconds"])) < max(10.0, 60e-6 * items)
    )
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
