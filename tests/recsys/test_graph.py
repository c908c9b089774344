import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from recsys.graph import (
    csr_tensor,
    graph_product,
    knn_graph,
    mixed_graph,
    normalised_adjacency,
    propagate_rows,
    propagate_sum,
)
from recsys.ranking import id_places

# Users 0 and 1, items 0 to 2; item 2 was never chosen.
CHOSEN = sparse.csr_array(np.float32([[1, 1, 0], [0, 1, 0]]))


def test_the_adjacency_of_four_edges_worked_by_hand() -> None:
    a, b = 1 / math.sqrt(2 * 1), 1 / math.sqrt(2 * 2)
    c = 1 / math.sqrt(1 * 2)
    expected = [[0, 0, a, b, 0], [0, 0, 0, c, 0], [a, 0, 0, 0, 0], [b, c, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert normalised_adjacency(CHOSEN).toarray() == pytest.approx(np.array(expected))


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_propagation_and_its_gradient_equal_dense_powers(layers: int) -> None:
    dense = torch.tensor(normalised_adjacency(CHOSEN).toarray())
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weight = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    expected = torch.stack([torch.linalg.matrix_power(dense, n) @ x for n in range(layers + 1)]).sum(dim=0)
    got = propagate_sum(csr_tensor(normalised_adjacency(CHOSEN)), x, layers)
    torch.testing.assert_close(got, expected)
    (theirs,) = torch.autograd.grad((expected * weight).sum(), x)
    (ours,) = torch.autograd.grad((got * weight).sum(), x)
    torch.testing.assert_close(ours, theirs)


def test_a_graph_product_sends_gradients_through_the_transpose() -> None:
    graph = sparse.csr_array(np.float32([[0, 0.5, 0.5], [0, 0, 0], [1, 0, 0]]))
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    got = graph_product(csr_tensor(graph), csr_tensor(graph.T.tocsr()), x)
    expected = torch.tensor(graph.toarray()) @ x
    torch.testing.assert_close(got, expected)
    (ours,) = torch.autograd.grad(got.square().sum(), x)
    (theirs,) = torch.autograd.grad(expected.square().sum(), x)
    torch.testing.assert_close(ours, theirs)


def test_neighbours_of_four_items_worked_by_hand() -> None:
    features = np.float32([[1, 0], [2, 0.1], [0, 3], [9, 9]])
    present = np.array([True, True, True, False])
    got = knn_graph(features, present, 2, places=id_places("abcd")).toarray()
    assert got.tolist() == [[0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0, 0]]


def test_twins_are_taken_in_the_order_of_their_ids_and_an_item_is_its_own_neighbour() -> None:
    features = np.ones((4, 3), np.float32)
    got = knn_graph(features, np.ones(4, bool), 2, places=id_places("dcba")).toarray()
    assert np.argwhere(got[0]).ravel().tolist() == [0, 3]
    assert np.argwhere(got[3]).ravel().tolist() == [2, 3]


@given(seed=st.integers(0, 99), k=st.integers(1, 8), block=st.integers(1, 7))
def test_blocks_change_no_neighbour(seed: int, k: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    features, present = rng.normal(size=(7, 3)).astype(np.float32), rng.random(7) < 0.8
    places = id_places([f"{n}" for n in range(7)])
    whole = knn_graph(features, present, k, places=places)
    assert (knn_graph(features, present, k, places=places, block=block) != whole).nnz == 0
    size = min(k, int(present.sum()))
    assert np.diff(whole.indptr).tolist() == [size if p else 0 for p in present]
    assert not whole.toarray()[:, ~present].any()


def test_more_neighbours_than_items_take_all_of_them() -> None:
    assert knn_graph(
        np.eye(2, dtype=np.float32), np.ones(2, bool), 9, places=id_places("ab")
    ).toarray().tolist() == [
        [0.5, 0.5],
        [0.5, 0.5],
    ]


def test_an_item_that_lacks_a_modality_leans_on_the_other() -> None:
    first = sparse.csr_array(np.float32([[1, 0, 0], [0, 1, 0], [0, 0, 0]]))
    second = sparse.csr_array(np.float32([[0, 1, 0], [0, 0, 0], [0, 0, 0]]))
    got = mixed_graph([first, second], [3.0, 1.0]).toarray()
    assert got.tolist() == [[0.75, 0.25, 0], [0, 1, 0], [0, 0, 0]]


def test_a_zero_weight_switches_a_graph_off() -> None:
    first = sparse.csr_array(np.float32([[1, 0], [0, 0]]))
    second = sparse.csr_array(np.float32([[0, 1], [0, 1]]))
    assert mixed_graph([first, second], [1.0, 0.0]).toarray().tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize("layers", [0, 1, 2, 3])
@pytest.mark.parametrize("wanted", [[0], [4, 1, 6], list(range(9))])
def test_the_rows_of_a_batch_and_their_gradients_equal_those_of_the_whole_table(
    layers: int, wanted: list[int]
) -> None:
    rng = np.random.default_rng(0)
    pairs = sparse.csr_array((rng.random((4, 5)) < 0.5).astype(np.float32))
    pairs.data[:] = 1
    matrix = normalised_adjacency(pairs)
    dense = torch.from_numpy(matrix.toarray()).double()
    start = torch.from_numpy(rng.normal(size=(9, 3)))
    rows = torch.tensor(wanted)
    weights = [torch.from_numpy(rng.normal(size=(len(wanted), 3))) for _ in range(2)]

    plain = start.clone().requires_grad_()
    total, layer = plain, plain
    for _ in range(layers):
        layer = dense @ layer
        total = total + layer
    ((weights[0] * total[rows]).sum() + (weights[1] * plain[rows]).sum()).backward()

    ours = start.float().requires_grad_()
    sums, own = propagate_rows(csr_tensor(matrix), ours, layers, rows)
    ((weights[0].float() * sums).sum() + (weights[1].float() * own).sum()).backward()
    assert torch.allclose(sums.double(), total[rows], atol=1e-6) and torch.equal(own, ours[rows])
    assert ours.grad is not None and plain.grad is not None
    assert torch.allclose(ours.grad.double(), plain.grad, atol=1e-5)
