"""`catalograph estimate` against what the extraction then takes, on the demo shop with its real models.

    python benchmarks/estimate_check.py [--items 1000] [--rounds 3] [--seed 0] [--quick]

A shop is drawn; then, in turns, `catalograph estimate` measures for a few seconds per stage, and `catalograph
extract` goes through all of it in an empty folder, each in a process of its own. Compared are the seconds of
both stages, model loading included, the process's own start aside; disk and memory stand beside.

Claim: the median over the rounds of measured seconds over estimated seconds is within 15 % of 1.

The last line is one JSON object; exit 1 where the claim fails.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from catalograph.demo import packaged_config
from catalograph.demo.shop import open_shop, write_shop


def call(verb: str, shop: Path, *arguments: str) -> tuple[dict[str, Any], int]:
    """The JSON a verb prints, and the most memory its process had, in bytes."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, "-m", "catalograph", verb, "-c", str(packaged_config("demo")), "--json"]
    command += ["--set", f"data.root={shop}", "--set", "threads=1", *arguments]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as error:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=error)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        error.seek(0)
        if process.returncode:
            raise SystemExit(f"{verb} exits {process.returncode}:\n{error.read()[-3000:]}")
        return dict(json.loads(out.read())), usage.ru_maxrss * 1024


def disk(folder: Path) -> int:
    """Bytes of a run's stages."""
    return sum(path.stat().st_size for path in (folder / "stages").rglob("*") if path.is_file())


def measure(root: Path, items: int, rounds: int, seed: int, seconds: float) -> dict[str, Any]:
    """Estimate and run in turns."""
    write_shop(open_shop(items, 50, dial=1, seed=seed), root / "shop")
    rows = []
    for number in range(rounds):
        estimated, _ = call("estimate", root / "shop", "--seconds", str(seconds), "--price", "2.5")
        folder = root / f"run-{number}"
        ran, memory = call("extract", root / "shop", "--run-dir", str(folder))
        took = sum(stage["seconds"] for stage in ran["stages"].values())
        row = {
            "estimated_seconds": estimated["seconds"],
            "run_seconds": round(took, 1),
            "ratio": round(took / estimated["seconds"], 3),
            "sampled": {name: stage["sampled"] for name, stage in estimated["stages"].items()},
            "items_per_second": {n: stage["items_per_second"] for n, stage in estimated["stages"].items()},
            "disk_ratio": round(disk(folder) / estimated["disk_bytes"], 3),
            "memory_ratio": round(memory / estimated["memory_bytes"], 3),
            "cost": estimated["cost"],
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
    ratio = statistics.median(row["ratio"] for row in rows)
    return {"items": items, "seed": seed, "ratio": ratio, "rounds": rows}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="given to `estimate --seconds`")
    parser.add_argument("--seed", type=int, default=0, help="of the shop")
    parser.add_argument("--quick", action="store_true", help="one round on 300 items")
    chosen = parser.parse_args(argv)
    items, rounds = (300, 1) if chosen.quick else (chosen.items, chosen.rounds)
    with tempfile.TemporaryDirectory(prefix="catalograph-estimate-") as scratch:
        result = measure(Path(scratch), items, rounds, chosen.seed, 2.0 if chosen.quick else chosen.seconds)
    print(json.dumps(result))
    return 0 if abs(result["ratio"] - 1) <= 0.15 else 1


if __name__ == "__main__":
    sys.exit(main())
