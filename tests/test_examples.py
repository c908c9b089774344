"""The notebooks run, in this order and on their own, and say what was last stored in them."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "examples"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def executor() -> ModuleType:
    spec = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_holds_its_outputs(path: Path, tmp_path: Path) -> None:
    stored = json.loads(path.read_text(encoding="utf-8"))
    made = copy.deepcopy(stored)
    executor().execute(made, tmp_path)
    # Figures differ in last digits from machine to machine; which cells say something does not, nor how much.
    told = [[len(output["text"]) for output in cell["outputs"]] for cell in cells(made)]
    assert told == [[len(output["text"]) for output in cell["outputs"]] for cell in cells(stored)]
    assert any(told) and [cell["execution_count"] for cell in cells(stored)] == list(range(1, len(told) + 1))


def test_what_a_cell_raises_comes_through(tmp_path: Path) -> None:
    run_cell = executor().run_cell
    names: dict[str, Any] = {}
    assert run_cell("x = 2\nprint('a')\nx + 1", names, tmp_path) == "a\n3\n"
    with pytest.raises(ZeroDivisionError):
        run_cell("x / 0", names, tmp_path)
