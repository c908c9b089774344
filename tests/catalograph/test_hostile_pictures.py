"""The benchmark of hostile pictures, small: through the command line, without a model."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_hostile_pictures_get_their_reasons_and_leave_their_neighbours_as_they_were(tmp_path):
    path = ROOT / "benchmarks" / "hostile_pictures.py"
    spec = importlib.util.spec_from_file_location("hostile_pictures", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    result = benchmark.measure(tmp_path, good=6, count=40, seed=1, engine="fake")
    assert benchmark.holds(result), result
    assert result["hostile"] > 40
    assert result["quarantined"] > 20
