import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from extract.errors import ConfigError
from recsys import evaluate, interactions_from, retrieve
from recsys.merge import fit_weights, retrieve_merged


class Table:
    def __init__(self, scores: object) -> None:
        self.scores = np.asarray(scores, dtype=np.float32)

    def score(self, user_rows: NDArray[np.int32]) -> NDArray[np.float32]:
        return self.scores[user_rows]


SEEN = interactions_from("uv", "aa", "abcd")
# Unseen are b, c, d. First: mean 2, deviation sqrt(8/3); second, a hundred times the scale: mean 200.
FIRST = Table([[9, 0, 2, 4], [9, 0, 2, 4]])
SECOND = Table([[0, 400, 200, 0], [0, 400, 200, 0]])
ONE = 2 / np.sqrt(8 / 3)


def test_standardised_scores_of_unseen_items_are_added() -> None:
    got = retrieve_merged({"first": FIRST, "second": SECOND}, SEEN, ["u"], 3, {"first": 3, "second": 1})
    assert got.items.tolist() == [["d", "c", "b"]]
    # Votes of first: -1, 0, 1 times ONE; of second the reverse; weights 3/4 and 1/4.
    assert got.final[0] == pytest.approx(np.array([0.5, 0, -0.5]) * ONE)
    assert got.scores["second"].tolist() == [[0, 200, 400]]
    assert got.ranks["first"].tolist() == [[1, 2, 3]] and got.ranks["second"].tolist() == [[3, 2, 1]]


def test_ties_go_by_item_id_and_short_lists_are_padded() -> None:
    got = retrieve_merged({"first": FIRST, "second": SECOND}, SEEN, ["v"], 5, {"first": 1, "second": 1})
    assert got.items.tolist() == [["b", "c", "d", "", ""]]
    assert np.isnan(got.final[0, 3:]).all() and got.ranks["first"][0, 3:].tolist() == [0, 0]


def test_one_source_alone_gives_its_own_list() -> None:
    models = {"first": FIRST, "second": SECOND}
    merged = retrieve_merged(models, SEEN, ["v", "u"], 2, {"second": 1.0})
    alone = retrieve(models, SEEN, ["v", "u"], 2, order_by="second")
    assert np.array_equal(merged.items, alone.items)
    for name in models:
        assert np.array_equal(merged.scores[name], alone.scores[name])
        assert np.array_equal(merged.ranks[name], alone.ranks[name])


def test_a_source_without_an_opinion_moves_nothing_and_one_that_refuses_an_item_votes_its_lowest() -> None:
    flat, refusing = Table(np.full((2, 4), 7.0)), Table([[0, -np.inf, 1, 3]] * 2)
    weights = {"first": 1.0, "other": 1.0}
    got = retrieve_merged({"first": FIRST, "other": flat}, SEEN, ["u"], 3, weights)
    assert got.items.tolist() == [["d", "c", "b"]]
    got = retrieve_merged({"first": FIRST, "other": refusing}, SEEN, ["u"], 3, weights)
    assert got.items.tolist() == [["d", "c", "b"]]
    assert got.ranks["other"].tolist() == [[1, 2, 0]] and np.isnan(got.scores["other"][0, 2])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), block=st.integers(1, 7))
def test_a_merged_list_equals_sorting_every_item(seed: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    ids = [f"i{n:02d}" for n in range(12)]
    pairs = [(f"u{u}", ids[i]) for u in range(5) for i in rng.choice(12, 3, replace=False)]
    seen = interactions_from(*zip(*pairs, strict=True), ids)
    tables = {name: rng.normal(size=(5, 12)).astype(np.float32) for name in "abc"}
    weights = dict(zip("abc", rng.random(3).tolist(), strict=True))
    users = [f"u{u}" for u in range(5)]
    # With k at all unseen items the pool holds everything, so sorting everything is the plain reference.
    got = retrieve_merged({n: Table(t) for n, t in tables.items()}, seen, users, 9, weights, block=block)
    dense = seen.matrix().toarray() > 0
    for u in range(5):
        unseen = np.flatnonzero(~dense[u])
        total = sum(
            weights[n] * (t[u, unseen] - t[u, unseen].mean()) / t[u, unseen].std() for n, t in tables.items()
        )
        expected = [ids[i] for i in unseen[np.argsort(-np.asarray(total), kind="stable")]]
        assert got.items[u].tolist() == expected


def test_fitted_weights_reach_what_no_source_reaches_alone() -> None:
    rng = np.random.default_rng(3)
    ids = [f"i{n:02d}" for n in range(60)]
    users = [f"u{n:02d}" for n in range(40)]
    seen = interactions_from(users, [ids[0]] * 40, ids)
    taste = rng.normal(size=(40, 60)).astype(np.float32)
    taste[:, 0] = -9
    valid = interactions_from(
        np.repeat(users, 3), [ids[i] for row in np.argsort(-taste)[:, :3] for i in row], ids
    )
    noisy = {
        name: Table(scale * (taste + rng.normal(size=taste.shape))) for name, scale in (("a", 1), ("b", 50))
    }
    models = {**noisy, "noise": Table(rng.normal(size=taste.shape))}
    weights, reached = fit_weights(models, seen, valid, 20)
    assert sum(weights.values()) == pytest.approx(1)
    assert min(weights["a"], weights["b"]) > 0.2 and weights["noise"] < 0.15
    single = {
        n: evaluate(retrieve({n: m}, seen, users, 20), valid, [20]).mean()["ndcg@20"]
        for n, m in models.items()
    }
    merged = evaluate(retrieve_merged(models, seen, users, 20, weights), valid, [20]).mean()["ndcg@20"]
    assert merged == pytest.approx(reached) and merged > max(single.values()) + 0.02


def test_fitted_weights_never_lose_to_the_best_source() -> None:
    perfect = Table([[0, 0, 0, 9], [0, 0, 9, 0]])
    valid = interactions_from("uv", "dc", "abcd")
    weights, reached = fit_weights({"perfect": perfect, "wrong": SECOND}, SEEN, valid, 3)
    assert reached == 1 and weights["perfect"] > 0.5


def test_weights_need_a_model_and_a_validation_split() -> None:
    with pytest.raises(ConfigError, match="third"):
        retrieve_merged({"first": FIRST}, SEEN, ["u"], 1, {"third": 1.0})
    with pytest.raises(ConfigError, match="above 0"):
        retrieve_merged({"first": FIRST}, SEEN, ["u"], 1, {"first": 0.0})
    with pytest.raises(ConfigError, match="validation"):
        fit_weights({"first": FIRST}, SEEN, SEEN.take(np.zeros(2, dtype=np.bool_)), 2)
