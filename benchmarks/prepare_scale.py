"""Preparing tens of millions of interactions within a memory limit: seconds and peak memory.

    python benchmarks/prepare_scale.py --work DIR [--interactions 30e6] [--seed 0] [--quick]

Draws a Parquet file of clicks (a thirtieth as many users, 200,000 items, popularity and activity skewed, text
ids, times) in a process of its own, then prepares it by each method in a fresh process: deduplication, split,
summary, the three files. With `--core 5` the 5-core is taken too. `peak_gib` is the largest resident size of
the process, the database's `memory_gib` included. Goal: 30 million within 1 GB and 60 s on two cores.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.columns import InteractionColumns
from recsys.filters import FilterConfig
from recsys.plan import Plan
from recsys.prepare import prepare_interactions
from recsys.split import SplitConfig

N_ITEMS = 200_000
CHUNK = 1_000_000


def draw(path: Path, n: int, seed: int) -> None:
    rng, writer = np.random.default_rng(seed), None
    for start in range(0, n, CHUNK):
        size = min(CHUNK, n - start)
        users = (rng.random(size) ** 1.5 * (n // 30)).astype(np.int64)
        items = (rng.random(size) ** 3 * N_ITEMS).astype(np.int64)
        table = pa.table({
            "user_id": np.char.add("u", users.astype(str)),
            "item_id": np.char.add("i", items.astype(str)),
            "time": rng.integers(0, 10**8, size),
        })
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def prepare(path: Path, work: Path, method: str, core: int, memory: float | None, answer: Any) -> None:
    plan = Plan(
        path, InteractionColumns(timestamp="time"), [f"i{n}" for n in range(N_ITEMS)], "error",
        FilterConfig(min_user=core, min_item=core), SplitConfig.model_validate({"method": method}),
    )  # fmt: skip
    began = time.monotonic()
    done = prepare_interactions(plan, lambda name: work / f"{name}.parquet", scratch=work, memory_gib=memory)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    seconds, rows = time.monotonic() - began, done.tally.sizes()
    answer.put({"seconds": round(seconds, 1), "peak_gib": round(peak, 2), "interactions": rows})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/prepare_scale"))
    parser.add_argument("--interactions", type=float, default=30e6)
    parser.add_argument("--methods", nargs="+", default=["leave_last_out", "random", "global_time"])
    parser.add_argument("--core", type=int, default=1)
    parser.add_argument("--memory-gib", type=float, default=0.3)
    parser.add_argument(
        "--in-memory", action="store_true", help="also the way without a limit, for comparison"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="300,000 interactions")
    chosen = parser.parse_args()
    n = 300_000 if chosen.quick else int(chosen.interactions)
    chosen.work.mkdir(parents=True, exist_ok=True)
    path = chosen.work / f"clicks-{n}-{chosen.seed}.parquet"
    # A process started afresh has a peak of its own.
    fresh = multiprocessing.get_context("spawn")
    if not path.is_file():
        drawing = fresh.Process(target=draw, args=(path, n, chosen.seed))
        drawing.start()
        drawing.join()
    rows = {}
    for method in chosen.methods:
        for memory in [chosen.memory_gib, *([None] if chosen.in_memory else [])]:
            answer = fresh.Queue()
            args = (path, chosen.work, method, chosen.core, memory, answer)
            process = fresh.Process(target=prepare, args=args)
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"{method}: exit {process.exitcode}")
            rows[method if memory else f"{method}, in memory"] = answer.get()
            sys.stderr.write(f"{method} {memory} {rows}\n")
    result = {"interactions": n, "memory_gib": chosen.memory_gib, "core": chosen.core, "methods": rows}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
