"""Real processes, real SIGKILL."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from extract import FakeEngine, ShardStore, embed_items, embed_store

WORKER = """
import sys, time
from pathlib import Path
from extract import FakeEngine, embed_items, embed_store

class Slow(FakeEngine):
    def embed(self, texts):
        time.sleep(0.004)
        return super().embed(texts)

engine = Slow()
ids = [f"item-{n}" for n in range(400)]
store = embed_store(Path(sys.argv[1]), engine, buckets=100, token_budget=8)
embed_items(ids, [f"words of {i}" for i in ids], engine, store, token_budget=8)
print("done")
"""


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", WORKER, str(folder)], stdout=subprocess.PIPE, text=True)


def wait_for_a_commit_beyond(manifest: Path, lines: int, process: subprocess.Popen[str]) -> None:
    while process.poll() is None:
        if manifest.exists() and manifest.read_bytes().count(b"\n") > lines:
            return
        time.sleep(0.002)


def test_eight_kills_lose_no_committed_shard_and_the_rerun_ends_equal(tmp_path):
    chance = random.Random(20)
    manifest = tmp_path / "killed" / "manifest.jsonl"
    kills = 0
    for _ in range(8):
        before = manifest.read_bytes().count(b"\n") if manifest.exists() else 0
        process = start(tmp_path / "killed")
        wait_for_a_commit_beyond(manifest, before, process)
        time.sleep(chance.uniform(0.0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        assert ShardStore.open(tmp_path / "killed").verify(committed_only=True) == []
    assert kills >= 3
    survived = len(ShardStore.open(tmp_path / "killed").rows())
    assert survived >= kills
    process = start(tmp_path / "killed")
    assert process.communicate()[0] == "done\n"
    engine, ids = FakeEngine(), [f"item-{number}" for number in range(400)]
    golden = embed_store(tmp_path / "golden", engine, buckets=100, token_budget=8)
    embed_items(ids, [f"words of {item_id}" for item_id in ids], engine, golden, token_budget=8)
    store = ShardStore.open(tmp_path / "killed")
    assert store.verify() == []
    assert store.content_hash() == golden.content_hash()
    names = sorted(path.name for path in (golden.folder / "shards").iterdir())
    assert names == sorted(path.name for path in (store.folder / "shards").iterdir())
    for name in names:
        both = [
            np.frombuffer((part.folder / "shards" / name).read_bytes(), np.uint8) for part in (golden, store)
        ]
        assert np.array_equal(*both)
    # One manifest line per shard: nothing that was committed before a kill was ever computed again.
    assert manifest.read_bytes().count(b"\n") == len(names)
