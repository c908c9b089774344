"""The benchmark of hostile pictures, small: through the command line, without a model."""

from __future__ import annotations

import importlib
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_hostile_pictures_get_their_reasons_and_leave_their_neighbours_as_they_were(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    benchmark = importlib.import_module("hostile_pictures")
    result = benchmark.measure(tmp_path, good=6, count=40, seed=1, engine="fake")
    assert benchmark.holds(result), result
    assert result["hostile"] > 40
    assert result["quarantined"] > 20
