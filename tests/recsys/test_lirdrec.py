from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from extract.errors import ConfigError, InvalidData
from extract.features import FeatureTable
from recsys import Interactions
from recsys.lirdrec import LIRDRec, LIRDRecConfig
from recsys.train import TrainConfig, fit

Array = NDArray[np.float64]
SMALL = LIRDRecConfig(embedding_size=4, layers=2, neighbours=3, reg=0.01)


def dct_by_definition(x: Array) -> Array:
    n = x.shape[1]
    place = np.arange(n)
    basis = np.sqrt(2 / n) * np.cos(np.pi * (2 * place[:, None] + 1) * place[None, :] / (2 * n))
    basis[:, 0] /= np.sqrt(2)
    return x @ basis


def unit(x: Array) -> Array:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def mlp(x: Array, w: dict[str, Any], name: str) -> Array:
    hidden = x @ w[f"{name}.0.weight"].T + w[f"{name}.0.bias"]
    hidden = np.where(hidden > 0, hidden, 0.01 * hidden)
    return hidden @ w[f"{name}.2.weight"].T + w.get(f"{name}.2.bias", 0.0)


def plain_forward(
    w: dict[str, Any], train: Interactions, tables: dict[str, FeatureTable], config: LIRDRecConfig
) -> tuple[Array, Array]:
    """The equations with dense matrices, one item at a time where that is plainest."""
    r = train.matrix().toarray().astype(np.float64)
    du, di = np.maximum(r.sum(axis=1), 1), np.maximum(r.sum(axis=0), 1)
    r_hat = r / np.sqrt(du[:, None] * di[None, :])
    filled, graph = [], np.zeros((train.n_items, train.n_items))
    for name in sorted(tables):
        table = tables[name]
        x = table.matrix.astype(np.float64)
        mean = x[table.present].mean(axis=0)
        filled.append(np.array([row if there else mean for row, there in zip(x, table.present, strict=True)]))
        for item in np.flatnonzero(table.present):
            others = [n for n in np.flatnonzero(table.present) if n != item]
            near = sorted(others, key=lambda n: -float(unit(x[item]) @ unit(x[n])))[: config.neighbours - 1]
            known = sum(t.present[item] for t in tables.values())
            graph[item, [item, *near]] += 1 / config.neighbours / known
    inputs = [*filled, np.concatenate([dct_by_definition(x) for x in filled], axis=1)]
    users = np.concatenate([unit(w[f"users.{b}"]) for b in range(len(inputs))], axis=1)
    items = np.concatenate([unit(mlp(x, w, f"projections.{b}")) for b, x in enumerate(inputs)], axis=1)
    total_u, total_i, now_u, now_i = users, items, users, items
    for _ in range(config.layers):
        now_u, now_i = r_hat @ now_i, r_hat.T @ now_u
        total_u, total_i = total_u + now_u, total_i + now_i
    d = config.embedding_size
    parts = [total_u[:, d * b : d * b + d] for b in range(len(inputs))]
    computed = np.concatenate([mlp(part, w, f"gates.{b}") for b, part in enumerate(parts)], axis=1)
    logits = w["handover"][0] * computed + w["handover"][1] * (w["copied"] + w["theta"])
    attention = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    user = np.concatenate([attention[:, b : b + 1] * part for b, part in enumerate(parts)], axis=1)
    return user, total_i + graph @ total_i


@pytest.mark.parametrize("names", [["text"], ["picture", "text"]])
def test_the_forward_pass_equals_the_plain_equations(
    checkerboard: Interactions, parity: dict[str, FeatureTable], names: list[str]
) -> None:
    tables = {name: parity[name] for name in names}
    model = LIRDRec(SMALL, checkerboard, tables, seed=1)
    model.start_epoch(1)
    weights = {name: values.astype(np.float64) for name, values in model.tensors().items()}
    users, items = plain_forward(weights, checkerboard, tables, SMALL)
    got_users, got_items = model.embeddings()
    assert got_users.shape == (24, 4 * (len(names) + 1))
    assert got_users == pytest.approx(users, abs=1e-5)
    assert got_items == pytest.approx(items, abs=1e-5)
    u, i, j = torch.tensor([0, 5]), torch.tensor([2, 3]), torch.tensor([7, 8])
    margins = (users[u] * (items[i] - items[j])).sum(axis=1)
    expected = np.log1p(np.exp(-margins)).mean() + 0.01 * ((users**2).mean() + (items**2).mean())
    assert model.loss(u, i, j).item() == pytest.approx(expected, rel=1e-5)


