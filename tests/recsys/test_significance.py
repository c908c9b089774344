import numpy as np
import pytest

from extract.errors import InvalidData
from recsys import (
    Metrics,
    bootstrap_difference,
    bootstrap_mean,
    bootstrap_means,
    bootstrap_seeds,
    compare,
    holm,
    lower_bounds,
    permutation_test,
    permutation_tests,
)

RNG = np.random.default_rng(0)
BASE = RNG.normal(size=400)


def test_the_interval_of_equal_values_is_a_point() -> None:
    got = bootstrap_mean(np.full(10, 0.25))
    assert (got.estimate, got.low, got.high) == (0.25, 0.25, 0.25)


def test_the_interval_of_a_mean_is_near_the_normal_one() -> None:
    got = bootstrap_mean(BASE, samples=4000, seed=1)
    half = 1.96 * BASE.std() / np.sqrt(len(BASE))
    assert got.estimate == pytest.approx(BASE.mean())
    assert got.low == pytest.approx(BASE.mean() - half, abs=0.01)
    assert got.high == pytest.approx(BASE.mean() + half, abs=0.01)


def test_pairing_finds_a_small_gain_that_noise_between_users_hides() -> None:
    better = BASE + 0.05 + 0.01 * RNG.normal(size=400)
    paired = bootstrap_difference(BASE, better)
    assert paired.low > 0.04
    assert permutation_test(BASE, better, samples=999) == pytest.approx(0.001)
    assert bootstrap_mean(better).low < BASE.mean()


def test_two_equal_systems_are_never_different() -> None:
    assert permutation_test(BASE, BASE, samples=99) == 1.0


def test_the_p_value_of_two_pairs_is_worked_by_hand() -> None:
    # Differences 1 and 1: the sums of the four sign patterns are 2, 0, 0, -2, so half are as extreme.
    assert permutation_test(np.zeros(2), np.ones(2), samples=20_000) == pytest.approx(0.5, abs=0.02)


def test_a_seed_fixes_every_number() -> None:
    assert bootstrap_mean(BASE, seed=3) == bootstrap_mean(BASE, seed=3) != bootstrap_mean(BASE, seed=4)


def test_many_users_are_resampled_in_chunks_without_changing_the_law() -> None:
    many = np.tile(BASE, 500)
    got = bootstrap_mean(many, samples=100)
    assert got.high - got.low == pytest.approx(2 * 1.96 * BASE.std() / np.sqrt(len(many)), rel=0.4)


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [[1.0], [2.0]]])
def test_values_that_cannot_be_averaged_are_refused(values: list[object]) -> None:
    with pytest.raises(InvalidData):
        bootstrap_mean(np.array(values, dtype=float))


def test_comparing_other_users_is_refused() -> None:
    a = Metrics(np.array(["u", "v"]), {"ndcg@1": np.array([0.0, 1.0])})
    b = Metrics(np.array(["v", "u"]), {"ndcg@1": np.array([0.0, 1.0])})
    with pytest.raises(InvalidData):
        compare(a, b, "ndcg@1")


def test_a_comparison_says_who_is_better_by_how_much() -> None:
    users = np.array([f"u{n}" for n in range(400)])
    got = compare(Metrics(users, {"m": BASE}), Metrics(users, {"m": BASE - 1}), "m", samples=200)
    assert got.difference.estimate == pytest.approx(-1)
    assert got.mean_a - got.mean_b == pytest.approx(1)
    assert got.p_value < 0.01 and got.n_users == 400


def test_columns_share_their_resamples_and_equal_the_single_ones() -> None:
    table = np.stack([BASE, BASE + 1, np.zeros(400)], axis=1)
    got = bootstrap_means(table, samples=200, seed=2)
    alone = bootstrap_mean(BASE, samples=200, seed=2)
    assert (got[0].low, got[0].high) == pytest.approx((alone.low, alone.high))
    assert (got[1].low - 1, got[1].high - 1) == pytest.approx((alone.low, alone.high))
    assert (got[2].low, got[2].high) == (0, 0)
    p = permutation_tests(table, samples=99, seed=2)
    assert p[0] == permutation_test(np.zeros(400), BASE, samples=99, seed=2)
    assert p.tolist()[1:] == [0.01, 1.0]


def test_seeds_that_differ_widen_the_interval_and_equal_ones_do_not() -> None:
    equal = bootstrap_seeds(np.tile(BASE, (3, 1)), samples=2000)
    alone = bootstrap_mean(BASE, samples=2000)
    assert equal.high - equal.low == pytest.approx(alone.high - alone.low, rel=0.1)
    # Seeds at -1, 0, 1 and users all alike: the mean of three drawn seeds is within +-1.
    apart = bootstrap_seeds(np.repeat([[-1.0], [0.0], [1.0]], 50, axis=1), samples=2000)
    assert apart.estimate == 0 and apart.low == pytest.approx(-1) and apart.high == pytest.approx(1)


def test_holm_worked_by_hand() -> None:
    # Sorted .01 .02 .03 .9, times 4 3 2 1: .04 .06 .06 .9; each at least the one before, none above 1.
    assert holm(np.array([0.03, 0.01, 0.9, 0.02])) == pytest.approx([0.06, 0.04, 0.9, 0.06])
    assert holm(np.array([0.6, 0.7])).tolist() == [1.0, 1.0]
    assert holm(np.array([0.2])).tolist() == [0.2]


def test_a_difference_over_seeds_pairs_users_and_not_seeds() -> None:
    # One seed against one: the paired bootstrap; the users' own spread, common to both, cancels.
    better = BASE + 0.05
    got = bootstrap_seeds(better[None], BASE[None])
    assert (got.estimate, got.low, got.high) == pytest.approx((0.05, 0.05, 0.05))
    # Seeds at +-1 on one side only: of two drawn, both are low in a quarter of the resamples.
    spread = bootstrap_seeds(np.stack([BASE - 1, BASE + 1]), BASE[None])
    assert spread.estimate == pytest.approx(0) and (spread.low, spread.high) == pytest.approx((-1, 1))
    with pytest.raises(InvalidData):
        bootstrap_seeds(BASE[None], BASE[None, :3])


def test_a_lower_bound_moves_down_for_rare_losses_and_never_up_for_rare_gains():
    # Mean 0, deviation sqrt(12 / 3) = 2, skew (-27 + 3) / 8 / 4 = -0.75; t of 3 degrees at 95 % is 2.353363.
    losses = np.array([-3.0, 1.0, 1.0, 1.0])
    t = 2.353363
    moved = t + 0.75 * (2 * t**2 + 1) / 12
    low, high = lower_bounds([losses])[0], lower_bounds([-losses])[0]
    assert low == pytest.approx(-moved, abs=1e-5) and high == pytest.approx(-t, abs=1e-5)


def test_lower_bounds_of_nothing_of_one_value_and_of_equal_values():
    assert lower_bounds([]) == []
    assert lower_bounds([np.array([1.0]), np.array([0.5, 0.5])]) == [-np.inf, 0.5]
