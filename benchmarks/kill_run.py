"""Kills `catalograph run` at random moments and compares what it ends with to an undisturbed run.

    python benchmarks/kill_run.py [--seed 0] [--kills 30] [--quick]

A small drawn shop goes through the demo's own road (packaged captioner, MiniLM, packaged language model)
once undisturbed. Then the same command is started again and again in another folder and gets SIGKILL after
a random delay between 0 and what it has left to do, until that many kills have landed. A folder ends when a
run outlives its kill, or undisturbed after five kills, so that early stages are hit as well; then a new one
begins. Claim: every folder has the hash of the undisturbed run, and `catalograph verify` finds nothing.

The last line is one JSON object; exit 1 where the claim fails.
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
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from catalograph.demo import packaged_config
from catalograph.demo.shop import open_shop, write_shop
from catalograph.runs import content_hash, verify

ITEMS, PEOPLE = 60, 80
KILLS_PER_FOLDER = 5
SMALLER = (
    "retrievers.lirdrec.train.epochs=8",
    "retrievers.titles_only.train.epochs=8",
    "candidates.k=20",
    "caption.batch_size=16",
    "rerank.finetune.epochs=3",
    "rerank.finetune.max_lists=64",
    "rerank.finetune.validation_lists=24",
    "rerank.finetune.batch_size=2",
    "rerank.finetune.patience=20",
    "threads=1",
)
QUICK = ("rerank.finetune.epochs=1", "rerank.finetune.max_lists=32")


class Killer:
    """Starts the same run over and over, and stops it where chance says."""

    def __init__(self, root: Path, seed: int, *, quick: bool) -> None:
        self.root, self.chance = root, random.Random(seed)
        sets = [f"data.root={root / 'shop'}", f"seed={seed}", *SMALLER, *(QUICK if quick else ())]
        self.command = [
            sys.executable,
            "-m",
            "catalograph",
            "run",
            "-c",
            str(packaged_config("demo")),
            "--json",
        ]
        self.command += [part for text in sets for part in ("--set", text)]
        self.environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self.environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        self.seconds: dict[str, float] = {}
        self.starting = 0.0

    def undisturbed(self, folder: Path) -> float:
        """Runs to the end and returns the seconds it took."""
        began = time.monotonic()
        done = subprocess.run(
            [*self.command, "--run-dir", str(folder)], env=self.environment, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"the run in {folder} exits {done.returncode}:\n{done.stderr[-4000:]}")
        return time.monotonic() - began

    def start(self, folder: Path, stream: IO[str]) -> subprocess.Popen[bytes]:
        """Starts the run, its words going to `stream`."""
        command = [*self.command, "--run-dir", str(folder)]
        return subprocess.Popen(command, env=self.environment, stdout=stream, stderr=stream)

    def learn_times(self, folder: Path, whole: float) -> None:
        """Remembers what each stage took, and what the process took beside them."""
        for record in sorted(folder.glob("stages/*/stage.json")):
            self.seconds[record.parent.name] = json.loads(record.read_text())["seconds"]
        self.starting = max(0.5, whole - sum(self.seconds.values()))

    def left(self, folder: Path) -> float:
        """Seconds that a run in this folder is expected to take now."""
        open_stages = (
            s for name, s in self.seconds.items() if not (folder / "stages" / name / "stage.json").exists()
        )
        return self.starting + sum(open_stages)

    def await_moment(self, process: Any, folder: Path) -> None:
        """Returns where the process ends by itself, and raises TimeoutExpired when it is to be killed."""
        process.wait(self.chance.uniform(0, self.left(folder)))

    def attempt(self, folder: Path) -> str | None:
        """Starts the run and kills it. Returns the stage that was hit, or None if the run ended before."""
        log = folder.with_suffix(".log")
        with log.open("w") as stream:
            process = self.start(folder, stream)
            try:
                self.await_moment(process, folder)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
            code = process.wait()
        if code == -signal.SIGKILL:
            return self.current(folder)
        if code:
            raise SystemExit(f"the run in {folder} exits {code} after a kill:\n{log.read_text()[-4000:]}")
        return None

    @staticmethod
    def current(folder: Path) -> str:
        """The stage that is begun and not finished."""
        begun = sorted(path.parent.name for path in folder.glob("stages/*/parts.json"))
        return next(
            (n for n in begun if not (folder / "stages" / n / "stage.json").exists()), "between stages"
        )


def measure(seed: int, kills: int, root: Path, *, quick: bool) -> dict[str, object]:
    """The whole experiment, in an empty folder."""
    began = time.monotonic()
    write_shop(open_shop(ITEMS, PEOPLE, dial=1, seed=seed), root / "shop", picture_size=64)
    killer = Killer(root, seed, quick=quick)
    golden = root / "golden"
    whole = killer.undisturbed(golden)
    killer.learn_times(golden, whole)
    print(f"undisturbed: {whole:.1f} s, hash {content_hash(golden)[:16]}", flush=True)
    folders, hit = [root / "killed-1"], Counter[str]()
    in_folder = 0
    while hit.total() < kills:
        stage = killer.attempt(folders[-1])
        if stage is not None:
            hit[stage] += 1
            in_folder += 1
            print(f"kill {hit.total()} in {folders[-1].name}: {stage}", flush=True)
        if in_folder == KILLS_PER_FOLDER or hit.total() == kills:
            killer.undisturbed(folders[-1])
        if (stage is None or in_folder == KILLS_PER_FOLDER) and hit.total() < kills:
            folders.append(root / f"killed-{len(folders) + 1}")
            in_folder = 0
    hashes = [content_hash(folder) for folder in folders]
    problems = [f"{folder.name}: {problem}" for folder in (golden, *folders) for problem in verify(folder)]
    for problem in problems:
        print(problem)
    return {
        "kills": hit.total(),
        "folders": len(folders),
        "equal": set(hashes) == {content_hash(golden)},
        "verify_problems": len(problems),
        "by_stage": dict(sorted(hit.items())),
        "undisturbed_seconds": round(whole, 1),
        "seconds": round(time.monotonic() - began, 1),
        "seed": seed,
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="of the shop and of the moments")
    parser.add_argument("--kills", type=int, default=30, help="kills that must land")
    parser.add_argument("--quick", action="store_true", help="2 kills of a smaller run")
    chosen = parser.parse_args(argv)
    kills = 2 if chosen.quick else chosen.kills
    with tempfile.TemporaryDirectory(prefix="catalograph-kills-") as root:
        result = measure(chosen.seed, kills, Path(root), quick=chosen.quick)
    print(json.dumps(result))
    return 0 if result["equal"] and not result["verify_problems"] and result["kills"] == kills else 1


if __name__ == "__main__":
    sys.exit(main())