def test_the_handover_follows_its_recursion(
    checkerboard: Interactions, parity: dict[str, FeatureTable]
) -> None:
    model = LIRDRec(SMALL, checkerboard, parity)
    model.start_epoch(0)
    assert model.handover.tolist() == pytest.approx([0.9, 0.1])
    w1, w2 = 0.9, 0.1
    for epoch in range(1, 11):
        model.start_epoch(epoch)
        w1, w2 = w1 * 0.9**epoch / (w1 * 0.9**epoch + w2), w2 / (w1 * 0.9**epoch + w2)
        assert model.handover.tolist() == pytest.approx([w1, w2], rel=1e-4)
    # The closed form: odds of 9 times b to the 55th.
    assert w1 / w2 == pytest.approx(9 * 0.9**55)


def test_a_finished_handover_reproduces_the_attention_it_copied(
    checkerboard: Interactions, parity: dict[str, FeatureTable]
) -> None:
    model = LIRDRec(SMALL.model_copy(update={"copy_base": 1e-6}), checkerboard, parity)
    before = model.embeddings()[0]
    theta = model.theta.detach().clone()
    model.start_epoch(5)
    assert model.embeddings()[0] == pytest.approx(before, abs=1e-5)
    assert torch.equal(model.theta, theta)


def test_lirdrec_learns_the_checkerboard_and_ranks_items_nobody_chose(
    checkerboard: Interactions, parity: dict[str, FeatureTable]
) -> None:
    model = LIRDRec(LIRDRecConfig(embedding_size=8, layers=2, neighbours=4), checkerboard, parity)
    fit(model, checkerboard, None, TrainConfig(epochs=30, batch_size=64, learning_rate=0.01))
    scores = model.score(np.arange(24, dtype=np.int32))
    own = (np.arange(24)[:, None] + np.arange(20)) % 2 == 0
    assert (
        np.where(own, scores, np.inf).min(axis=1) > np.where(own, -np.inf, scores).max(axis=1)
    ).mean() > 0.9
    cold = scores[:, 18:]
    assert (np.where(np.arange(24) % 2 == 0, cold[:, 0] - cold[:, 1], cold[:, 1] - cold[:, 0]) > 0).all()


def test_features_are_found_by_id_not_by_place(
    checkerboard: Interactions, parity: dict[str, FeatureTable]
) -> None:
    order = np.random.default_rng(0).permutation(20)
    shuffled = {
        name: FeatureTable(tuple(np.array(t.ids)[order].tolist()), t.matrix[order], t.present[order])
        for name, t in parity.items()
    }
    rows = np.arange(24, dtype=np.int32)
    ours, theirs = (LIRDRec(SMALL, checkerboard, tables).score(rows) for tables in (parity, shuffled))
    assert np.array_equal(ours, theirs)


def test_the_values_of_absent_rows_do_not_matter(
    checkerboard: Interactions, parity: dict[str, FeatureTable]
) -> None:
    noisy = parity["text"].matrix.copy()
    noisy[~parity["text"].present] = 99.0
    tables = parity | {"text": FeatureTable(parity["text"].ids, noisy, parity["text"].present)}
    rows = np.arange(24, dtype=np.int32)
    assert np.array_equal(
        LIRDRec(SMALL, checkerboard, parity).score(rows), LIRDRec(SMALL, checkerboard, tables).score(rows)
    )


def test_weight_decay_reaches_the_optimizer(
    checkerboard: Interactions, parity: dict[str, FeatureTable]
) -> None:
    weights = []
    for decay in (0.0, 0.1):
        model = LIRDRec(SMALL, checkerboard, parity)
        fit(model, checkerboard, None, TrainConfig(epochs=2, weight_decay=decay))
        weights.append(model.theta.detach().numpy().copy())
    assert not np.array_equal(*weights)


def test_no_features_and_wrong_weights_are_errors(
    checkerboard: Interactions, parity: dict[str, FeatureTable]
) -> None:
    with pytest.raises(ConfigError, match="at least one feature table"):
        LIRDRec(SMALL, checkerboard, {})
    with pytest.raises(ConfigError, match="knn_weights"):
        LIRDRec(SMALL.model_copy(update={"knn_weights": {"sound": 1.0}}), checkerboard, parity)
    absent = FeatureTable(("other",), np.ones((1, 3), np.float32))
    with pytest.raises(InvalidData, match="know none of the items"):
        LIRDRec(SMALL, checkerboard, {"text": absent})
