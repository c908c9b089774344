"""Hostile and broken inputs through the real commands: each gets its exit code and its words, none a
traceback.

    python benchmarks/hostile_inputs.py [--seed 0] [--workers 2] [--only ROW ...] [--quick]

Every case that `hostile_cases.py` gathers is a process of its own: `catalograph VERB` on a tiny shop of
which one thing was spoilt. Pictures (`picture_traps.py` makes them) go through `extract` by rows of the
table, many in one catalogue, and each is looked up in the quarantine: its reason must fit. A server listens
meanwhile where the hostile addresses lead, and must never be called. Claims: the exit code is the expected
one and is documented, the message says what is wrong, no traceback, no process that takes longer than a
minute, no code of a stranger run.

The last line is one JSON object; exit 1 where a claim fails.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from hostile_cases import picture_cases, picture_shop, single_cases
from hostile_shop import DOCUMENTED, Case, write_shop

LONGEST = 60
"""Seconds a command may take."""


def command(verb: str, more: Sequence[str] = ()) -> list[str]:
    """The command line of a case, or of what comes before it."""
    made = [sys.executable, "-m", "catalograph", verb]
    searching = {"--trec", "--requests"} & set(more)
    if not searching and verb not in ("verify", "hash", "export"):
        made += ["-c", "run.yaml"]
    if not searching and verb != "validate":
        made += ["--run-dir", "run"]
    return [*made, *more]


def run(arguments: Sequence[str], folder: Path) -> tuple[int, str]:
    """Exit code and all words of a command in `folder`; -1 for one that hangs."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    environment["PYTHONPATH"] = os.pathsep.join(os.path.abspath(path) for path in sys.path if path)
    try:
        done = subprocess.run(
            arguments,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LONGEST,
        )
    except subprocess.TimeoutExpired:
        return -1, "it hangs"
    return done.returncode, done.stderr + done.stdout


def judge(case: Case, folder: Path) -> str:
    """What is wrong with the answer to a case, or nothing."""
    write_shop(folder)
    if case.first:
        code, text = run(command(case.first), folder)
        if code:
            return f"{case.first} exits {code} before anything was spoilt: {text[-300:]}"
    case.spoil(folder)
    code, text = run(command(case.verb, case.more), folder)
    if code != case.code or code not in DOCUMENTED:
        return f"exit {code}, not {case.code}: {text[-300:]}"
    if "Traceback" in text:
        return f"a traceback: {text[-300:]}"
    if case.says not in text:
        return f"{case.says!r} is not said: {text[-300:]}"
    return case.check(folder)


def judge_pictures(pictures: Sequence[Any], folder: Path) -> tuple[int, list[str]]:
    """Exit code of an extraction over hostile pictures, and which of them got a reason that does not fit."""
    write_shop(folder)
    fits = picture_shop(folder, list(pictures))
    code, text = run(
        [sys.executable, "-m", "catalograph", "extract", "-c", "run.yaml", "--run-dir", "run"], folder
    )
    if code not in (0, 7) or "Traceback" in text:
        return code, [f"exit {code}: {text[-300:]}"]
    stage = folder / "run" / "stages" / "20-caption"
    rows = pq.read_table(stage / "quarantine.parquet").to_pylist()
    reasons = {row["item_id"]: row["reason"] for row in rows}
    wrong = [
        f"{pictures[int(item[4:])][0]} {item}: {reasons.get(item, 'decoded')}, not {sorted(wanted)}"
        for item, wanted in fits.items()
        if reasons.get(item, "decoded") not in wanted
    ]
    wrong += [f"a good item was quarantined: {item}" for item in reasons if item.startswith("good")]
    return code, wrong


class Listener:
    """Counts who calls; the hostile addresses that name this machine's web port lead nowhere else."""

    def __init__(self) -> None:
        self.calls, self._socket = 0, socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind(("127.0.0.1", 80))
        except OSError:
            self._socket.bind(("127.0.0.1", 0))  # Not root: then a caller would be refused, and say so.
        self._socket.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                caller, _ = self._socket.accept()
            except OSError:
                return
            self.calls += 1
            caller.close()

    def close(self) -> None:
        self._socket.close()


def measure(root: Path, seed: int, workers: int, only: Sequence[str], *, quick: bool) -> dict[str, Any]:
    """Every case, in folders below `root`."""
    singles = [case for case in single_cases() if not only or case.row in only]
    rows = [(row, cases) for row, cases in picture_cases(seed) if not only or f"pictures: {row}" in only]
    if quick:
        singles, rows = [case for case in singles if not case.heavy][::6], rows[:2]
    listener, began = Listener(), time.monotonic()
    wrong: list[str] = []
    by_row, codes = Counter[str](), Counter[int]()

    def single(numbered: tuple[int, Case]) -> None:
        number, case = numbered
        found = judge(case, root / f"case-{number}")
        by_row[case.row] += 1
        codes[case.code] += 1
        if found:
            wrong.append(f"{case.row}: {case.name}: {found}")
            print("wrong:", wrong[-1], flush=True)

    def several(numbered: tuple[int, tuple[str, Any]]) -> None:
        number, (row, pictures) = numbered
        code, found = judge_pictures(pictures, root / f"pictures-{number}")
        by_row[f"pictures: {row}"] += len(pictures)
        codes[code] += 1
        for line in found:
            wrong.append(f"pictures: {line}")
            print("wrong:", wrong[-1], flush=True)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(single, enumerate(singles)))
        list(pool.map(several, enumerate(rows)))
    listener.close()
    return {
        "cases": by_row.total(),
        "commands": codes.total(),
        "wrong": len(wrong),
        "calls_to_the_network": listener.calls,
        "exit_codes": {str(code): n for code, n in sorted(codes.items())},
        "by_row": dict(sorted(by_row.items())),
        "seconds": round(time.monotonic() - began, 1),
        "seed": seed,
        "which": wrong,
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="of the drawings")
    parser.add_argument("--workers", type=int, default=2, help="commands at a time")
    parser.add_argument("--only", action="append", help="a row such as YAML or 'pictures: bomb'; repeatable")
    parser.add_argument("--quick", action="store_true", help="every sixth case that loads no model")
    chosen = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="catalograph-hostile-") as root:
        result = measure(Path(root), chosen.seed, chosen.workers, chosen.only or (), quick=chosen.quick)
    print(json.dumps(result))
    return 0 if not result["wrong"] and not result["calls_to_the_network"] else 1


if __name__ == "__main__":
    sys.exit(main())
