"""The ranking losses: values worked by hand, then the properties every one of them must have."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank.losses import LOSSES, listnet, weighted_ranknet

LOSS = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_listnet_of_one_truth_is_the_softmax_cross_entropy():
    value = listnet(
        torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]]), torch.ones(1, 3, dtype=torch.bool)
    )
    assert value.item() == pytest.approx(-math.log(math.exp(2) / (math.exp(1) + math.exp(2) + 1)))


def test_listnet_shares_the_target_among_equal_truths():
    value = listnet(
        torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([[1.0, 1.0, 0.0]]), torch.ones(1, 3, dtype=torch.bool)
    )
    assert value.item() == pytest.approx(math.log(3))


def test_weighted_ranknet_of_a_full_order_weighs_pairs_by_one_over_the_sum_of_their_ranks():
    # ranks 1, 2, 3 for relevance 3, 2, 1: pairs (1,2) 1/3, (1,3) 1/4, (2,3) 1/5
    scores = torch.tensor([[0.5, 1.0, -1.0]])
    pairs = softplus(0.5) / 3 + softplus(-1.5) / 4 + softplus(-2.0) / 5
    value = weighted_ranknet(scores, torch.tensor([[3.0, 2.0, 1.0]]), torch.ones(1, 3, dtype=torch.bool))
    assert value.item() == pytest.approx(pairs / (1 / 3 + 1 / 4 + 1 / 5))


def test_weighted_ranknet_of_one_truth_weighs_all_its_pairs_alike():
    scores = torch.tensor([[0.0, 1.0, 2.0]])
    value = weighted_ranknet(scores, torch.tensor([[1.0, 0.0, 0.0]]), torch.ones(1, 3, dtype=torch.bool))
    assert value.item() == pytest.approx((softplus(1.0) + softplus(2.0)) / 2)


@LOSS
def test_masked_places_do_not_matter(loss):
    scores, relevance = torch.tensor([[1.0, 2.0, 0.5]]), torch.tensor([[0.0, 1.0, 0.0]])
    alone = loss(scores, relevance, torch.ones(1, 3, dtype=torch.bool))
    padded = loss(
        torch.cat([scores, torch.tensor([[99.0, float("-inf")]])], 1),
        torch.cat([relevance, torch.tensor([[7.0, 1.0]])], 1),
        torch.tensor([[True, True, True, False, False]]),
    )
    assert padded.item() == pytest.approx(alone.item())


@LOSS
@pytest.mark.parametrize(
    ("relevance", "mask"),
    [([[0.0, 0.0]], [[True, True]]), ([[1.0, 0.0]], [[False, False]]), ([[1.0, 0.0]], [[True, False]])],
    ids=["nothing relevant", "all masked", "one candidate"],
)
def test_a_list_that_teaches_nothing_gives_zero_and_a_zero_gradient(loss, relevance, mask):
    scores = torch.tensor([[1.0, 2.0]], requires_grad=True)
    value = loss(scores, torch.tensor(relevance), torch.tensor(mask))
    value.backward()
    assert value.item() == 0
    assert scores.grad is not None
    assert torch.equal(scores.grad, torch.zeros(1, 2))


@LOSS
def test_a_list_that_teaches_nothing_does_not_dilute_the_others(loss):
    mask = torch.ones(1, 2, dtype=torch.bool)
    one = loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0]]), mask)
    two = loss(
        torch.tensor([[1.0, 2.0], [5.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]]), mask.expand(2, 2)
    )
    assert two.item() == pytest.approx(one.item())


@LOSS
def test_extreme_scores_give_finite_losses_and_gradients(loss):
    scores = torch.tensor([[-1e4, 1e4, 0.0]], requires_grad=True)
    value = loss(scores, torch.tensor([[1.0, 0.0, 0.0]]), torch.ones(1, 3, dtype=torch.bool))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(scores.grad).all()
    assert scores.grad[0, 0] < 0


@LOSS
def test_relevance_receives_no_gradient(loss):
    relevance = torch.tensor([[1.0, 0.0]], requires_grad=True)
    scores = torch.tensor([[1.0, 2.0]], requires_grad=True)
    loss(scores, relevance, torch.ones(1, 2, dtype=torch.bool)).backward()
    assert relevance.grad is None


LISTS = st.lists(st.tuples(st.floats(-8, 8), st.sampled_from([0.0, 1.0])), min_size=2, max_size=8)


@LOSS
@given(rows=LISTS, shift=st.floats(-5, 5), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_shifting_all_scores_or_reordering_the_list_changes_nothing(loss, rows, shift, seed):
    scores, relevance = (torch.tensor([column]) for column in zip(*rows, strict=True))
    mask = torch.ones_like(scores, dtype=torch.bool)
    value = loss(scores, relevance, mask).item()
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    assert loss(scores + shift, relevance, mask).item() == pytest.approx(value, abs=1e-4)
    assert loss(scores[:, order], relevance[:, order], mask).item() == pytest.approx(value, abs=1e-5)


@LOSS
@given(rows=LISTS)
@settings(max_examples=40, deadline=None)
def test_raising_a_relevant_score_never_raises_the_loss(loss, rows):
    rows = [(0.0, 1.0), *((score, 0.0) for score, _ in rows)]
    scores, relevance = (torch.tensor([column]) for column in zip(*rows, strict=True))
    mask = torch.ones_like(scores, dtype=torch.bool)
    raised = scores.clone()
    raised[0, 0] += 1
    assert loss(raised, relevance, mask) <= loss(scores, relevance, mask) + 1e-6
