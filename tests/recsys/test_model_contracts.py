"""What every recommender of the table must do."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from extract.errors import ConfigError, InvalidData
from extract.features import FeatureTable
from recsys import Interactions, graph, interactions_from
from recsys.models import MODELS, build_model
from recsys.settings import NEED_FEATURES, TrainConfig
from recsys.train import EpochRecord, fit

Tables = dict[str, FeatureTable]
LEARN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "item_knn": ({}, {}),
    "ease": ({"l2": 50.0}, {}),
    "sparse_ease": ({"l2": 50.0}, {}),
    "als": ({"embedding_size": 2, "alpha0": 0.1, "l2": 0.01}, {}),
    "content_search": ({}, {}),
    "graph_filter": ({"neighbours": 4}, {}),
    "bpr_mf": ({"embedding_size": 8, "reg": 0.1}, {"epochs": 60, "learning_rate": 0.02}),
    "lightgcn": ({"embedding_size": 16, "layers": 2}, {"epochs": 40, "learning_rate": 0.02}),
    "vbpr": ({"embedding_size": 8, "feature_size": 4, "reg": 0.01}, {"epochs": 60, "learning_rate": 0.02}),
    "freedom": ({"embedding_size": 8, "neighbours": 4, "kept_edges": 0.8}, {"learning_rate": 0.02}),
    "bm3": ({"embedding_size": 8}, {"epochs": 60, "learning_rate": 0.02}),
    "smore": ({"embedding_size": 8, "layers": 2, "neighbours": 4}, {"learning_rate": 0.02}),
    "lirdrec": ({"embedding_size": 8, "layers": 2, "neighbours": 4}, {"learning_rate": 0.01}),
    "cm3": ({"embedding_size": 8, "layers": 2, "neighbours": 4}, {"learning_rate": 0.01}),
}
READ_FEATURES = sorted(NEED_FEATURES | {"graph_filter"})


def learned(name: str, train: Interactions, features: Tables) -> NDArray[np.float32]:
    params, training = LEARN[name]
    model = build_model(name, params, train, features, seed=1)
    fit(model, train, None, TrainConfig.model_validate({"epochs": 30, "batch_size": 64} | training))
    return model.score(np.arange(train.n_users, dtype=np.int32))


def test_every_model_that_can_learn_is_asked_to() -> None:
    assert set(LEARN) == set(MODELS) - {"popularity"}


@pytest.mark.parametrize("name", LEARN)
def test_the_checkerboard_is_learned_and_items_nobody_chose_are_placed_by_their_features(
    name: str, checkerboard: Interactions, parity: Tables
) -> None:
    scores = learned(name, checkerboard, parity)
    own = (np.arange(24)[:, None] + np.arange(18)) % 2 == 0
    warm = scores[:, :18]
    sorted_right = np.where(own, warm, np.inf).min(axis=1) > np.where(own, -np.inf, warm).max(axis=1)
    assert sorted_right.mean() > 0.9
    if name in READ_FEATURES:
        even = np.arange(24) % 2 == 0
        assert (np.where(even, scores[:, 18] - scores[:, 19], scores[:, 19] - scores[:, 18]) > 0).all()


def permuted(train: Interactions, users: NDArray[np.int64], items: NDArray[np.int64]) -> Interactions:
    """The same choices on axes whose row n is the old row users[n] or items[n]."""
    user_row, item_row = np.argsort(users).astype(np.int32), np.argsort(items).astype(np.int32)
    return Interactions(
        train.user_ids[users], train.item_ids[items], user_row[train.user_rows], item_row[train.item_rows]
    )


@pytest.mark.parametrize("name", MODELS)
def test_the_order_of_ids_changes_no_score(name: str, checkerboard: Interactions, parity: Tables) -> None:
    rng = np.random.default_rng(0)
    users, items = rng.permutation(24), rng.permutation(20)
    nodes = np.concatenate([users, 24 + items])
    # No width is 20, 24 or 44, so a table's first axis tells what its rows are.
    params = {} if name in ("popularity", "ease", "content_search") else {"neighbours": 4}
    if "embedding_size" in MODELS[name][1].model_fields:
        params = {"embedding_size": 7}
    ours = build_model(name, params, checkerboard, parity, seed=2)
    theirs = build_model(name, params, permuted(checkerboard, users, items), parity, seed=3)
    if hasattr(ours, "solve") and name != "als":
        ours.solve()
        theirs.solve()  # type: ignore[attr-defined]
    else:
        order = {24: users, 20: items, 44: nodes}
        weights = ours.tensors()
        theirs.restore({k: v[order[len(v)]] if v.ndim and len(v) in order else v for k, v in weights.items()})
    rows = np.arange(24, dtype=np.int32)
    expected = ours.score(rows)[users][:, items]
    assert theirs.score(rows) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_als_solves_to_the_same_scores_in_any_order(checkerboard: Interactions) -> None:
    rng = np.random.default_rng(0)
    users, items = rng.permutation(24), rng.permutation(20)
    params = {"embedding_size": 3, "iterations": 3}
    ours = build_model("als", params, checkerboard)
    theirs = build_model("als", params, permuted(checkerboard, users, items))
    weights = ours.tensors()
    theirs.restore({"users": weights["users"][users], "items": weights["items"][items]})
    for model in (ours, theirs):
        model.solve()  # type: ignore[attr-defined]
    rows = np.arange(24, dtype=np.int32)
    assert theirs.score(rows) == pytest.approx(ours.score(rows)[users][:, items], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name", READ_FEATURES)
def test_features_are_found_by_id_and_absent_rows_are_not_read(
    name: str, checkerboard: Interactions, parity: Tables
) -> None:
    order = np.random.default_rng(0).permutation(20)
    changed = {}
    for modality, table in parity.items():
        matrix = np.where(table.present[:, None], table.matrix, 99.0).astype(np.float32)
        ids = tuple(np.array(table.ids)[order].tolist())
        changed[modality] = FeatureTable(ids, matrix[order], table.present[order])
    scores = []
    for tables in (parity, changed):
        model = build_model(name, {}, checkerboard, tables)
        if hasattr(model, "solve"):
            model.solve()
        scores.append(model.score(np.arange(24, dtype=np.int32)))
    assert np.array_equal(*scores)


def test_neighbours_are_searched_once_per_content(
    checkerboard: Interactions, parity: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched = []

    def nearest(matrix: NDArray[np.float32], *rest: Any, **more: Any) -> Any:
        searched.append(matrix)
        return found(matrix, *rest, **more)

    found = graph.nearest
    monkeypatch.setattr(graph, "nearest", nearest)
    values = np.random.default_rng(9).normal(size=(20, 3)).astype(np.float32)
    ids = parity["text"].ids
    for matrix, expected in ((values, 1), (values.copy(), 1), (values * 2, 2)):
        table = {"sound": FeatureTable(ids, matrix)}
        for name in ("freedom", "cm3", "lirdrec"):
            build_model(name, {}, checkerboard, table)
        assert len(searched) == expected


@pytest.mark.parametrize("name", sorted(NEED_FEATURES))
def test_a_model_that_needs_features_says_so(name: str, checkerboard: Interactions) -> None:
    with pytest.raises(ConfigError, match="at least one feature table"):
        build_model(name, {}, checkerboard)


@pytest.mark.parametrize("name", READ_FEATURES)
def test_features_of_another_catalogue_are_an_error(name: str, checkerboard: Interactions) -> None:
    strange = {"text": FeatureTable(("other",), np.ones((1, 3), np.float32))}
    with pytest.raises(InvalidData, match="know none of the items"):
        build_model(name, {}, checkerboard, strange)


@pytest.mark.parametrize("name", sorted(NEED_FEATURES))
@pytest.mark.parametrize("names", [["text"], ["picture", "sound", "text"]])
def test_one_modality_or_three_will_do(
    name: str, names: list[str], checkerboard: Interactions, parity: Tables
) -> None:
    sound = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
    tables = parity | {"sound": FeatureTable(parity["text"].ids, sound)}
    model = build_model(name, {}, checkerboard, {n: tables[n] for n in names})
    fit(model, checkerboard, None, TrainConfig(epochs=1, batch_size=64))
    assert np.isfinite(model.score(np.arange(24, dtype=np.int32))).all()


TRAINED = [name for name, (_, training) in LEARN.items() if training]


class Killed(Exception):
    pass


@pytest.mark.parametrize("name", TRAINED)
def test_whatever_a_model_draws_a_resumed_run_ends_bit_by_bit_as_an_undisturbed_one(
    name: str, checkerboard: Interactions, parity: Tables, tmp_path: Path
) -> None:
    config = TrainConfig(epochs=4, batch_size=64)

    def kill(record: EpochRecord) -> None:
        if record.epoch == 1:
            raise Killed

    undisturbed = build_model(name, {}, checkerboard, parity)
    fit(undisturbed, checkerboard, None, config)
    with pytest.raises(Killed):
        killed = build_model(name, {}, checkerboard, parity)
        fit(killed, checkerboard, None, config, checkpoints=tmp_path, progress=kill)
    resumed = build_model(name, {}, checkerboard, parity)
    fit(resumed, checkerboard, None, config, checkpoints=tmp_path)
    rows = np.arange(24, dtype=np.int32)
    assert np.array_equal(resumed.score(rows), undisturbed.score(rows))


def test_constant_features_teach_nothing_and_break_nothing(checkerboard: Interactions) -> None:
    same = {"text": FeatureTable(tuple(checkerboard.item_ids.tolist()), np.ones((20, 3), np.float32))}
    for name in READ_FEATURES:
        model = build_model(name, {}, checkerboard, same)
        fit(model, checkerboard, None, TrainConfig(epochs=2, batch_size=64))
        assert np.isfinite(model.score(np.arange(24, dtype=np.int32))).all()


def test_a_user_without_a_choice_in_a_graph_of_one_pair_is_scored() -> None:
    whole = interactions_from("uv", "ab", "ab")
    train = whole.take(whole.user_rows == 0)
    table = {"x": FeatureTable(("a", "b"), np.eye(2, dtype=np.float32))}
    for name in MODELS:
        model = build_model(name, {}, train, table)
        fit(model, train, None, TrainConfig(epochs=1))
        assert np.isfinite(model.score(np.arange(2, dtype=np.int32))).all()
