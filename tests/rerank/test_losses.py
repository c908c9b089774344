"""The ranking losses: values worked by hand, then the properties every one of them must have.

Those that the ablation found no use for are held to the same, or it would have compared with something else.
"""

import itertools
import math
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank.losses import LOSSES, lambdarank, listnet, weighted_ranknet

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from ablation_losses import TRIED, approx_ndcg, listmle, policy_gradient

sys.path.pop(0)

ALL = LOSSES | TRIED
LOSS = pytest.mark.parametrize("loss", ALL.values(), ids=ALL)
EXACT = pytest.mark.parametrize(
    "loss", [loss for name, loss in ALL.items() if name != "policy_gradient"],
    ids=[name for name in ALL if name != "policy_gradient"],
)  # fmt: skip
"""Losses without sampling noise."""
ONES3 = torch.ones(1, 3, dtype=torch.bool)


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


def test_listmle_of_a_full_order_is_the_plackett_luce_likelihood_over_its_terms():
    # best first: 0.5, 1, -1
    first = math.log(math.exp(0.5) + math.exp(1.0) + math.exp(-1.0)) - 0.5
    second = math.log(math.exp(1.0) + math.exp(-1.0)) - 1.0
    value = listmle(torch.tensor([[0.5, 1.0, -1.0]]), torch.tensor([[3.0, 2.0, 1.0]]), ONES3)
    assert value.item() == pytest.approx((first + second) / 2)


def test_listmle_lets_equals_not_compete():
    # each truth against the one other: log(e^1 + e^0) - 1 and log(e^2 + e^0) - 2
    value = listmle(torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[1.0, 1.0, 0.0]]), ONES3)
    assert value.item() == pytest.approx((softplus(-1.0) + softplus(-2.0)) / 2)


