import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from extract.features import FeatureTable
from recsys import Interactions
from recsys.cm3 import CM3, CM3Config, spherical_bezier
from recsys.losses import uniformity

Tables = dict[str, FeatureTable]
ROOT_HALF = math.sqrt(0.5)


def of_signs(ring: Interactions, pairs: Tables) -> CM3:
    model = CM3(CM3Config(embedding_size=1, layers=1, neighbours=2), ring, {"picture": pairs["picture"]})
    weights = {name: np.zeros_like(values) for name, values in model.tensors().items()}
    weights |= {"users.0": np.full((4, 1), 3, np.float32), "users.1": np.full((4, 1), 5, np.float32)}
    # At width 1 a unit vector is a sign: the first block tells items 0 and 1 (+) from 2 and 3 (-), the fused
    # one is + everywhere.
    weights["projections.0.0.weight"][0] = [1, -1]
    weights["projections.0.2.weight"][0, 0] = 1
    weights["to_sphere.0.bias"][:] = 1
    model.restore(weights)
    return model


def test_cm3_on_the_ring_worked_by_hand(ring: Interactions, pairs: Tables) -> None:
    users, items = of_signs(ring, pairs).embeddings()
    # Users: 1 + the mean of their two items. The fused block of everybody: 1 + 1 = 2. Equal shares.
    firsts = [2, 1, 0, 1]
    assert users == pytest.approx(np.array([[x, 2] / np.hypot(x, 2) for x in firsts]), abs=1e-6)
    # Items: their sign + 1, and the mean of the pair over again; none is scaled to unit length.
    assert items == pytest.approx(np.float32([[4, 4]] * 2 + [[0, 4]] * 2), abs=1e-5)


@pytest.mark.parametrize(("drawn", "apart"), [([3, 0], ROOT_HALF), ([3, 2], 1.0)])
def test_the_drawn_items_are_pushed_apart_not_the_chosen_ones(
    ring: Interactions, pairs: Tables, drawn: list[int], apart: float
) -> None:
    # Users 0 and 2, as in the test before, are where their items 0 and 2 are, so alignment is 0, and have a
    # cosine of sqrt(1/2), exponent 4 (cos - 1). Contents are alike, clamped to 0.8: 4 (cos - 0.8).
    loss = of_signs(ring, pairs).loss(torch.tensor([0, 2]), torch.tensor([0, 2]), torch.tensor(drawn))
    assert loss.item() == pytest.approx(0.45 * (4 * (ROOT_HALF - 1) + 4 * (apart - 0.8)), abs=1e-5)


def test_halfway_between_two_axes_is_their_diagonal() -> None:
    points = [torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]])]
    assert spherical_bezier(points, 0.5)[0].tolist() == pytest.approx([ROOT_HALF, ROOT_HALF, 0])
    # A third of the right angle away from the first point.
    third = spherical_bezier(points, 2 / 3)[0].tolist()
    assert third == pytest.approx([math.cos(math.pi / 6), math.sin(math.pi / 6), 0])


