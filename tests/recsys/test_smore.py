import numpy as np
import pytest
import torch

from extract.features import FeatureTable
from recsys import Interactions
from recsys.smore import SMORE, SMOREConfig

Tables = dict[str, FeatureTable]


def test_smore_on_the_ring_worked_by_hand(ring: Interactions, pairs: Tables) -> None:
    model = SMORE(SMOREConfig(embedding_size=1, layers=1, neighbours=2), ring, pairs)
    weights = {name: np.zeros_like(values) for name, values in model.tensors().items()}
    weights["embedding"] = np.float32([[1, 2, 3, 4, 5, 6, 7, 8]]).T
    model.restore(weights)
    # Zero weights make every gate 1/2 and, at width 1, every attention 1: side = half the mean of the views.
    x = np.array([5, 6, 7, 8]) / 2
    picture = np.array([x[0] + x[1], x[0] + x[1], x[2] + x[3], x[2] + x[3]]) / 2
    text = np.array([x[0] + x[3], x[1] + x[2], x[1] + x[2], x[0] + x[3]]) / 2
    # The union gives each item both its twins and itself, a third each.
    union = np.array([x[0] + x[1] + x[3], x[0] + x[1] + x[2], x[1] + x[2] + x[3], x[0] + x[2] + x[3]]) / 3
    side = (picture + text + union) / 6
    users, items = model.embeddings()
    chosen = np.array([(5 + 2.5) / 2, (6 + 1.5) / 2, (7 + 2.5) / 2, (8 + 3.5) / 2])
    assert items.ravel() == pytest.approx(chosen + side)
    own = np.array([(1 + 5.5) / 2, (2 + 6.5) / 2, (3 + 7.5) / 2, (4 + 6.5) / 2])
    assert users.ravel() == pytest.approx(own + (side + np.roll(side, -1)) / 2)


def test_fusion_in_frequency_is_a_circular_convolution(ring: Interactions, pairs: Tables) -> None:
    model = SMORE(SMOREConfig(embedding_size=4), ring, pairs)
    weights = model.tensors()
    weights["filters"] = np.float32([[[1, 0]] * 3] * 3)
    model.restore(weights)
    picture, text, fused = (view.detach().numpy().astype(np.float64) for view in model.views())
    lag = (np.arange(4)[:, None] - np.arange(4)) % 4
    expected = np.stack([t[lag] @ p for p, t in zip(picture, text, strict=True)]) / 2
    assert fused == pytest.approx(expected, abs=1e-6)
    f = pairs["picture"].matrix @ weights["projections.0.weight"].T + weights["projections.0.bias"]
    assert picture == pytest.approx(f, abs=1e-6)


def sigmoid(x: np.ndarray) -> np.ndarray:
    value: np.ndarray = 1 / (1 + np.exp(-x))
    return value


def linear(w: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    value: np.ndarray = x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", np.zeros(1))
    return value


def plain(w: dict[str, np.ndarray], ring: Interactions, pairs: Tables) -> tuple[np.ndarray, np.ndarray]:
    """C and side of the ring by the equations, with dense matrices and numpy's FFT."""
    half = ring.matrix().toarray() / 2
    users, items = w["embedding"][:4], w["embedding"][4:]
    chosen = np.concatenate([users + half @ items, items + half.T @ users]) / 2
    filters = w["filters"][..., 0] + 1j * w["filters"][..., 1]
    spectra = [
        np.fft.rfft(linear(w, f"projections.{n}", pairs[name].matrix), norm="ortho")
        for n, name in enumerate(("picture", "text"))
    ]
    spectra.append(spectra[0] * spectra[1])
    twins = [np.kron(np.eye(2), np.ones((2, 2))), np.float64([[1, 0, 0, 1], [0, 1, 1, 0]] * 2)]
    twins[1] = twins[1][[0, 1, 1, 0]]
    twins.append(np.maximum(*twins))
    spread = []
    for n, (spectrum, twin) in enumerate(zip(spectra, twins, strict=True)):
        view = np.fft.irfft(filters[n] * spectrum, n=4, norm="ortho")
        x = twin / twin.sum(axis=1, keepdims=True) @ (items * sigmoid(linear(w, f"purifiers.{n}", view)))
        spread.append(np.concatenate([half @ x, x]))
    for n in range(2):
        inner = np.tanh(linear(w, f"queries.{n}.0", spread[2])) @ w[f"queries.{n}.2.weight"].T
        spread[n] = spread[n] * np.exp(inner) / np.exp(inner).sum(axis=1, keepdims=True)
    side = sum(sigmoid(linear(w, f"gates.{n}", chosen)) * x for n, x in enumerate(spread)) / 3
    return chosen, np.asarray(side)


def test_forward_and_loss_equal_the_plain_equations(ring: Interactions, pairs: Tables) -> None:
    config = SMOREConfig(
        embedding_size=4, layers=1, neighbours=2, dropout=0.0, reg=0.1, contrast=0.5, temperature=0.7
    )
    model = SMORE(config, ring, pairs, seed=4)
    chosen, side = plain({n: v.astype(np.float64) for n, v in model.tensors().items()}, ring, pairs)
    nodes = chosen + side
    assert np.concatenate(model.embeddings()) == pytest.approx(nodes, abs=1e-5)
    u, i, j = np.array([0, 3]), np.array([4, 5]), np.array([6, 6])
    margins = (nodes[u] * (nodes[i] - nodes[j])).sum(axis=1)
    expected = np.log1p(np.exp(-margins)).mean() + 0.1 * sum((nodes[r] ** 2).sum() for r in (u, i, j)) / 4
    for rows in (u, i):
        a, b = (t[rows] / np.linalg.norm(t[rows], axis=1, keepdims=True) for t in (side, chosen))
        logits = a @ b.T / 0.7
        expected += 0.5 * (np.log(np.exp(logits).sum(axis=1)) - np.diag(logits)).mean()
    loss = model.loss(torch.tensor([0, 3]), torch.tensor([0, 1]), torch.tensor([2, 2]))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_dropout_acts_in_training_only(ring: Interactions, pairs: Tables) -> None:
    rows = torch.tensor([0]), torch.tensor([0]), torch.tensor([2])
    dry, wet = (SMORE(SMOREConfig(dropout=share), ring, pairs) for share in (0.0, 0.5))
    assert np.array_equal(dry.embeddings()[0], wet.embeddings()[0])
    assert dry.loss(*rows).item() != wet.loss(*rows).item()
