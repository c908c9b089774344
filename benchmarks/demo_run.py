"""The demo as a user runs it: seconds and memory, and the same folder again.

    python benchmarks/demo_run.py [--seed 0] [--quick]

Prints one JSON object as its last line; exit code 1 if the first run takes more than 300 s or 3 GB, or the
second takes 5 s or imports torch.
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
from typing import Any


def main() -> None:
    """Runs the demo twice in one folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a third of the shop")
    chosen = parser.parse_args()
    size = ["--items", "300", "--users", "400"] if chosen.quick else []
    with tempfile.TemporaryDirectory() as folder:
        command = [
            "demo",
            "--run-dir",
            str(Path(folder) / "run"),
            "--seed",
            str(chosen.seed),
            *size,
            "--json",
        ]
        first = measured([sys.executable, "-m", "catalograph", *command])
        second = measured([sys.executable, "-m", "catalograph", *command])
        probe = (
            "import sys; from catalograph.cli import main; main(sys.argv[1:]); "
            "sys.exit('torch' in sys.modules)"
        )
        probed = subprocess.run([sys.executable, "-c", probe, *command], capture_output=True, check=False)
        no_torch = probed.returncode == 0
        report = Path(first["output"]["report"]).is_file()
    result = {
        "first": {key: first[key] for key in ("exit", "seconds", "peak_gb")},
        "second": {key: second[key] for key in ("exit", "seconds", "peak_gb")},
        "second_without_torch": no_torch,
        "report": report,
        "stages": {name: stage["seconds"] for name, stage in first["output"]["stages"].items()},
        "metrics": first["output"]["metrics"],
    }
    sys.stdout.write(json.dumps(result) + "\n")
    held = first["exit"] == 0 and first["seconds"] <= 300 and first["peak_gb"] < 3
    if not (held and second["exit"] == 0 and second["seconds"] < 5 and no_torch and report):
        raise SystemExit(1)


def measured(command: list[str]) -> dict[str, Any]:
    """Exit code, wall seconds, peak memory of the process itself, and its JSON."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    return {
        "exit": os.waitstatus_to_exitcode(status),
        "seconds": round(time.perf_counter() - started, 1),
        "peak_gb": round(usage.ru_maxrss / 2**20, 2),
        "output": json.loads(output),
    }


if __name__ == "__main__":
    main()
