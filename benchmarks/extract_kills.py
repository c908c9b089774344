"""Kills `catalograph extract` at random moments, and at every rename and fsync it makes.

    python benchmarks/extract_kills.py [--seed 0] [--kills 200] [--only random|calls] [--quick]

A small catalogue goes through captions and one feature once undisturbed; the engine is the public fake one,
made slow enough to be hit. Random: the same command in another folder gets SIGKILL at a random moment, again
and again; a folder whose run outlived its kill is compared and a new one begun. Calls: a process kills itself
before its first rename or fsync, another before its second, and so on for all; each is then run again.

Claims: every folder ends with the hash of the undisturbed run, the same bytes in every shard and nothing that
`verify` finds; and a kill costs at most one shard: of all shards that reached the engine in one process, at
most one reaches it again in the next. The patches are in the child of this file, not in the product.

The last line is one JSON object; exit 1 where a claim fails.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

STAGES = ("caption", "embed")
ITEMS, BATCH = 120, 4
SLOWNESS = 0.01
"""Seconds a call of the engine takes in the child."""


def child(arguments: Sequence[str]) -> int:
    """The command line, watched: engine calls go to a log, and SIGKILL comes at a given rename or fsync."""
    from catalograph.cli import main as command_line
    from extract.engines import FakeEngine

    log, fatal, calls = Path(os.environ["KILLS_LOG"]), int(os.environ.get("KILLS_AT", "0")), 0
    replace, fsync, caption, embed = os.replace, os.fsync, FakeEngine.caption, FakeEngine.embed

    def count(name: str) -> None:
        nonlocal calls
        calls += 1
        if calls == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched_replace(*where: object, **options: object) -> None:
        count("rename")
        replace(*where, **options)  # type: ignore[arg-type]

    def watched_fsync(descriptor: int) -> None:
        count("fsync")
        fsync(descriptor)

    def note(stage: str, texts: Sequence[str]) -> None:
        with log.open("a") as file:
            file.writelines(f"{stage} {name}\n" for text in texts for name in re.findall(r"item-\d+", text))
        time.sleep(SLOWNESS)

    def watched_caption(self: FakeEngine, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[str]:
        note("caption", prompts)
        return caption(self, images, prompts)

    def watched_embed(self: FakeEngine, texts: Sequence[str]) -> object:
        note("embed", texts)
        return embed(self, texts)

    os.replace, os.fsync = watched_replace, watched_fsync
    FakeEngine.caption, FakeEngine.embed = watched_caption, watched_embed  # type: ignore[method-assign, assignment]
    log.write_text("begun\n")
    code = command_line(list(arguments))
    with log.open("a") as file:
        file.write(f"calls {calls}\n")
    return code


def write_data(folder: Path, seed: int, buckets: int) -> Path:
    """A catalogue with a picture per item, and its configuration."""
    chance = np.random.default_rng(seed)
    (folder / "pictures").mkdir(parents=True)
    lines = ["item_id,title,photo"]
    for number in range(ITEMS):
        pixels = chance.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{number}.png")
        lines.append(f"item-{number},the item-{number},{number}.png")
    (folder / "items.csv").write_text("\n".join(lines) + "\n")
    (folder / "clicks.csv").write_text("user_id,item_id\nu,item-1\n")
    fake = {"engine": "fake", "buckets": buckets}
    columns = {"picture": "photo"}
    settings = {
        "data": {
            "catalog": "items.csv", "pictures": "pictures", "interactions": "clicks.csv",
            "catalog_columns": columns,
        },
        "caption": fake | {"prompt": "titled", "batch_size": BATCH},
        "features": {"all": {"template": "{title} {caption}", "embed": fake | {"token_budget": 32}}},
        "retrievers": {"popularity": {"model": "popularity"}},
    }  # fmt: skip
    (folder / "shop.yaml").write_text(yaml.safe_dump(settings))
    return folder / "shop.yaml"


@dataclass
class Victim:
    """One run folder and the processes that worked on it."""

    config: Path
    folder: Path
    buckets: int
    seconds: float = 1.0
    """What an undisturbed extraction takes from its first line on."""
    works: list[set[tuple[str, int]]] = field(default_factory=list)
    """Per process: (stage, shard) that reached the engine."""

    def start(self, at: int = 0) -> tuple[subprocess.Popen[bytes], Path]:
        log = self.folder.with_suffix(".calls")
        log.unlink(missing_ok=True)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "KILLS_LOG": str(log), "KILLS_AT": str(at)}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        command = [sys.executable, __file__, "--child", "extract", "-c", str(self.config)]
        command += ["--run-dir", str(self.folder)]
        with self.folder.with_suffix(".log").open("wb") as stream:
            return subprocess.Popen(command, env=environment, stdout=stream, stderr=stream), log

    def end(self, process: subprocess.Popen[bytes], log: Path) -> bool:
        """Waits; whether the process was killed. What it worked on is remembered."""
        from extract.store import bucket_of

        code = process.wait()
        if code not in (0, -signal.SIGKILL):
            raise SystemExit(f"extract exits {code}:\n{self.folder.with_suffix('.log').read_text()[-3000:]}")
        # What follows the last line break was torn by the kill.
        text = log.read_text().rpartition("\n")[0] if log.exists() else ""
        lines = [line.split() for line in text.splitlines()]
        work = {(line[0], bucket_of(line[1], self.buckets)) for line in lines if line[0] in STAGES}
        self.works.append(work)
        return code != 0

    def run(self, at: int = 0) -> bool:
        """Runs to the end, or to its call number `at`; whether it was killed."""
        return self.end(*self.start(at))

    def run_and_kill(self, delay: float) -> bool:
        """Runs, and kills so many seconds after the extraction began; whether the kill landed."""
        process, log = self.start()
        while process.poll() is None and not log.exists():
            time.sleep(0.002)
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        return self.end(process, log)

    def most_redone(self) -> int:
        """Most shards that reached the engine in one process and again in the next."""
        return max((len(a & b) for a, b in zip(self.works, self.works[1:])), default=0)

    def times_begun(self) -> int:
        """How often a shard reached the engine, over all processes."""
        return sum(map(len, self.works))

    def calls(self) -> int:
        """Renames and fsyncs of the last process, which ended by itself."""
        return int(self.folder.with_suffix(".calls").read_text().split()[-1])


def shards(folder: Path) -> dict[str, bytes]:
    """Every shard file of a run, by name."""
    root = folder / "stages"
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("shards/*"))}


def differences(folder: Path, golden: Path) -> list[str]:
    """In what a finished folder is not the undisturbed one."""
    from catalograph.runs import content_hash, verify

    found = [f"{folder.name}: {problem}" for problem in verify(folder)]
    if content_hash(folder) != content_hash(golden):
        found.append(f"{folder.name}: another hash")
    if shards(folder) != shards(golden):
        found.append(f"{folder.name}: other shards")
    return found


def random_kills(root: Path, seed: int, kills: int) -> dict[str, object]:
    """Kills at random moments; folders are finished as chance has it."""
    chance, buckets = random.Random(seed), 12
    config = write_data(root / "data", seed, buckets)
    golden = Victim(config, root / "golden", buckets)
    golden.run()
    began = time.monotonic()
    Victim(config, root / "again", buckets).run()
    seconds = time.monotonic() - began
    problems, landed, begun, redone, folders = [], 0, 0, 0, 0
    while landed < kills:
        folders += 1
        victim = Victim(config, root / f"random-{folders}", buckets)
        while landed < kills and victim.run_and_kill(chance.uniform(0, seconds / 2)):
            landed += 1
        if victim.run():
            raise SystemExit("killed by somebody else")
        problems += differences(victim.folder, golden.folder)
        begun += victim.times_begun() - 2 * buckets
        redone = max(redone, victim.most_redone())
        print(f"{landed} kills, {folders} folders, {begun} shards redone", flush=True)
    return {
        "kills": landed, "folders": folders, "shards_redone": begun, "most_redone_per_kill": redone,
        "problems": problems,
    }  # fmt: skip


def kills_at_calls(root: Path, seed: int, step: int) -> dict[str, object]:
    """A kill before every `step`-th rename or fsync of a whole extraction."""
    buckets = 3
    config = write_data(root / "data", seed, buckets)
    golden = Victim(config, root / "golden", buckets)
    golden.run()
    calls = golden.calls()
    problems, landed, begun, redone = [], 0, 0, 0
    for at in range(1, calls + 1, step):
        victim = Victim(config, root / f"call-{at}", buckets)
        landed += victim.run(at)
        victim.run()
        problems += differences(victim.folder, golden.folder)
        begun += victim.times_begun() - 2 * buckets
        redone = max(redone, victim.most_redone())
        if at % 20 == 1:
            print(f"call {at} of {calls}", flush=True)
    return {
        "calls": calls, "kills": landed, "shards_redone": begun, "most_redone_per_kill": redone,
        "problems": problems,
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    if len(sys.argv) > 1 and sys.argv[1] == "--child":
        return child(sys.argv[2:])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="of the pictures and of the moments")
    parser.add_argument("--kills", type=int, default=200, help="random kills that must land")
    parser.add_argument("--only", choices=("random", "calls"), help="one of the two experiments")
    parser.add_argument("--quick", action="store_true", help="6 random kills, every 25th call")
    chosen = parser.parse_args(argv)
    kills, step = (6, 25) if chosen.quick else (chosen.kills, 1)
    result: dict[str, object] = {"seed": chosen.seed}
    holds, began = True, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="catalograph-kills-") as scratch:
        for name in ("random", "calls") if chosen.only is None else (chosen.only,):
            root = Path(scratch) / name
            found = (
                random_kills(root, chosen.seed, kills)
                if name == "random"
                else kills_at_calls(root, chosen.seed, step)
            )
            holds &= not found["problems"] and int(str(found["most_redone_per_kill"])) <= 1
            holds &= int(str(found["shards_redone"])) <= int(str(found["kills"]))
            result[name] = found
    print(json.dumps(result | {"seconds": round(time.monotonic() - began, 1)}))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
