"""`runs ls`, `show`, `resume` and `gc`: run folders seen from outside."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from catalograph import run_states
from catalograph.cli import main
from catalograph.config_file import load_config
from catalograph.run_states import as_line, garbage, state_of
from catalograph.runs import open_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Run, World


NOBODY = 2**22 + 1
"""Number of no process: Linux counts to 2**22."""


def smallest(**changes: Any) -> dict[str, Any]:
    """A run of the shop without captions, features and reranker."""
    popularity = {"popularity": {"model": "popularity"}}
    return {
        "caption": None, "features": {}, "rerank": None, "retrievers": popularity,
        "candidates": {"k": 5, "order_by": "popularity"}, "evaluate": {"ks": [5], "bootstrap": 100},
        **changes,
    }  # fmt: skip


def printed(*arguments: str) -> Any:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["runs", *arguments, "--json"]) == 0
    return json.loads(out.getvalue())


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, make_world: Callable[[Path], World]
) -> tuple[World, Run]:
    world = make_world(tmp_path_factory.mktemp("states"))
    run = world.run("whole", **smallest())
    assert run.code == 0, run.err
    return world, run


def test_a_finished_run_is_listed_and_shown_with_its_hash(finished: tuple[World, Run]) -> None:
    world, run = finished
    state = next(row for row in printed("ls", str(world.root)) if row["folder"] == str(run.folder))
    wanted = ["prepare", "train", "recommend", "evaluate", "report"]
    assert (state["state"], state["detail"], state["done"]) == ("finished", "", wanted)
    shown = printed("show", str(run.folder))
    assert shown["hash"] == world.hash_of(run.folder)
    assert list(shown["stages"]) == wanted
    sizes = [
        path.stat().st_size for path in (run.folder / "stages/50-recommend").glob("*.*") if path.is_file()
    ]
    own = shown["stages"]["recommend"]
    assert own["result_bytes"] < own["disk_bytes"] == sum(sizes)


def test_a_run_that_somebody_works_in_is_running_with_the_holder(finished: tuple[World, Run]) -> None:
    _, run = finished
    with open_run(run.folder, load_config(run.folder / "config.yaml")):
        state = state_of(run.folder)
    assert state.state == "running"
    assert f"process {os.getpid()} on " in state.detail
    assert state_of(run.folder).state == "finished"


def test_a_killed_run_is_interrupted_at_its_stage_and_resume_ends_it(finished: tuple[World, Run]) -> None:
    world, run = finished
    folder = world.root / "killed"
    (world.root / "killed.yaml").write_text(yaml.safe_dump(world.config(**smallest())))
    assert world.again("killed", verb="prepare", folder=folder).code == 0
    assert state_of(folder).state == "partial"
    assert state_of(folder).detail == "next: train"
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from catalograph.config_file import load_config; from catalograph.runs import open_run\n"
        "open_run(Path(sys.argv[2]), load_config(Path(sys.argv[1])))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "-c", code, str(world.root / "killed.yaml"), str(folder)]
    assert subprocess.run(command, env=world.environment(), check=False).returncode == -9
    state = state_of(folder)
    assert (state.state, state.detail) == ("interrupted", "at train")
    assert "interrupted" in as_line(state)
    resumed = subprocess.run(
        [sys.executable, "-m", "catalograph", "runs", "resume", str(folder)],
        env=world.environment(), check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert resumed.returncode == 0, resumed.stderr
    assert state_of(folder).state == "finished"
    assert world.hash_of(folder) == world.hash_of(run.folder)


def test_a_failed_run_tells_its_reason(finished: tuple[World, Run]) -> None:
    world, _ = finished
    data = world.config()["data"] | {"interactions": "broken.csv"}
    (world.data / "broken.csv").write_text("person,product,time\nann,no-such-thing,1\n")
    assert world.run("broken", **smallest(data=data)).code == 5
    state = state_of(world.root / "run-broken")
    assert state.state == "failed"
    assert state.detail.startswith("prepare: error[D202]")


def test_a_changed_record_is_damage(finished: tuple[World, Run], tmp_path: Path) -> None:
    _, run = finished
    copy = tmp_path / "copy"
    shutil.copytree(run.folder, copy)
    (copy / "run.json").write_text((copy / "run.json").read_text().replace("ok", "ko"))
    assert state_of(copy).state == "damaged"
    assert [row["state"] for row in printed("ls", str(tmp_path))] == ["damaged"]


def test_gc_tells_first_and_deletes_only_what_no_result_needs(
    finished: tuple[World, Run], tmp_path: Path
) -> None:
    world, run = finished
    copy = tmp_path / "copy"
    shutil.copytree(run.folder, copy)
    left = copy / f"stages/50-recommend/.test.parquet.{NOBODY}.tmp"
    left.write_bytes(bytes(1000))
    checkpoints = copy / "stages/40-train/checkpoints"
    (checkpoints / "step-1").mkdir(parents=True)
    (checkpoints / "step-1/model.safetensors").write_bytes(bytes(500))
    told = printed("gc", str(tmp_path))
    assert {row["path"]: row["bytes"] for row in told["files"]} == {str(left): 1000, str(checkpoints): 500}
    assert left.is_file() and checkpoints.is_dir()
    with open_run(copy, load_config(copy / "config.yaml")):
        assert garbage(tmp_path, delete=True) == []
    printed("gc", str(tmp_path), "--delete")
    assert not left.exists() and not checkpoints.exists()
    assert world.hash_of(copy) == world.hash_of(run.folder)
    # Of a stage that is not finished, checkpoints are what it goes on from.
    checkpoints.mkdir()
    (copy / "stages/40-train/stage.json").unlink()
    assert garbage(tmp_path) == []


def test_gc_leaves_what_a_live_process_writes_what_is_not_ours_and_what_a_link_points_to(
    finished: tuple[World, Run], tmp_path: Path
) -> None:
    _, run = finished
    copy, precious = tmp_path / "copy", tmp_path / "precious"
    shutil.copytree(run.folder, copy)
    (precious / "step-1").mkdir(parents=True)
    kept = [
        f"stages/40-train/.model.json.{os.getpid()}.tmp", f"for-trec/.qrels.{NOBODY}.tmp",
        f"store/.shard.safetensors.{NOBODY}.tmp", f".for-trec.{NOBODY}.tmp", "stages/.tmp.notes",
    ]  # fmt: skip
    dropped = [f".run.json.{NOBODY}.tmp", f"report/.index.html.{NOBODY}.tmp", f"logs/.old.{NOBODY}.tmp"]
    for name in (*kept, *dropped):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_bytes(b"x")
    (copy / "stages/40-train/checkpoints").symlink_to(precious)
    (copy / f"stages/40-train/.linked.{NOBODY}.tmp").symlink_to(precious)
    dropped.append(f"stages/40-train/.linked.{NOBODY}.tmp")
    gone = garbage(tmp_path, delete=True)
    assert sorted(row["path"] for row in gone) == sorted(str(copy / name) for name in dropped)
    assert [name for name in kept if not (copy / name).exists()] == []
    assert (precious / "step-1").is_dir()
    assert garbage(tmp_path) == []


def test_a_run_starts_while_gc_only_looks(
    finished: tuple[World, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, run = finished
    copy = tmp_path / "copy"
    shutil.copytree(run.folder, copy)
    left = copy / f"stages/.left.{NOBODY}.tmp"
    left.write_bytes(bytes(7))
    started = []

    def start(path: Path) -> int:
        with open_run(copy, load_config(copy / "config.yaml")):
            started.append(path)
        return path.stat().st_size

    monkeypatch.setattr(run_states, "_size", start)
    assert [row["bytes"] for row in garbage(tmp_path)] == [7]
    assert started == [left]


def test_looking_at_runs_loads_no_model_library(finished: tuple[World, Run]) -> None:
    world, run = finished
    code = (
        "import sys; from catalograph.cli import main\n"
        "code = main(['runs', 'ls', sys.argv[1]]) or main(['runs', 'show', sys.argv[2]])\n"
        "sys.exit(code or int('torch' in sys.modules))"
    )
    command = [sys.executable, "-c", code, str(world.root), str(run.folder)]
    done = subprocess.run(command, env=world.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "finished" in done.stdout