def test_lambdarank_weighs_a_pair_by_the_ndcg_its_swap_would_change():
    # One truth at rank 2 of 3; best DCG 1, so every gain difference is 1. With mu = 0:
    # against rank 1: |1/log2(3) - 1|, against rank 3: |1/log2(3) - 1/2|.
    d = [1.0, 1 / math.log2(3), 0.5]
    pairs = (d[0] - d[1]) * softplus(1.0) + (d[1] - d[2]) * softplus(-1.0)
    scores, relevance = torch.tensor([[0.0, 1.0, -1.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    assert lambdarank(scores, relevance, ONES3, mu=0.0).item() == pytest.approx(pairs)


def test_lambdarank_adds_mu_times_the_weight_of_ndcg_loss2():
    # Both pairs are one rank apart: rho = 1/log2(2) - 1/log2(3).
    rho = 1 - 1 / math.log2(3)
    scores, relevance = torch.tensor([[0.0, 1.0, -1.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    more = lambdarank(scores, relevance, ONES3, mu=2.0) - lambdarank(scores, relevance, ONES3, mu=0.0)
    assert more.item() == pytest.approx(2 * rho * (softplus(1.0) + softplus(-1.0)), rel=1e-5)


def test_approx_ndcg_puts_the_expected_rank_into_the_discount():
    # rank of the truth: 1 + sigmoid(1) + sigmoid(-1) = 2
    value = approx_ndcg(
        torch.tensor([[0.0, 1.0, -1.0]]), torch.tensor([[1.0, 0.0, 0.0]]), ONES3, temperature=1.0
    )
    assert value.item() == pytest.approx(1 - 1 / math.log2(3))


def test_approx_ndcg_at_a_low_temperature_is_one_minus_ndcg():
    # gains 3 and 1 at ranks 2 and 1: DCG = 1 + 3 / log2(3), best = 3 + 1 / log2(3)
    value = approx_ndcg(
        torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[2.0, 1.0, 0.0]]), ONES3, temperature=0.01
    )
    assert value.item() == pytest.approx(1 - (1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3)), abs=1e-6)


def plackett_luce(scores: torch.Tensor, order: tuple[int, ...]) -> torch.Tensor:
    steps = [scores[order[k]] - scores[list(order[k:])].logsumexp(0) for k in range(len(order))]
    return torch.stack(steps).sum().exp()


def test_the_policy_gradient_of_four_candidates_is_the_exact_one_within_sampling_error():
    start, relevance = [0.3, -0.5, 0.8, 0.0], [0.0, 2.0, 0.0, 1.0]
    exact = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    best = 3 + 1 / math.log2(3)
    expected = torch.zeros((), dtype=torch.float64)
    for order in itertools.permutations(range(4)):
        dcg = sum((2 ** relevance[i] - 1) / math.log2(k + 2) for k, i in enumerate(order))
        expected = expected + plackett_luce(exact, order) * (1 - dcg / best)
    expected.backward()
    noise = torch.Generator().manual_seed(0)
    runs, values = [], []
    for _ in range(100):
        scores = torch.tensor([start] * 50, requires_grad=True)
        mask = torch.ones(50, 4, dtype=torch.bool)
        value = policy_gradient(scores, torch.tensor([relevance] * 50), mask, samples=4, generator=noise)
        value.backward()
        runs.append(scores.grad.sum(0).double())
        values.append(value.detach().double())
    found = torch.stack(runs)
    error = found.std(0) / math.sqrt(len(runs))
    assert ((found.mean(0) - exact.grad).abs() < 4 * error).all()
    assert (error < 0.1 * exact.grad.abs().max()).all()
    spread = torch.stack(values).std() / math.sqrt(len(values))
    assert abs(torch.stack(values).mean() - expected.detach()) < 4 * spread


def test_leaving_one_out_lowers_the_variance_of_the_policy_gradient():
    scores, relevance = torch.tensor([[0.3, -0.5, 0.8]]), torch.tensor([[0.0, 1.0, 0.0]])

    def gradients(samples: int) -> torch.Tensor:
        noise = torch.Generator().manual_seed(1)
        runs = []
        for _ in range(300):
            leaf = scores.clone().requires_grad_()
            policy_gradient(leaf, relevance, ONES3, samples=samples, generator=noise).backward()
            runs.append(leaf.grad[0])
        return torch.stack(runs)

    # Score-function estimate without any baseline, of the same number of rankings.
    noise, plain = torch.Generator().manual_seed(2), []
    for _ in range(300):
        leaf = scores[0].clone().requires_grad_()
        total = torch.zeros(())
        for _ in range(4):
            gumbel = -torch.empty(3).exponential_(generator=noise).log()
            order = tuple((scores[0] + gumbel).argsort(descending=True).tolist())
            total = total - plackett_luce(leaf, order).log() / math.log2(order.index(1) + 2) / 4
        total.backward()
        plain.append(leaf.grad)
    assert gradients(4).var(0).sum() < 0.5 * torch.stack(plain).var(0).sum()


def test_the_policy_gradient_refuses_a_single_sample():
    with pytest.raises(ValueError, match="at least 2"):
        policy_gradient(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), torch.ones(1, 2).bool(), samples=1)


@EXACT
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
def test_the_gradient_of_a_masked_place_is_zero(loss):
    scores = torch.tensor([[1.0, 2.0, 9.0]], requires_grad=True)
    torch.manual_seed(0)
    loss(scores, torch.tensor([[0.0, 1.0, 5.0]]), torch.tensor([[True, True, False]])).backward()
    assert scores.grad[0, 2] == 0
    assert scores.grad[0, 1] < 0


@EXACT
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


@pytest.mark.parametrize("loss", [weighted_ranknet, listnet, listmle, lambdarank])
def test_the_convex_losses_still_pull_where_scores_are_extreme(loss):
    scores = torch.tensor([[-1e4, 1e4, 0.0]], requires_grad=True)
    loss(scores, torch.tensor([[1.0, 0.0, 0.0]]), ONES3).backward()
    assert scores.grad[0, 0] < 0


@LOSS
def test_relevance_receives_no_gradient(loss):
    relevance = torch.tensor([[1.0, 0.0]], requires_grad=True)
    scores = torch.tensor([[1.0, 2.0]], requires_grad=True)
    loss(scores, relevance, torch.ones(1, 2, dtype=torch.bool)).backward()
    assert relevance.grad is None


# Eighths: a shift is exact, so that ranks by score do not change with it.
EIGHTHS = st.integers(-64, 64).map(lambda n: n / 8)
LISTS = st.lists(st.tuples(EIGHTHS, st.sampled_from([0.0, 1.0])), min_size=2, max_size=8)


@EXACT
@given(rows=LISTS, shift=EIGHTHS, seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_shifting_all_scores_or_reordering_the_list_changes_nothing(loss, rows, shift, seed):
    scores, relevance = (torch.tensor([column]) for column in zip(*rows, strict=True))
    mask = torch.ones_like(scores, dtype=torch.bool)
    value = loss(scores, relevance, mask).item()
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    assert loss(scores + shift, relevance, mask).item() == pytest.approx(value, abs=1e-4)
    assert loss(scores[:, order], relevance[:, order], mask).item() == pytest.approx(value, abs=1e-5)


@EXACT
@given(rows=LISTS)
@settings(max_examples=40, deadline=None)
def test_the_gradient_never_lowers_a_lone_truth(loss, rows):
    rows = [(0.0, 1.0), *((score, 0.0) for score, _ in rows)]
    scores, relevance = (torch.tensor([column]) for column in zip(*rows, strict=True))
    scores.requires_grad_()
    loss(scores, relevance, torch.ones_like(scores, dtype=torch.bool)).backward()
    assert scores.grad[0, 0] <= 0
    assert (scores.grad[0, 1:] >= 0).all()


@pytest.mark.parametrize("loss", [weighted_ranknet, listnet, listmle, approx_ndcg])
@given(rows=LISTS)
@settings(max_examples=40, deadline=None)
def test_raising_a_relevant_score_never_raises_the_loss(loss, rows):
    rows = [(0.0, 1.0), *((score, 0.0) for score, _ in rows)]
    scores, relevance = (torch.tensor([column]) for column in zip(*rows, strict=True))
    mask = torch.ones_like(scores, dtype=torch.bool)
    raised = scores.clone()
    raised[0, 0] += 1
    assert loss(raised, relevance, mask) <= loss(scores, relevance, mask) + 1e-6


UNLIKE = (
    ([1.0, 2.0, 0.5, -1.0], [0.0, 1.0, 0.0, 0.0], [True, True, True, True]),
    ([0.0, -3.0, 4.0, 2.0], [2.0, 1.0, 0.0, 0.0], [True, True, True, False]),
    ([0.5, 0.25, 1.0, 9.0], [0.0, 2.0, 1.0, 3.0], [True, True, True, False]),
    ([3.0, 1.0, 7.0, 1.0], [1.0, 0.0, 0.0, 0.0], [True, False, False, False]),
)
"""Scores, relevance and mask of lists that differ in all three; the last has one candidate only."""


@EXACT
def test_the_loss_of_a_batch_is_the_mean_of_those_of_its_lists(loss):
    alone = [loss(*(torch.tensor([part]) for part in one)).item() for one in UNLIKE]
    batch = loss(*(torch.tensor(parts) for parts in zip(*UNLIKE, strict=True)))
    assert alone[-1] == 0 and len(set(alone)) == 4
    assert batch.item() == pytest.approx(sum(alone) / 3, rel=1e-5)


def test_a_list_of_one_candidate_does_not_dilute_listnet():
    # Its own loss is 0, so counting it would halve the other's.
    scores, relevance = torch.tensor([[1.0, 2.0], [5.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    value = listnet(scores, relevance, torch.tensor([[True, True], [True, False]]))
    assert value.item() == pytest.approx(softplus(1.0))


def test_lambdarank_weighs_a_graded_pair_by_the_difference_of_its_gains():
    # Gains 3 and 1 in the right order, best DCG 3 + 1 / log2(3): their pair weighs 2, those with 0 3 and 1.
    d = [1.0, 1 / math.log2(3), 0.5]
    pairs = 2 * (d[0] - d[1]) * softplus(-1.0) + 3 * (d[0] - d[2]) * softplus(-3.0)
    pairs += 1 * (d[1] - d[2]) * softplus(-2.0)
    value = lambdarank(torch.tensor([[3.0, 2.0, 0.0]]), torch.tensor([[2.0, 1.0, 0.0]]), ONES3, mu=0.0)
    assert value.item() == pytest.approx(pairs / (3 + 1 / math.log2(3)))


def test_the_scale_of_relevance_does_not_matter_to_listnet_nor_does_a_best_dcg_below_one_to_ndcg():
    scores, relevance = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[0.2, 0.1, 0.0]])
    assert listnet(scores, relevance, ONES3).item() == pytest.approx(
        listnet(scores, 10 * relevance, ONES3).item()
    )
    gains = [2**0.2 - 1, 2**0.1 - 1]
    dcg, best = gains[1] + gains[0] / math.log2(3), gains[0] + gains[1] / math.log2(3)
    value = approx_ndcg(scores, relevance, ONES3, temperature=0.01)
    assert value.item() == pytest.approx(1 - dcg / best, abs=1e-5)


def test_the_defaults_are_a_mu_of_ten_and_a_temperature_of_a_half():
    scores, relevance = torch.tensor([[0.0, 1.0, -1.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    assert torch.equal(lambdarank(scores, relevance, ONES3), lambdarank(scores, relevance, ONES3, mu=10.0))
    sharp = approx_ndcg(scores, relevance, ONES3, temperature=0.5)
    assert torch.equal(approx_ndcg(scores, relevance, ONES3), sharp)


def test_two_samples_are_enough_and_a_generator_decides_them():
    scores, relevance = torch.zeros(3, 8), torch.eye(3, 8)
    mask = torch.ones(3, 8, dtype=torch.bool)

    def drawn(seed: int) -> float:
        own = torch.Generator().manual_seed(seed)
        return policy_gradient(scores, relevance, mask, samples=2, generator=own).item()

    assert drawn(1) == drawn(1) != drawn(2)
