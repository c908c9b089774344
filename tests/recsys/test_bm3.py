import numpy as np
import pytest
import torch

from extract.features import FeatureTable
from recsys import Interactions
from recsys.bm3 import BM3, BM3Config

Tables = dict[str, FeatureTable]


def test_bm3_on_the_ring_worked_by_hand(ring: Interactions, pairs: Tables) -> None:
    model = BM3(BM3Config(embedding_size=1, layers=1), ring, pairs)
    weights = model.tensors() | {
        "embedding": np.float32([[1, 2, 3, 4, 5, 6, 7, 8]]).T,
        "predictor.weight": np.float32([[2]]),
        "predictor.bias": np.float32([1]),
    }
    model.restore(weights)
    users, items = model.embeddings()
    means = np.array([(1 + 5.5) / 2, (2 + 6.5) / 2, (3 + 7.5) / 2, (4 + 6.5) / 2])
    assert users.ravel() == pytest.approx(2 * means + 1)
    # The item's own embedding is added once more.
    own = np.array([(5 + 2.5) / 2 + 5, (6 + 1.5) / 2 + 6, (7 + 2.5) / 2 + 7, (8 + 3.5) / 2 + 8])
    assert items.ravel() == pytest.approx(2 * own + 1)


def test_the_loss_equals_the_plain_equation(ring: Interactions, pairs: Tables) -> None:
    config = BM3Config(embedding_size=3, layers=1, dropout=0.0, feature_weight=0.7, reg=0.2)
    model = BM3(config, ring, pairs, seed=2)
    w = {name: values.astype(np.float64) for name, values in model.tensors().items()}
    half = ring.matrix().toarray() / 2
    users, items = w["embedding"][:4], w["embedding"][4:]
    hu, hi = (users + half @ items) / 2, (items + half.T @ users) / 2 + items

    def q(x: np.ndarray) -> np.ndarray:
        predicted: np.ndarray = x @ w["predictor.weight"].T + w["predictor.bias"]
        return predicted

    def c(a: np.ndarray, b: np.ndarray) -> float:
        return float(1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    total = 0.0
    for u, i in ((0, 1), (3, 0)):
        total += c(q(hu[u]), hi[i]) + c(q(hi[i]), hu[u])
        for number, name in enumerate(("picture", "text")):
            f = pairs[name].matrix[i].astype(np.float64)
            m = w[f"projections.{number}.weight"] @ f + w[f"projections.{number}.bias"]
            total += 0.7 * (c(q(m), hi[i]) + c(q(m), m))
    expected = total / 2 + 0.2 * ((hu**2).mean() + (hi**2).mean())
    loss = model.loss(torch.tensor([0, 3]), torch.tensor([1, 0]), torch.tensor([2, 2]))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_a_batch_of_more_pairs_than_items_has_the_same_loss(ring: Interactions, pairs: Tables) -> None:
    model = BM3(BM3Config(embedding_size=4, dropout=0.0), ring, pairs)
    users, items = torch.tensor([0, 2]), torch.tensor([1, 3])
    many = model.loss(users.repeat(3), items.repeat(3), items)
    assert many.item() == pytest.approx(model.loss(users, items, items).item(), rel=1e-5)


def test_negatives_are_not_read_and_targets_get_no_gradient(ring: Interactions, pairs: Tables) -> None:
    losses = []
    for negative in (0, 3):
        model = BM3(BM3Config(embedding_size=4), ring, pairs)
        losses.append(model.loss(torch.tensor([1]), torch.tensor([1]), torch.tensor([negative])).item())
    assert losses[0] == losses[1]
    online, target = torch.ones(2, 3, requires_grad=True), torch.ones(2, 3, requires_grad=True)
    torch.autograd.backward(model._view(target).sum() + online.sum())
    assert target.grad is None


def test_dropout_keeps_the_mean_and_follows_seed_and_epoch(ring: Interactions, pairs: Tables) -> None:
    model = BM3(BM3Config(dropout=0.3), ring, pairs)
    ones = torch.ones(400, 100)
    first = model._view(ones)
    assert first.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert first.mean().item() == pytest.approx(1, abs=0.02)
    model.start_epoch(0)
    assert torch.equal(model._view(ones), first)
    model.start_epoch(1)
    assert not torch.equal(model._view(ones), first)


def test_an_item_nobody_chose_points_where_its_features_point(ring: Interactions, pairs: Tables) -> None:
    fewer = ring.take(ring.item_rows != 3)
    model = BM3(BM3Config(embedding_size=2, layers=0), fewer, {"picture": pairs["picture"]})
    identity = {"predictor.weight": np.eye(2, dtype=np.float32), "predictor.bias": np.zeros(2, np.float32)}
    projection = {
        "projections.0.weight": np.eye(2, dtype=np.float32),
        "projections.0.bias": np.zeros(2, np.float32),
    }
    embedding = np.float32([[1, 0]] * 4 + [[1, 0], [2, 0], [0, 3], [50, 50]])
    model.restore({"embedding": embedding} | identity | projection)
    # Twice the embedding without layers: lengths 2, 4 and 6, their mean along item 3's picture.
    assert model.embeddings()[1].tolist() == [[2, 0], [4, 0], [0, 6], [0, 4]]
