import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recsys.losses import bpr, half_squared_norm, info_nce, margin, mean_square, uniformity
from recsys.modalities import projected_difference


def test_bpr_of_two_margins_worked_by_hand() -> None:
    expected = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(1))) / 2
    assert bpr(torch.tensor([2.0, -1.0])).item() == pytest.approx(expected)


@pytest.mark.parametrize("value", [1e4, -1e4])
def test_bpr_of_an_extreme_margin_is_finite_with_a_finite_gradient(value: float) -> None:
    margins = torch.tensor([value], requires_grad=True)
    loss = bpr(margins)
    loss.backward()
    assert torch.isfinite(loss) and margins.grad is not None and torch.isfinite(margins.grad).all()


def test_a_better_positive_lowers_bpr() -> None:
    assert bpr(torch.tensor([1.0])) < bpr(torch.tensor([0.5])) < bpr(torch.tensor([-0.5]))


def test_the_margin_is_the_difference_of_inner_products() -> None:
    user, positive, negative = (
        torch.tensor([[1.0, 2.0]]),
        torch.tensor([[3.0, 4.0]]),
        torch.tensor([[5.0, -6.0]]),
    )
    assert margin(user, positive, negative).tolist() == [11.0 - (-7.0)]


def test_the_norm_counts_repeated_rows() -> None:
    table = torch.tensor([[1.0, 2.0], [3.0, 0.0], [7.0, 7.0]])
    # (5 + 5 + 9) / 2 over a batch of 2.
    assert half_squared_norm(table, torch.tensor([0, 1, 0]), 2).item() == pytest.approx(19 / 4)


def test_mean_square_adds_the_means_of_tables_of_any_size() -> None:
    assert mean_square(torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0], [0.0]])).item() == pytest.approx(
        5 + 2
    )


@given(arrays(np.int64, st.integers(1, 12), elements=st.integers(0, 4)), st.integers(0, 9))
def test_losses_over_all_pairs_take_equal_rows_once(rows: np.ndarray, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    anchors, others = (torch.randn(5, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    unit, content = (torch.nn.functional.normalize(x, dim=1) for x in (anchors, others))
    similarity = (content @ content.T).clamp(0, 0.8)
    every = torch.from_numpy(rows)
    once, counts = torch.unique(every, return_counts=True)
    nce = info_nce(anchors[once], others[once], 0.2, counts)
    assert nce.item() == pytest.approx(info_nce(anchors[every], others[every], 0.2).item())
    grouped = uniformity(unit[once], similarity[once][:, once], counts)
    assert grouped.item() == pytest.approx(uniformity(unit[every], similarity[every][:, every]).item())


def test_contrast_of_two_pairs_worked_by_hand() -> None:
    anchors, others = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    # The first has cosine 1 with both others, the second 0: either way the softmax is a half.
    assert info_nce(anchors, others, 0.5).item() == pytest.approx(math.log(2))
    # Row 1 stands twice: as two of three anchors, and as two of the others each is compared with.
    weighted = info_nce(torch.eye(2), torch.eye(2), 1.0, torch.tensor([1, 2]))
    expected = (math.log(math.e + 2) - 1 + 2 * (math.log(1 + 2 * math.e) - 1)) / 3
    assert weighted.item() == pytest.approx(expected)


@pytest.mark.parametrize("n_items", [2, 9])
def test_a_difference_is_projected_from_the_fewer_rows(n_items: int) -> None:
    values = torch.arange(2.0 * n_items).view(n_items, 2)
    positives, negatives = torch.tensor([1, 0, 1]), torch.tensor([0, 0, 1])
    # f_1 - f_0 = (2, 2), and W = (1, 10).
    found = projected_difference(values, torch.tensor([[1.0, 10.0]]), positives, negatives)
    assert found.ravel().tolist() == [22.0, 0.0, 0.0]
