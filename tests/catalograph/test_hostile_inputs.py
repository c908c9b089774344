"""Hostile inputs of `benchmarks/hostile_cases.py` through the command line, in this process."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from catalograph.cli import main

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
ROWS = (
    "YAML",
    "--set",
    "paths",
    "ids",
    "JSON",
    "gzip",
    "Parquet",
    "CSV",
    "SQL",
    "npy",
    "safetensors",
    "run folder",
)


@pytest.fixture(scope="module")
def modules() -> Iterator[tuple[ModuleType, ModuleType]]:
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("hostile_cases"), importlib.import_module("hostile_inputs")
    sys.path.remove(str(BENCHMARKS))


@pytest.mark.parametrize("row", ROWS)
def test_every_hostile_input_of_a_row_gets_its_exit_code_and_its_words(
    modules: tuple[ModuleType, ModuleType],
    row: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    cases, harness = modules
    wrong, seen = [], 0
    for number, case in enumerate(
        case for case in cases.single_cases() if case.row == row and case.row in ROWS
    ):
        folder = tmp_path / str(number)
        harness.write_shop(folder)
        monkeypatch.chdir(folder)
        if case.first:
            assert main(harness.command(case.first)[3:]) == 0
        case.spoil(folder)
        capsys.readouterr()
        code = main(harness.command(case.verb, case.more)[3:])
        told = "".join(capsys.readouterr())
        found = f"exit {code}" if code != case.code else case.check(folder)
        if found or case.says not in told:
            wrong.append(f"{case.name}: {found} {told[-300:]}")
        seen += 1
    os.chdir(BENCHMARKS)
    assert seen > 4 and not wrong


def test_every_row_of_hostile_inputs_has_documented_codes_and_some_words(modules: Any) -> None:
    for case in modules[0].single_cases():
        assert case.code in modules[1].DOCUMENTED and (case.says or case.row in {"markup", "injection"})
