from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from extract.errors import MissingPrerequisite
from recsys.nearest_index import build_index, search_index
from recsys.ranking import NO_ITEM, top_k_factors


def test_a_missing_usearch_names_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "usearch", None)
    with pytest.raises(MissingPrerequisite) as caught:
        build_index(np.ones((2, 2), dtype=np.float32), tmp_path / "index")
    assert 'pip install "catalograph[ann]"' in str(caught.value)


def test_an_index_finds_nearly_all_of_the_exact_best_and_equal_vectors_give_equal_bytes(
    tmp_path: Path,
) -> None:
    pytest.importorskip("usearch")
    rng = np.random.default_rng(0)
    # Items in groups and of many lengths, users near items: what factor models look like.
    groups = rng.normal(size=(20, 16))
    items = groups[rng.integers(20, size=3000)] + 0.7 * rng.normal(size=(3000, 16))
    items = np.float32(items * rng.lognormal(0, 0.5, size=(3000, 1)))
    users = items[rng.integers(3000, size=100)] + np.float32(0.5 * rng.normal(size=(100, 16)))
    for name in ("a", "b"):
        build_index(items, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    found = search_index(tmp_path / "a", users, 20)
    exact, _ = top_k_factors(users, items, None, 20, places=np.arange(3000))
    recall = np.mean([np.isin(best, near).mean() for best, near in zip(exact, found, strict=True)])
    assert recall > 0.95
    best = np.take_along_axis(users @ items.T, found, axis=1)
    assert (np.diff(best, axis=1) <= 1e-4).all()


def test_a_list_longer_than_the_catalogue_ends_with_no_item(tmp_path: Path) -> None:
    pytest.importorskip("usearch")
    build_index(np.float32([[1, 0], [0, 2], [3, 3]]), tmp_path / "index")
    found = search_index(tmp_path / "index", np.float32([[1, 0], [0, 1]]), 4)
    np.testing.assert_array_equal(found, [[2, 0, 1, NO_ITEM], [2, 1, 0, NO_ITEM]])
    assert search_index(tmp_path / "index", np.zeros((0, 2), np.float32), 4).shape == (0, 4)
