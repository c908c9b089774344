"""Fills the disk in each stage of a run, frees it, and compares what the run ends with to an undisturbed one.

    python benchmarks/disk_full.py [--seed 0] [--quick]

A small drawn shop goes through the demo's own road on a tmpfs of its own (root, or a machine that allows
user namespaces: `unshare -Urm`). Before each stage the tmpfs is shrunk to what is used plus a share of what
that stage writes; the stage is run, must end with exit code 6 and a message that names the bytes it wanted
to write and those that are free, and `verify` must find nothing wrong with what is there. Then room is made
and the same command goes on. The same is done with a limit on the size of one file (RLIMIT_FSIZE), which is
another error of the system, in the stages that write more than the limit. Claim: the hash of the
undisturbed run.

The last line is one JSON object; exit 1 where the claim fails.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from forked import Forked, load_libraries
from soak import SETS

from catalograph.demo import packaged_config
from catalograph.demo.shop import open_shop, write_shop
from catalograph.runs import content_hash, verify

STAGES = {
    "prepare": ("10-prepare", ()), "extract": ("20-caption", ("--stage", "caption")),
    "extract embed": ("30-embed", ("--stage", "embed")), "train": ("40-train", ()),
    "recommend": ("50-recommend", ()), "finetune": ("60-finetune", ()), "rerank": ("70-rerank", ()),
    "evaluate": ("80-evaluate", ()), "report": ("90-report", ()),
}  # fmt: skip
"""Verb, and for a second stage of one verb its name; the stage's folder and what asks for it alone."""
ITEMS, PEOPLE = 40, 50
PAGE = 4096
NAMED = re.compile(r"no room to write (?:more than )?([\d,]+) bytes.*?; ([\d,]+) bytes are free", re.DOTALL)


class Disk:
    """A tmpfs whose size can be changed while files are on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", str(folder)], check=True)

    def leave(self, size: int) -> None:
        """Make it so that this many bytes are free, whole pages."""
        status = os.statvfs(self.folder)
        used = (status.f_blocks - status.f_bfree) * status.f_frsize
        whole = used + -(-size // PAGE) * PAGE
        subprocess.run(["mount", "-o", f"remount,size={whole}", str(self.folder)], check=True)

    def free(self) -> None:
        subprocess.run(["mount", "-o", "remount,size=1g", str(self.folder)], check=True)

    def close(self) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=False)


class Runner:
    """The command line on the shop."""

    def __init__(self, root: Path, seed: int) -> None:
        self.words = root / "words.txt"
        self.sets = [f"data.root={root / 'shop'}", f"seed={seed}", *SETS]

    def __call__(
        self, verb: str, folder: Path, more: Sequence[str] = (), largest: int | None = None
    ) -> tuple[int, str]:
        """Exit code and words of a verb; `largest` limits the bytes of one file."""
        arguments = [verb.split()[0], "-c", str(packaged_config("demo")), "--run-dir", str(folder), *more]
        arguments += [part for text in self.sets for part in ("--set", text)]

        def limit() -> None:
            if largest is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))

        with self.words.open("w") as stream:
            code = Forked(arguments, stream, limit).wait()
        return code, self.words.read_text()


def bytes_of(folder: Path) -> int:
    """What the files of a folder take on a disk of pages."""
    return sum(-(-path.stat().st_size // PAGE) * PAGE for path in folder.rglob("*") if path.is_file())


def largest_of(folder: Path) -> int:
    return max((path.stat().st_size for path in folder.rglob("*") if path.is_file()), default=0)


def fill(disk: Disk, run: Runner, golden: Path, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Every stage meets a full disk, and is finished with room; what each said, and what was wrong."""
    told: dict[str, Any] = {}
    wrong: list[str] = []
    for verb, (stage, more) in STAGES.items():
        # The page stands beside its stage, and the log and the records need some pages at any time.
        writes = bytes_of(golden / "stages" / stage)
        writes += bytes_of(golden / "report") if verb == "report" else 0
        landed = False
        for share in (0.5, 0.25, 0.1, 0.0):
            disk.leave(int(share * writes) + (16 * PAGE if share == 0.5 else 0))
            code, text = run(verb, folder, more)
            disk.free()
            named = NAMED.search(text)
            if code == 0:
                (folder / "stages" / stage / "stage.json").unlink()
                continue
            landed = True
            problems = verify(folder) if (folder / "run.json").is_file() else []
            if code != 6 or "Traceback" in text or named is None:
                wrong.append(f"{verb}: exit {code} at a share of {share}: {text[-400:]}")
            wrong += [f"{verb}: {problem}" for problem in problems]
            told[verb] = {
                "share": share,
                "exit": code,
                "wanted": named[1] if named else None,
                "free": named[2] if named else None,
            }
            break
        if not landed:
            wrong.append(f"{verb}: the disk was never full")
        code, text = run(verb, folder, more)
        if code:
            wrong.append(f"{verb}: exit {code} with room again: {text[-400:]}")
    return told, wrong


def limit_files(run: Runner, golden: Path, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Every stage that writes a larger file than the limit meets it, and is finished without."""
    told: dict[str, Any] = {}
    wrong: list[str] = []
    for verb, (stage, more) in STAGES.items():
        largest = largest_of(golden / "report") if verb == "report" else largest_of(golden / "stages" / stage)
        # Below it the records of the run itself, which every stage writes, could not be written either.
        limit = max(largest - 1, largest_of(golden / "logs") + 40_000)
        if limit < largest:
            code, text = run(verb, folder, more, limit)
            if code != 6 or "Traceback" in text:
                wrong.append(f"{verb}: exit {code} at a limit of {limit}: {text[-400:]}")
            told[verb] = {"limit": limit, "exit": code}
        code, text = run(verb, folder, more)
        if code:
            wrong.append(f"{verb}: exit {code} without the limit: {text[-400:]}")
    return told, wrong


def measure(root: Path, seed: int) -> dict[str, Any]:
    """The whole experiment, in an empty folder."""
    began = time.monotonic()
    load_libraries()
    write_shop(open_shop(ITEMS, PEOPLE, dial=1, seed=seed), root / "shop", picture_size=48)
    run, golden = Runner(root, seed), root / "golden"
    code, text = run("run", golden)
    if code:
        raise SystemExit(f"the undisturbed run exits {code}: {text[-2000:]}")
    disk = Disk(root / "disk")
    try:
        full, wrong = fill(disk, run, golden, root / "disk" / "run")
        equal = [content_hash(root / "disk" / "run") == content_hash(golden)]
        wrong += verify(root / "disk" / "run")
    finally:
        disk.close()
    limited, more = limit_files(run, golden, root / "limited")
    equal.append(content_hash(root / "limited") == content_hash(golden))
    wrong += more + verify(root / "limited")
    for line in wrong:
        print("wrong:", line)
    return {
        "stages_with_a_full_disk": full, "stages_with_a_file_limit": limited, "equal": all(equal),
        "wrong": len(wrong), "seconds": round(time.monotonic() - began, 1), "seed": seed,
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="of the shop and the run")
    parser.add_argument("--quick", action="store_true", help="the same: it takes less than a minute")
    chosen = parser.parse_args(argv)
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory(prefix="catalograph-full-") as root:
        result = measure(Path(root), chosen.seed)
    print(json.dumps(result))
    return 0 if result["equal"] and not result["wrong"] else 1


if __name__ == "__main__":
    sys.exit(main())
