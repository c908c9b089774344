"""`catalograph extract` in real processes, killed at renames and fsyncs, in the long version at random."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "extract_kills.py"


@pytest.fixture(scope="module")
def kills() -> ModuleType:
    spec = importlib.util.spec_from_file_location("extract_kills", BENCHMARK)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["extract_kills"] = module
    spec.loader.exec_module(module)
    return module


def test_a_process_killed_at_its_renames_and_fsyncs_goes_on_and_ends_equal(kills, tmp_path):
    found = kills.kills_at_calls(tmp_path, seed=1, step=35)
    assert found["calls"] > 60 and found["kills"] >= 2
    assert found["problems"] == []
    assert found["most_redone_per_kill"] <= 1


@pytest.mark.slow
@pytest.mark.skipif("CATALOGRAPH_PROOF" not in os.environ, reason="minutes long: make proof")
def test_sixty_kills_at_random_moments_end_equal_and_cost_a_shard_each_at_most(kills, tmp_path):
    found = kills.random_kills(tmp_path, seed=2, kills=60)
    assert found["problems"] == []
    assert found["most_redone_per_kill"] <= 1
    assert found["shards_redone"] <= found["kills"] == 60
