import math

import pytest
import torch

from recsys.losses import bpr, half_squared_norm, margin, mean_square


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
