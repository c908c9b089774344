"""Reranking in parts: blocks that are whole or absent, and parts that are put together to the same bytes."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from catalograph import reranking
from catalograph.cli import main
from catalograph.demo.shop import open_shop, write_shop
from catalograph.rerank_parts import FOLDER, Blocks, merge_blocks
from catalograph.stage_folder import StageFolder
from extract.errors import UnsafeInput
from rerank.inference import CHUNK, Cost

if TYPE_CHECKING:
    from conftest import World

PEOPLE = CHUNK + 44
"""More than fit into one block."""

SCORES = [np.array([1.5, -2.0], np.float32), np.array([], np.float32), np.array([0.25], np.float32)]


def test_a_block_comes_back_as_it_was_kept(tmp_path: Path) -> None:
    blocks = Blocks(tmp_path / "key", 3)
    assert blocks.read(1) is None
    blocks.write(1, SCORES, Cost(3, 120))
    found, cost = blocks.read(1) or ([], Cost())
    assert [row.tolist() for row in found] == [row.tolist() for row in SCORES]
    assert cost == Cost(3, 120)


@pytest.mark.parametrize("spoil", [lambda raw: raw[:-1], lambda raw: raw[:-1] + b"\x07", lambda raw: b""])
def test_a_damaged_block_is_none(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    blocks = Blocks(tmp_path, 1)
    blocks.write(0, SCORES, Cost(3, 120))
    path = next(tmp_path.glob("*.safetensors"))
    path.write_bytes(spoil(path.read_bytes()))
    assert blocks.read(0) is None


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 11])
def test_parts_share_out_every_block_once(parts: int) -> None:
    blocks = Blocks(Path("none"), 10)
    shared = [number for part in range(parts) for number in blocks.of_part((part, parts))]
    assert sorted(shared) == list(range(10))


def test_merging_takes_whole_blocks_that_are_lacking_and_refuses_a_folder_without_any(tmp_path: Path) -> None:
    theirs, ours = (Blocks(tmp_path / store / FOLDER / "key", 2) for store in ("theirs", "ours"))
    for number in range(2):
        theirs.write(number, SCORES, Cost(number, 0))
    ours.write(0, SCORES, Cost(9, 9))
    assert merge_blocks([tmp_path / "theirs"], tmp_path / "ours") == 1
    assert [(found or ([], None))[1] for found in map(ours.read, range(2))] == [Cost(9, 9), Cost(1, 0)]
    with pytest.raises(UnsafeInput, match="U409"):
        merge_blocks([tmp_path / "nowhere"], tmp_path / "ours")


@pytest.mark.parametrize("name", ["notanumber", "0000001", "-00001", "1"])
def test_merging_passes_over_files_that_are_not_called_like_blocks(tmp_path: Path, name: str) -> None:
    theirs, ours = (Blocks(tmp_path / store / FOLDER / "key", 1) for store in ("theirs", "ours"))
    theirs.write(0, SCORES, Cost(1, 0))
    (theirs.folder / f"{name}.safetensors").write_bytes(b"x")
    assert merge_blocks([tmp_path / "theirs"], tmp_path / "ours") == 1
    assert [path.name for path in ours.folder.iterdir()] == ["000000.safetensors"]


@pytest.fixture(scope="module")
def reranked(tmp_path_factory: pytest.TempPathFactory, make_world: Callable[[Path], World]) -> World:
    """A run up to its rerank stage, of more lists than a block holds."""
    world = make_world(tmp_path_factory.mktemp("parts"))
    write_shop(open_shop(world.items, PEOPLE, dial=1, seed=3), world.data, picture_size=8)
    settings = world.config()["rerank"] | {"item": "{title}"}
    done = world.run(
        "whole", verb="rerank", caption=None, features={}, rerank=settings,
        retrievers={"item_knn": {"model": "item_knn"}, "popularity": {"model": "popularity"}},
        candidates={"k": 8, "order_by": "item_knn"}, evaluate={"ks": [5]},
    )  # fmt: skip
    assert done.code == 0, done.err
    return world


def before_reranking(world: World, name: str) -> Path:
    """A copy of the run without its rerank stage."""
    folder = world.root / name
    shutil.copytree(world.root / "run-whole", folder)
    shutil.rmtree(folder / "stages" / "70-rerank")
    return folder


def outputs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "stages/70-rerank").glob("*.parquet")} | {
        "cost.json": (folder / "stages/70-rerank/cost.json").read_bytes()
    }


def test_two_parts_merged_are_the_bytes_of_one_process_and_no_list_is_read_again(
    reranked: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, told = before_reranking(reranked, "merged"), []
    stores = [reranked.root / f"part-{part}" for part in (1, 2)]
    for part, store in enumerate(stores, start=1):
        asked = ["rerank", "--run-dir", str(run), "--shard", f"{part}/2", "--store", str(store), "--json"]
        assert main(asked) == 0
        told.append(json.loads(capsys.readouterr().out))
    assert [(row["lists"], row["read"]) for row in told] == [(CHUNK, CHUNK), (44, 44)]
    # With more parts than blocks one has nothing to read, which is no mistake when it is merged.
    empty = ["--shard", "3/3", "--store", str(reranked.root / "part-3"), "--json"]
    assert main(["rerank", "--run-dir", str(run), *empty]) == 0
    assert json.loads(capsys.readouterr().out)["lists"] == 0
    stores.append(reranked.root / "part-3")
    # A part that is done is not read again.
    assert main(asked) == 0
    assert json.loads(capsys.readouterr().out)["kept"] == 44

    def refuse(*arguments: Any) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(reranking, "load_trained", refuse)
    merge = [word for store in stores for word in ("--merge", str(store))]
    assert main(["rerank", "--run-dir", str(run), *merge]) == 0
    assert outputs(run) == outputs(reranked.root / "run-whole")
    assert not (run / "stages" / "70-rerank" / FOLDER).exists()


def interrupt(*given: Any) -> None:
    raise KeyboardInterrupt


def test_a_rerank_that_was_killed_goes_on_behind_its_last_block(
    reranked: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = before_reranking(reranked, "killed")
    write, written = Blocks.write, []

    def killed(self: Blocks, number: int, scores: Any, cost: Cost) -> None:
        if len(written) == 1:
            raise KeyboardInterrupt
        written.append(number)
        write(self, number, scores, cost)

    monkeypatch.setattr(Blocks, "write", killed)
    assert main(["rerank", "--run-dir", str(run)]) == 130
    monkeypatch.setattr(Blocks, "write", lambda *given: (written.append(given[1]), write(*given)))
    # Killed once more, when all is written and the stage is not yet done: no list is read again.
    finish = StageFolder.finish
    monkeypatch.setattr(StageFolder, "finish", interrupt)
    assert main(["rerank", "--run-dir", str(run)]) == 130
    monkeypatch.setattr(StageFolder, "finish", finish)
    assert main(["rerank", "--run-dir", str(run)]) == 0
    assert written == [0, 1]
    assert outputs(run) == outputs(reranked.root / "run-whole")


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (["--shard", "1/2"], "--store"),
        (["--shard", "3/2", "--store", "s"], "1 <= I <= N"),
        (["--store", "s"], "--shard"),
        (["--shard", "1/2", "--store", "s", "--ray", "2"], "nothing else"),
        (["--requests", "r", "--model", "m", "--ray", "2"], "not for search"),
    ],
)
def test_options_that_do_not_fit_together_are_told(
    asked: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rerank", "--run-dir", "nowhere", *asked]) == 2
    assert why in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_a_part_of_a_run_that_is_not_fine_tuned_says_what_to_do(
    reranked: World, capsys: pytest.CaptureFixture[str]
) -> None:
    run = before_reranking(reranked, "early")
    shutil.rmtree(run / "stages" / "60-finetune")
    store = str(reranked.root / "early-part")
    assert main(["rerank", "--run-dir", str(run), "--shard", "1/2", "--store", store]) == 3
    assert "P102" in capsys.readouterr().err


def everything(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_a_part_writes_and_removes_nothing_in_the_run(
    reranked: World, capsys: pytest.CaptureFixture[str]
) -> None:
    run = before_reranking(reranked, "read-only")
    # What a reader would remember, or do anew, if it were the one who works there.
    (run / "inputs.json").unlink()
    asked = ["rerank", "--run-dir", str(run), "--shard", "2/2", "--store", str(reranked.root / "ro-part")]
    before = everything(run)
    assert main(asked) == 0
    assert everything(run) == before
    (run / "stages/50-recommend/test.trec").write_text("")
    before = everything(run)
    assert main(asked) == 3
    assert "P102" in capsys.readouterr().err
    assert everything(run) == before
    (run / "stages/50-recommend/parts.json").unlink()
    before = everything(run)
    assert main(asked) == 3
    assert everything(run) == before


def test_two_ray_workers_rerank_to_the_bytes_of_one_process(reranked: World) -> None:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is an extra and not installed")
    run = before_reranking(reranked, "on-ray")
    command = [sys.executable, "-m", "catalograph", "rerank", "--run-dir", str(run), "--ray", "2"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=reranked.environment(), timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert outputs(run) == outputs(reranked.root / "run-whole")
