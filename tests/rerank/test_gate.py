"""The gate: bounds worked by hand, nothing but noise is turned away, lists put together group by group."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.candidates import Candidates
from rerank.gate import decide, gated, moment, set_aside
from rerank.settings import GateConfig

ALL = GateConfig(groups=None, least_lists=2)


def everybody(count):
    return np.full(count, "all users")


def orders_of(gains):
    return {name: np.asarray(own, float) for name, own in gains.items()} | {
        "retrieved": np.zeros(len(next(iter(gains.values()))))
    }


def test_the_bound_is_students_and_shares_its_error_among_groups_and_orders():
    # Gains 0, 1, 2: mean 1, deviation 1; t of 2 degrees at 95 % is 2.91999, at 97.5 % (two orders) 4.30265.
    alone = decide(orders_of({"reranked": [0, 1, 2]}), everybody(3), ALL)[0].bounds["reranked"]
    assert alone.gain == 1 and alone.low == pytest.approx(1 - 2.91999 / np.sqrt(3), abs=1e-4)
    both = decide(orders_of({"reranked": [0, 1, 2], "lambdamart": [0, 1, 2]}), everybody(3), ALL)[0]
    assert both.bounds["reranked"].low == pytest.approx(1 - 4.30265 / np.sqrt(3), abs=1e-4)


def test_the_surest_order_that_passes_takes_the_group_and_a_tie_goes_to_the_reranker():
    small, large = [0.1, 0.2] * 20, [0.2, 0.3] * 20
    chosen = [
        decide(orders_of({"reranked": own, "lambdamart": other}), everybody(40), ALL)[0].chosen
        for own, other in ((large, small), (small, large), (large, large), (np.negative(large), small))
    ]
    assert chosen == ["reranked", "lambdamart", "reranked", "lambdamart"]
    # Larger on the whole, but not as surely so: the mean of many zeros and a few ones.
    rare = decide(orders_of({"reranked": [1] * 12 + [0] * 28, "lambdamart": large}), everybody(40), ALL)[0]
    assert rare.bounds["reranked"].gain > rare.bounds["lambdamart"].gain and rare.chosen == "lambdamart"


def test_a_gain_of_one_group_does_not_open_the_gate_for_another():
    gains = np.concatenate([np.tile([0.1, 0.2], 30), np.tile([-0.1, -0.2], 30)])
    groups = np.repeat(["few choices", "many choices"], 60)
    found = decide(orders_of({"reranked": gains}), groups, GateConfig())
    assert [(row.group, row.chosen) for row in found] == [
        ("few choices", "reranked"),
        ("many choices", "retrieved"),
    ]


def test_a_group_with_few_lists_keeps_the_retrieved_order_and_costs_the_others_nothing():
    groups = np.repeat(["large", "small"], [60, 49])
    large, small = decide(
        orders_of({"reranked": np.tile([0.1, 0.2, 0.3, 0.1], 28)[:109]}), groups, GateConfig()
    )
    alone = decide(orders_of({"reranked": np.tile([0.1, 0.2, 0.3, 0.1], 15)}), everybody(60), GateConfig())[0]
    assert small.bounds == {} and small.chosen == "retrieved" and small.lists == 49
    assert large.bounds["reranked"] == alone.bounds["reranked"] and large.chosen == "reranked"


def ndcg_of_orders_drawn_by_lot(draw, lists, orders):
    """NDCG@20 of one truth per list at a place drawn among 100: no order is better than another."""
    places = draw.integers(1, 101, (orders, lists))
    values = np.where(places <= 20, 1 / np.log2(1 + places), 0.0)
    names = ("reranked", "lambdamart", "fused_without_llm", "retrieved")
    return dict(zip(names, values, strict=True))


@pytest.mark.parametrize("lists", [150, 900])
def test_of_orders_drawn_by_lot_none_is_used_in_95_of_100_draws(lists):
    draw, draws = np.random.default_rng(lists), 400
    groups = np.resize(["few choices", "some choices", "many choices"], lists)
    opened = sum(
        any(row.chosen != "retrieved" for row in decide(values, groups, GateConfig()))
        for values in (ndcg_of_orders_drawn_by_lot(draw, lists, 4) for _ in range(draws))
    )
    # 5 % of 400 are 20; three deviations above are 33.
    assert 0 < opened <= 33


def test_an_order_of_many_small_gains_and_rare_large_losses_is_not_taken_for_better():
    draw, opened, draws = np.random.default_rng(0), 0, 400
    for _ in range(draws):
        gains = {name: np.where(draw.random(300) < 0.1, -0.09, 0.01) for name in ("reranked", "lambdamart")}
        groups = np.resize(["few choices", "some choices", "many choices"], 300)
        opened += any(row.chosen != "retrieved" for row in decide(orders_of(gains), groups, GateConfig()))
    assert opened <= 33


def test_a_planted_gain_opens_the_gate_with_enough_lists_only():
    draw = np.random.default_rng(1)
    gains = draw.normal(0.01, 0.1, 5000)
    opened = [
        decide(orders_of({"reranked": gains[:count]}), everybody(count), GateConfig())[0].chosen
        for count in (60, 5000)
    ]
    assert opened == ["retrieved", "reranked"]


values_of_lists = st.lists(
    st.tuples(*[st.floats(0, 1, width=16)] * 3, st.sampled_from("abc")), min_size=1, max_size=60
)


@settings(max_examples=200, deadline=None)
@given(values_of_lists, st.integers(2, 20), st.permutations("abc"))
def test_no_order_is_used_whose_bound_is_not_positive_and_names_of_groups_do_not_matter(rows, least, names):
    config = GateConfig(least_lists=least)
    table = np.array([row[:3] for row in rows], float)
    values = dict(zip(("reranked", "lambdamart", "retrieved"), table.T, strict=True))
    groups = np.array([row[3] for row in rows])
    found = decide(values, groups, config)
    for row in found:
        if row.chosen != "retrieved":
            assert row.lists >= least and row.bounds[row.chosen].low > 0
            assert row.bounds[row.chosen].low == max(bound.low for bound in row.bounds.values())
        else:
            assert all(bound.low <= 0 for bound in row.bounds.values())
        assert all(bound.low <= bound.gain + 1e-12 for bound in row.bounds.values())
    renamed = dict(zip("abc", names, strict=True))
    again = decide(values, np.array([renamed[group] for group in groups.tolist()]), config)
    told = {(renamed[row.group], row.chosen, str(row.bounds)) for row in found}
    assert {(row.group, row.chosen, str(row.bounds)) for row in again} == told


def lists_of(items):
    items = np.array(items)
    nothing = np.where(items == "", np.nan, -np.arange(items.shape[1], dtype=np.float32))
    ranks = np.where(items == "", 0, np.arange(items.shape[1]) + 1).astype(np.int32)
    users = np.array([f"u{row}" for row in range(len(items))])
    return Candidates(users, items, {"ease": nothing}, {"ease": ranks}, nothing)


def test_each_user_gets_the_order_of_the_group_and_padding_stays_last():
    came_in = lists_of([["a", "b", "c"], ["d", "e", ""], ["f", "g", "h"], ["i", "j", "k"]])
    orders = {
        "reranked": lists_of([["c", "a", "b"], ["e", "d", ""], ["h", "g", "f"], ["k", "j", "i"]]),
        "lambdamart": lists_of([["b", "a", "c"], ["d", "e", ""], ["f", "h", "g"], ["j", "k", "i"]]),
    }
    gains = {"reranked": np.repeat([0.2, 0.0, 0.0], 60), "lambdamart": np.repeat([0.0, 0.1, 0.0], 60)}
    decisions = decide(orders_of(gains), np.repeat(["x", "y", "z"], 60), GateConfig())
    found = gated(came_in, orders, np.array(["x", "x", "y", "nobody was asked"]), decisions)
    assert found.items.tolist() == [["c", "a", "b"], ["e", "d", ""], ["f", "h", "g"], ["i", "j", "k"]]
    assert found.final[0].tolist() == [-1, -2, -3] and np.isnan(found.final[1, 2])
    assert found.scores["ease"][0].tolist() == [-2, 0, -1]


def test_a_closed_gate_gives_what_came_in():
    came_in = lists_of([["a", "b", "c"], ["d", "", ""]])
    decisions = decide(orders_of({"reranked": np.full(60, -0.1)}), np.full(60, "x"), GateConfig())
    assert gated(came_in, {"reranked": came_in}, np.array(["x", "x"]), decisions).items.tolist() == (
        came_in.items.tolist()
    )


@given(st.integers(0, 80), st.integers(1, 80), st.integers(0, 5))
def test_no_list_is_both_fitted_on_and_asked_and_at_least_half_are_asked(count, limit, seed):
    useful = 3 * np.arange(count)
    chosen, left = set_aside(useful, limit, seed)
    assert np.array_equal(np.sort(np.concatenate([chosen, left])), useful)
    assert len(chosen) <= limit and len(left) >= count // 2


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(1, 40))
def test_in_time_the_gate_asks_the_later_lists_only(times, limit):
    when = np.array(times, np.int64)
    chosen, left = set_aside(np.arange(len(times)), limit, 0, when)
    assert len(chosen) <= limit and not set(chosen.tolist()) & set(left.tolist())
    if len(chosen) and len(left):
        assert when[chosen].max() < moment(when) <= when[left].min()
    if len(set(times)) > 1 and 4 * np.sum(when < moment(when)) >= len(when):
        assert len(chosen) and len(left)


@pytest.mark.parametrize(("early", "fitted", "asked"), [(24, 100, 0), (25, 25, 75)])
def test_where_time_leaves_less_than_a_quarter_to_fit_on_the_gate_asks_nobody(early, fitted, asked):
    when = np.array([1] * early + [2] * (100 - early), np.int64)
    chosen, left = set_aside(np.arange(100), 500, 0, when)
    assert (len(chosen), len(left)) == (fitted, asked)
