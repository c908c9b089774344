"""Frozen retrievers: the same score wherever it is computed, and what today's items and choices change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from extract.features import FeatureTable
from recsys.frozen import Frozen, freeze, on_grid, thaw
from recsys.interactions import Interactions, interactions_from
from recsys.models import build_model
from recsys.newcomers import fold_in

USERS = ["ann", "ann", "ann", "bob", "bob", "cyd", "cyd", "cyd", "dan"]
ITEMS = ["a", "b", "c", "b", "d", "a", "d", "e", "e"]
AXIS = ["c", "a", "e", "b", "d"]


def features(ids: list[str], seed: int = 0) -> FeatureTable:
    """Vectors that an item keeps on every day."""
    rows = [np.random.default_rng([seed, *map(ord, item)]).standard_normal(6) for item in ids]
    return FeatureTable(tuple(ids), np.array(rows, np.float32))


@given(seed=st.integers(0, 999), width=st.sampled_from([1, 3, 16, 64, 100]))
def test_a_score_is_the_same_in_every_block(seed: int, width: int) -> None:
    chance = np.random.default_rng(seed)
    users, items = (on_grid(chance.standard_normal((n, width)).astype(np.float32)) for n in (30, 50))
    whole = (users @ items.T).astype(np.float32)
    rows, columns = chance.permutation(30)[:7], chance.permutation(50)[: chance.integers(1, 50)]
    assert np.array_equal((users[rows] @ items[columns].T).astype(np.float32), whole[np.ix_(rows, columns)])
    exact = [[sum(a * b for a, b in zip(u, i, strict=True)) for i in items.tolist()] for u in users.tolist()]
    assert np.array_equal(np.array(exact, np.float32), whole)


def test_the_grid_moves_a_vector_by_rounding_only() -> None:
    vectors = np.random.default_rng(0).standard_normal((20, 384)).astype(np.float32) * 1e-3
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    assert (np.abs(on_grid(vectors) - vectors) <= largest * 2.0**-22).all()
    assert not on_grid(np.zeros((2, 4), np.float32)).any()


def frozen(
    tmp_path: Path, name: str, params: dict[str, Any], tables: dict[str, FeatureTable]
) -> Interactions:
    known = interactions_from(USERS, ITEMS, AXIS)
    model = build_model(name, params, known, tables)
    if hasattr(model, "solve"):
        model.solve()
    freeze({"r": model}, known, tmp_path)
    return known


def thawed(tmp_path: Path, known: Interactions, tables: dict[str, FeatureTable]) -> Frozen:
    return thaw(tmp_path, ["r"], known, tables)["r"]


def scores(model: Frozen, known: Interactions) -> dict[tuple[str, str], float]:
    table = model.score(np.arange(known.n_users, dtype=np.int32))
    return {
        (str(user), str(item)): float(table[row, column])
        for row, user in enumerate(known.user_ids)
        for column, item in enumerate(known.item_ids)
    }


FORMS: dict[str, dict[str, Any]] = {
    "content_search": {},
    "item_knn": {"neighbours": 3},
    "popularity": {},
    "ease": {"l2": 1.0},
    "als": {"embedding_size": 3, "iterations": 3},
    "bpr_mf": {"embedding_size": 3},
    "graph_filter": {"content_weight": 0.0},
}


@pytest.mark.parametrize("name", FORMS)
def test_on_the_day_of_training_scores_are_those_of_the_model(tmp_path: Path, name: str) -> None:
    tables = {"text": features(AXIS)} if name == "content_search" else {}
    known = frozen(tmp_path, name, FORMS[name], tables)
    model = build_model(name, FORMS[name], known, tables)
    if hasattr(model, "solve"):
        model.solve()
    rows = np.arange(known.n_users, dtype=np.int32)
    np.testing.assert_allclose(thawed(tmp_path, known, tables).score(rows), model.score(rows), atol=1e-5)


@pytest.mark.parametrize("name", FORMS)
def test_what_did_not_change_scores_the_same_bits_on_another_day(tmp_path: Path, name: str) -> None:
    tables = {"text": features(AXIS)} if name == "content_search" else {}
    known = frozen(tmp_path, name, FORMS[name], tables)
    before = scores(thawed(tmp_path, known, tables), known)
    # Another order of the catalogue, an item more and a user more, and one more choice of Dan's.
    today = interactions_from([*USERS, "dan", "abe"], [*ITEMS, "b", "a"], ["x", *AXIS[::-1]])
    more = {"text": features(["x", *AXIS])} if tables else {}
    model = thawed(tmp_path, today, more)
    after = scores(model, today)
    untouched = {pair: value for pair, value in before.items() if pair[0] != "dan"}
    assert {pair: after[pair] for pair in untouched} == untouched
    assert np.isfinite([after["abe", item] for item in AXIS]).all()
    # Only content knows an item that training did not have.
    assert np.isfinite(after["ann", "x"]) == (name == "content_search")
    assert model.known[0] == (name == "content_search")
    keys = dict(zip(today.user_ids.tolist(), model.user_keys(), strict=True))
    then = thawed(tmp_path, known, tables)
    old_keys = dict(zip(known.user_ids.tolist(), then.user_keys(), strict=True))
    assert {user for user in old_keys if keys[user] != old_keys[user]} == {"dan"}
    rows, columns = np.array([2, 0], np.int32), np.array([5, 1])
    assert np.array_equal(model.among(rows, columns), model.score(rows)[:, columns])


def test_a_user_who_chose_again_is_folded_in_and_one_whose_item_left_is_not(tmp_path: Path) -> None:
    frozen(tmp_path, "als", FORMS["als"], {})
    # Item d left the catalogue: Bob's and Cyd's choices of it with it. Ann chose e as well.
    kept = [(u, i) for u, i in zip(USERS, ITEMS, strict=True) if i != "d"]
    users, items = zip(*kept, strict=True)
    known = interactions_from(["ann", *users], ["e", *items], [i for i in AXIS if i != "d"])
    model = thawed(tmp_path, known, {})
    trained = interactions_from(USERS, ITEMS, AXIS)
    als = build_model("als", FORMS["als"], trained)
    als.solve()  # type: ignore[attr-defined]
    own, vectors = als.embeddings()  # type: ignore[attr-defined]
    expected = [own[trained.user_rows_of([user])[0]] for user in ("bob", "cyd", "dan")]
    found: NDArray[np.float64] = model.embeddings()[0]  # type: ignore[attr-defined]
    np.testing.assert_allclose(found[1:], expected, atol=1e-6)
    history = interactions_from(["ann"] * 4, list("abce"), AXIS).matrix()
    np.testing.assert_allclose(found[0], fold_in(vectors, history)[0], atol=1e-6)


def test_a_changed_feature_changes_its_item_and_who_chose_it(tmp_path: Path) -> None:
    tables = {"text": features(AXIS)}
    known = frozen(tmp_path, "content_search", {}, tables)
    moved = features(AXIS).matrix.copy()
    moved[AXIS.index("c")] += 1
    then, now = (
        thawed(tmp_path, known, {"text": FeatureTable(tuple(AXIS), matrix)})
        for matrix in (tables["text"].matrix, moved)
    )
    changed = [item for item, a, b in zip(AXIS, then.item_keys(), now.item_keys(), strict=True) if a != b]
    users = [u for u, a, b in zip("abcd", then.user_keys(), now.user_keys(), strict=True) if a != b]
    assert (changed, users) == (["c"], ["a"])
