"""Hundreds of SIGKILLs across whole runs, and what each of them cost.

    python benchmarks/soak.py [--seed 0] [--kills 300] [--keep DIR] [--minutes M] [--quick]

As `kill_run.py`: a small drawn shop goes through the demo's own road (packaged captioner, MiniLM,
retrievers, packaged language model, LoRA) once undisturbed, and then in other folders under SIGKILL at
random moments: in each folder one while captions are made, one while vectors are, and then uniform over what
it has left to do, from the first import of a stage to the last file of the report. Importing torch takes
longer than all the work here, so nine of ten processes are forked from one that has imported the libraries,
and every tenth is started afresh. Five kills make a folder; then it is finished undisturbed.

Claims: every folder has the hash of the undisturbed run; `catalograph verify` finds nothing in any; and a
kill costs at most one unit of work. Units: a shard for captions and vectors, a checkpoint's interval for
retrievers (one epoch) and for fine-tuning (half an epoch, at most 25 steps); the other stages keep nothing
before they end, so their unit is the stage. The cost is counted, not estimated: a process writes down what
reaches a model, what is committed, and which epoch or step it begins; lost is what reached a model and was
not committed when the kill came.

``--keep DIR`` goes on where an earlier piece stopped; ``--minutes`` ends a piece. The last line is one JSON
object; exit 1 where a claim fails.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import kill_run
from forked import Forked, load_libraries
from kill_run import Killer
from work_log import cost, watch

from catalograph.demo.shop import open_shop, write_shop
from catalograph.runs import content_hash, verify

ITEMS, PEOPLE = 40, 50
KILLS_PER_FOLDER, AFRESH = 5, 10
AIMS = ("captions", "vectors")
SETS = (
    "retrievers.lirdrec.train.epochs=4", "retrievers.titles_only.train.epochs=4", "candidates.k=10",
    "caption.batch_size=8", "rerank.finetune.epochs=2", "rerank.finetune.max_lists=32",
    "rerank.finetune.validation_lists=12", "rerank.finetune.batch_size=4", "rerank.finetune.patience=20",
    "threads=1",
)  # fmt: skip


class Soaker(Killer):
    """A killer whose processes are forked, except every tenth, and whose victims tell what they did."""

    def __init__(self, root: Path, seed: int) -> None:
        kill_run.SMALLER = SETS
        super().__init__(root, seed, quick=False)
        self.started = 0
        self.logs: list[Path] = []
        self.calls: dict[str, int] = {}
        """How often a model is called in an undisturbed run."""
        self.aims: list[str] = []
        """What the next processes are to be killed at, in turn; chance alone seldom hits what is short."""

    def await_moment(self, process: Any, folder: Path) -> None:
        """As a killer; where there is an aim, as soon as a model is called the n-th time, n by chance."""
        aim = self.aims.pop(0) if self.aims else None
        if aim is None:
            super().await_moment(process, folder)
            return
        calls = self.chance.randint(1, self.calls[aim])
        while self.logs[-1].read_bytes().count(f"model {aim} ".encode()) < calls:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.002)
                return
        process.wait(0)

    def start(self, folder: Path, stream: IO[str]) -> Any:
        log = folder.with_suffix(f".{self.started:05d}.work")
        self.started += 1
        self.logs.append(log)
        log.touch()
        arguments = [*self.command[3:], "--run-dir", str(folder)]
        if self.started % AFRESH:
            return Forked(arguments, stream, lambda: watch(log))
        command = [sys.executable, __file__, "--child", str(log), *arguments]
        return subprocess.Popen(command, env=self.environment, stdout=stream, stderr=stream)

    def finish(self, folder: Path) -> float:
        """Runs to the end; the seconds it took."""
        began = time.monotonic()
        with folder.with_suffix(".log").open("w") as stream:
            code = self.start(folder, stream).wait()
        if code:
            words = folder.with_suffix(".log").read_text()
            raise SystemExit(f"the run in {folder} exits {code}:\n{words[-4000:]}")
        return time.monotonic() - began


@contextlib.contextmanager
def kept(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="catalograph-soak-") as scratch:
        yield Path(scratch)


def measure(root: Path, seed: int, kills: int, minutes: float) -> dict[str, Any]:
    """Goes on in `root` until so many kills have landed in all, or the minutes are over."""
    began, state_file = time.monotonic(), root / "state.json"
    load_libraries()
    golden, soaker = root / "golden", Soaker(root, seed)
    if state_file.is_file():
        state = json.loads(state_file.read_text())
        soaker.chance.seed(f"{seed} {state['kills']}")
        soaker.started = state["started"]
    else:
        write_shop(open_shop(ITEMS, PEOPLE, dial=1, seed=seed), root / "shop", picture_size=48)
        state = {"kills": 0, "folders": [], "by_stage": {}, "seconds": 0.0, "started": 0}
        soaker.finish(golden)
        # The first one warms the caches of files.
        state["undisturbed"] = round(soaker.finish(root / "again"), 2)
        if content_hash(root / "again") != content_hash(golden):
            raise SystemExit("two undisturbed runs differ")
    soaker.learn_times(root / "again" if (root / "again").is_dir() else golden, state["undisturbed"])
    told_once = golden.with_suffix(".00000.work").read_text()
    soaker.calls = {aim: told_once.count(f"model {aim} ") for aim in AIMS}
    wanted = content_hash(golden)
    while state["kills"] < kills and time.monotonic() - began < 60 * minutes:
        folder = root / f"killed-{len(state['folders']) + 1}"
        soaker.logs, soaker.aims, hit = [], list(AIMS), Counter[str]()
        while hit.total() < min(KILLS_PER_FOLDER, kills - state["kills"]):
            stage = soaker.attempt(folder)
            if stage is None:
                break
            hit[stage] += 1
        soaker.finish(folder)
        row = cost(soaker.logs) | {
            "kills": hit.total(), "equal": content_hash(folder) == wanted, "problems": verify(folder),
        }  # fmt: skip
        state["folders"].append(row)
        state["kills"] += hit.total()
        state["by_stage"] = dict(sorted((Counter(state["by_stage"]) + hit).items()))
        state["started"] = soaker.started
        state["seconds"] = round(state["seconds"] + time.monotonic() - began, 1)
        began, minutes = time.monotonic(), minutes - (time.monotonic() - began) / 60
        state_file.write_text(json.dumps(state))
        print(f"{state['kills']} kills, {len(state['folders'])} folders: {json.dumps(row)}", flush=True)
    return told(state, seed)


def told(state: dict[str, Any], seed: int) -> dict[str, Any]:
    """The result over all folders."""
    rows = state["folders"]
    steps = int(SETS[5].split("=")[1]) // int(SETS[7].split("=")[1])
    lost = {kind: max((row["lost"][kind] for row in rows), default=0) for kind in ("captions", "vectors")}
    shard = {kind: max((row["largest"][kind] for row in rows), default=0) for kind in lost}
    redone = {name: max((row["redone"][name] for row in rows), default=0) for name in ("epochs", "steps")}
    interval = {"epochs": 1, "steps": min(25, steps - steps // 2)}
    return {
        "kills": state["kills"], "folders": len(rows), "equal": all(row["equal"] for row in rows),
        "verify_problems": sum(len(row["problems"]) for row in rows),
        "committed_twice": sum(len(row["committed_twice"]) for row in rows),
        "most_items_lost_per_kill": lost, "items_of_the_largest_shard": shard,
        "most_redone_per_kill": redone, "checkpoint_interval": interval,
        "within_one_unit": all(lost[k] <= shard[k] for k in lost)
        and all(redone[k] <= interval[k] for k in redone),
        "by_stage": state["by_stage"], "undisturbed_seconds": state["undisturbed"],
        "seconds": state["seconds"], "seed": seed,
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    if len(sys.argv) > 1 and sys.argv[1] == "--child":
        watch(Path(sys.argv[2]))
        from catalograph.cli import main as command_line

        return command_line(sys.argv[3:])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="of the shop and of the moments")
    parser.add_argument(
        "--kills", type=int, default=300, help="kills that must have landed, all pieces together"
    )
    parser.add_argument("--keep", type=Path, help="folder to go on in")
    parser.add_argument("--minutes", type=float, default=1e9, help="of this piece")
    parser.add_argument("--quick", action="store_true", help="4 kills")
    chosen = parser.parse_args(argv)
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    kills = 4 if chosen.quick else chosen.kills
    with kept(chosen.keep) as root:
        result = measure(root.absolute(), chosen.seed, kills, chosen.minutes)
    print(json.dumps(result))
    holds = result["equal"] and not result["verify_problems"] and not result["committed_twice"]
    return 0 if holds and result["within_one_unit"] else 1


if __name__ == "__main__":
    sys.exit(main())