def test_three_axes_halfway_worked_by_hand() -> None:
    # The diagonals of xy and yz are 60 degrees apart; halfway is their sum, scaled: (1, 2, 1) / sqrt(6).
    points = list(torch.eye(3)[:, None, :])
    assert spherical_bezier(points, 0.5)[0].tolist() == pytest.approx(list(np.array([1, 2, 1]) / 6**0.5))


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 50), m=st.integers(1, 5), at=st.floats(0, 1))
def test_a_curve_stays_on_the_sphere_and_meets_its_ends(seed: int, m: int, at: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    points = [torch.nn.functional.normalize(torch.randn(3, 6, generator=generator), dim=1) for _ in range(m)]
    assert spherical_bezier(points, at).norm(dim=1).tolist() == pytest.approx([1.0] * 3, abs=1e-4)
    torch.testing.assert_close(spherical_bezier(points, 1.0), points[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(spherical_bezier(points, 0.0), points[-1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("other", [[1.0, 0.0], [-1.0, 0.0]])
def test_parallel_and_opposite_modalities_give_finite_numbers_and_gradients(other: list[float]) -> None:
    a, b = torch.tensor([[1.0, 0.0]], requires_grad=True), torch.tensor([other], requires_grad=True)
    fused = spherical_bezier([a, b], 0.3)
    fused.sum().backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(fused).all()
    assert a.grad is not None and torch.isfinite(a.grad).all()
    if other[0] > 0:
        assert fused[0].tolist() == pytest.approx([1.0, 0.0], abs=1e-3)


def test_full_similarity_everywhere_is_plain_uniformity() -> None:
    x = torch.nn.functional.normalize(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    pairs = [math.exp(-2 * float((x[a] - x[b]).square().sum())) for a in range(5) for b in range(a)]
    assert uniformity(x).item() == pytest.approx(math.log(sum(pairs) / 10), rel=1e-5)
    assert uniformity(x, torch.ones(5, 5)).item() == pytest.approx(uniformity(x).item())


def test_a_similar_pair_is_pushed_less() -> None:
    x = torch.eye(3, requires_grad=True)
    similarity = torch.zeros(3, 3)
    similarity[0, 1] = similarity[1, 0] = 0.8
    (gradient,) = torch.autograd.grad(uniformity(x, similarity), x)
    assert 0 < gradient[0, 1] < gradient[0, 2]


def test_one_vector_has_no_pair() -> None:
    assert uniformity(torch.ones(1, 3)).item() == 0


def unit(x: np.ndarray) -> np.ndarray:
    value: np.ndarray = x / np.linalg.norm(x, axis=1, keepdims=True)
    return value


def test_the_loss_equals_the_plain_equation(ring: Interactions, pairs: Tables) -> None:
    config = CM3Config(embedding_size=3, layers=1, neighbours=2, gamma=0.6, alpha=1e6, max_similarity=0.7)
    model = CM3(config, ring, pairs, seed=1)
    w = {name: values.astype(np.float64) for name, values in model.tensors().items()}
    tables = [pairs[name].matrix.astype(np.float64) for name in ("picture", "text")]
    blocks, sphere = [], []
    for n, f in enumerate(tables):
        hidden = f @ w[f"projections.{n}.0.weight"].T + w[f"projections.{n}.0.bias"]
        blocks.append(unit(np.where(hidden > 0, hidden, 0.01 * hidden) @ w[f"projections.{n}.2.weight"].T))
        sphere.append(unit(f @ w[f"to_sphere.{n}.weight"].T + w[f"to_sphere.{n}.bias"]))
    # So large an alpha leaves p no room but 1/2: halfway is the sum, scaled.
    fused = unit(sphere[0] + sphere[1])
    items = np.concatenate([*blocks, fused], axis=1)
    users = np.concatenate([unit(w[f"users.{n}"]) for n in range(3)], axis=1)
    half = ring.matrix().toarray() / 2
    hu, hi = users + half @ items, items + half.T @ users
    share = np.exp(w["shares"]) / np.exp(w["shares"]).sum(axis=1, keepdims=True)
    u = unit(hu * np.repeat(share, 3, axis=1))
    picture, text = np.kron(np.eye(2), np.ones((2, 2))), np.eye(4) + np.eye(4)[::-1]
    ranked = hi + (picture + text) / 4 @ hi
    i = unit(ranked)
    got_users, got_items = model.embeddings()
    assert got_users == pytest.approx(u, abs=1e-5) and got_items == pytest.approx(ranked, abs=1e-5)
    chosen, drawn = [1, 0, 3], [2, 3, 1]
    total = {"users": 0.0, "items": 0.0}
    for a in range(3):
        for b in range(a):
            total["users"] += math.exp(-2 * ((u[a] - u[b]) ** 2).sum()) / 3
            s = min(max(fused[drawn[a]] @ fused[drawn[b]], 0), 0.7)
            distance = ((i[drawn[a]] - i[drawn[b]]) ** 2).sum()
            total["items"] += math.exp(-2 * (distance - 2 + 2 * s)) / 3
    near = ((u[:3] - i[chosen]) ** 2).sum(axis=1).mean()
    expected = near + 0.3 * (math.log(total["users"]) + math.log(total["items"]))
    loss = model.loss(torch.arange(3), torch.tensor(chosen), torch.tensor(drawn))
    assert loss.item() == pytest.approx(expected, rel=1e-3)


def test_ranking_draws_nothing_and_training_follows_seed_and_epoch(ring: Interactions, pairs: Tables) -> None:
    model = CM3(CM3Config(embedding_size=4), ring, pairs)
    rows = torch.arange(4), torch.arange(4), torch.arange(4)
    before = model.embeddings()[1]
    first, second = model.loss(*rows).item(), model.loss(*rows).item()
    model.start_epoch(0)
    assert model.loss(*rows).item() == first != second
    assert np.array_equal(model.embeddings()[1], before)
