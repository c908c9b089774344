"""A run by two real processes under torchrun."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from catalograph.runs import content_hash

if TYPE_CHECKING:
    from conftest import World


def test_a_run_under_torchrun_has_the_hash_of_a_plain_one(
    tmp_path: Path, make_world: Callable[[Path], World]
) -> None:
    world = make_world(tmp_path)
    training = {"epochs": 2, "batch_size": 64, "parts": 2, "metric": "ndcg@10"}
    lightgcn = {"model": "lightgcn", "params": {"embedding_size": 4}, "train": training}
    changes = {
        "retrievers": {"lightgcn": lightgcn, "popularity": {"model": "popularity"}},
        "candidates": {"k": 10}, "evaluate": {"ks": [10], "baselines": ["popularity"], "bootstrap": 100},
        "caption": None, "features": {}, "rerank": None,
    }  # fmt: skip
    plain = world.run("plain", **changes)
    assert plain.code == 0, plain.err
    folder = world.root / "shared"
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "catalograph"]
    verb = ["run", "-c", str(world.root / "plain.yaml"), "--run-dir", str(folder), "--json"]
    for _ in range(2):  # The second time everything is done, and the helper is sent home all the same.
        done = subprocess.run(
            [sys.executable, *torchrun, *verb], capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["run_dir"] == str(folder)
    assert content_hash(folder) == content_hash(plain.folder)
