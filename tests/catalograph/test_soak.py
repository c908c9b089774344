"""What `benchmarks/soak.py` counts as lost, on records written by hand."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def work_log() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("work_log")
    sys.path.remove(str(BENCHMARKS))


def logs(folder: Path, *texts: str) -> list[Path]:
    paths = [folder / f"{number}.work" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    return paths


def test_what_reached_a_model_and_was_not_committed_is_lost(work_log: ModuleType, tmp_path: Path) -> None:
    first = "model captions 5\ncommit captions store/0 5\nmodel captions 4\nmodel captions 3\n"
    found = work_log.cost(logs(tmp_path, first, "model captions 7\ncommit captions store/1 7\n"))
    assert found["lost"] == {"captions": 7, "vectors": 0} and found["largest"]["captions"] == 7
    assert found["committed_twice"] == []


def test_an_item_that_no_model_reads_does_not_hide_what_is_lost(work_log: ModuleType, tmp_path: Path) -> None:
    # A shard of 8 of which 5 have a picture, and then 3 that reached the model when the kill came.
    text = "model captions 5\ncommit captions store/0 8\nmodel captions 3\n"
    assert work_log.cost(logs(tmp_path, text))["lost"]["captions"] == 3


def test_a_shard_that_is_committed_twice_is_told(work_log: ModuleType, tmp_path: Path) -> None:
    text = "commit vectors title/3 5\n"
    assert work_log.cost(logs(tmp_path, text, text))["committed_twice"] == ["vectors title/3"]


def test_epochs_and_steps_that_are_begun_again_are_redone(work_log: ModuleType, tmp_path: Path) -> None:
    first = "begin fold-0/m 0\nbegin fold-0/m 1\nbegin finetune 0\nbegin finetune 1\nbegin finetune 2\n"
    # The second process died before it came to the reranker, and its last line is torn.
    second = "begin fold-0/m 1\nbegin fold-0/m 2\nbegin fold-1/m 0\nbegin fold-1/m 1"
    third = "begin finetune 1\nbegin finetune 2\nbegin finetune 3\n"
    found = work_log.cost(logs(tmp_path, first, second, third))
    assert found["redone"] == {"epochs": 1, "steps": 2}
