from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extract import FeatureTable, InvalidData
from extract.probe import (
    _folds,
    _kept,
    fit_logistic,
    fit_majority,
    fit_naive_bayes,
    probe,
    softmax_weights,
)


def table(x, present=None):
    return FeatureTable(tuple(map(str, range(len(x)))), np.asarray(x, np.float32), present)


def clusters(n, apart, classes=3, width=4, seed=0):
    """Points around class centres that are ``apart`` standard deviations from zero; labels in turn."""
    chance = np.random.default_rng(seed)
    y = np.arange(n) % classes
    return chance.normal(size=(n, width)) + apart * np.eye(classes, width)[y], y


def test_naive_bayes_by_hand():
    # Class 0 at 0 and 2 (mean 1), class 1 at 5 and 7 and 9 (mean 7); squared distances 1, 1, 4, 0, 4: the
    # shared variance is 2. A point x is of class 1 where
    # log(3/5) - (x - 7)^2 / 4 > log(2/5) - (x - 1)^2 / 4, which is 3 x > 12 - log(3/2): x > 3.8648.
    x, y = np.array([[0.0], [2.0], [5.0], [7.0], [9.0]]), np.array([0, 0, 1, 1, 1])
    guess = fit_naive_bayes(x, y, 2)
    assert guess(np.array([[3.86], [3.87]])).tolist() == [0, 1]


def test_naive_bayes_counts_each_number_by_its_own_variance_and_survives_a_constant_one():
    # The second number separates as widely, but varies ten times as much; the third says nothing.
    x = np.array([[0.0, 0, 5], [0.2, 20, 5], [1, 0, 5], [1.2, 20, 5]])
    guess = fit_naive_bayes(x, np.array([0, 0, 1, 1]), 2)
    assert guess(np.array([[0.1, 20, 5], [1.1, 0, 5]])).tolist() == [0, 1]


def test_a_class_without_a_training_item_is_never_guessed():
    x, y = np.array([[0.0], [1.0], [4.0], [5.0]]), np.array([0, 0, 2, 2])
    assert set(fit_naive_bayes(x, y, 3)(np.linspace(-5, 9, 50)[:, None]).tolist()) == {0, 2}


def test_logistic_weights_by_hand():
    # Two points at -1 and 1. By symmetry the weights are (w, -w) and the intercepts equal, so the cost is
    # 2 log(1 + exp(-2 w)) + l2 w^2; its derivative is zero where l2 w (1 + exp(2 w)) = 2. With w = 1/2 this
    # is l2 = 4 / (1 + e).
    weights = softmax_weights(np.array([[-1.0], [1.0]]), np.array([1, 0]), 2, 4 / (1 + np.e))
    assert weights[0] == pytest.approx([0.5, -0.5], abs=1e-5)
    assert weights[1, 0] - weights[1, 1] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("l2", [1.0, 100.0])
def test_logistic_weights_equal_scikit_learns(l2):
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = clusters(60, 1.5)
    peer = linear_model.LogisticRegression(C=1 / l2, tol=1e-8, max_iter=1000).fit(x, y)
    ours = softmax_weights(x, y, 3, l2)
    assert np.abs(ours[:-1].T - peer.coef_).max() < 2e-3
    shares = ours[-1] - ours[-1].mean()
    assert np.abs(shares - (peer.intercept_ - peer.intercept_.mean())).max() < 2e-3


def test_the_commonest_class_is_the_majority():
    guess = fit_majority(np.zeros((3, 1)), np.array([1, 0, 1]), 2)
    assert guess(np.zeros((4, 1))).tolist() == [1, 1, 1, 1]


def test_numbers_of_any_scale_and_constant_ones_do_not_disturb_the_logistic():
    x, y = clusters(90, 3)
    scaled = np.hstack([x * [1, 1e6, 1e-6, 1], np.ones((90, 1))])
    assert np.array_equal(fit_logistic(x, y, 3)(x), fit_logistic(scaled, y, 3)(scaled))


def test_an_attribute_the_feature_knows_is_found_and_permuted_labels_are_not():
    x, y = clusters(240, 4)
    found = probe(table(x), [f"class {label}" for label in y])
    assert found.scores["naive_bayes"].accuracy > 0.95
    assert found.scores["logistic"].accuracy > 0.95
    assert found.scores["logistic"].gain_low > 0.5
    for name in ("naive_bayes_permuted", "logistic_permuted"):
        assert found.scores[name].low < 1 / 3 < found.scores[name].high
    assert (found.n_items, found.folds, found.train_items) == (240, 5, 192)
    json.dumps(found.to_json(), allow_nan=False)


def test_noise_knows_nothing():
    x = np.random.default_rng(1).normal(size=(300, 20))
    found = probe(table(x), ["x" if row % 2 else "y" for row in range(300)])
    for score in (found.scores["naive_bayes"], found.scores["logistic"]):
        assert score.low < 0.5 < score.high
        assert score.gain_low < 0 < score.gain_high


def test_scores_of_the_majority_by_hand():
    # 15 of 20 items are of the commonest class: Wilson's interval of 15/20 is 0.531 to 0.888.
    found = probe(table(np.zeros((20, 1))), ["a"] * 15 + ["b"] * 5)
    majority = found.scores["majority"]
    assert majority.accuracy == 0.75
    assert (round(majority.low, 3), round(majority.high, 3)) == (0.531, 0.888)
    assert (majority.balanced_accuracy, majority.gain, majority.gain_low, majority.gain_high) == (
        0.5,
        0,
        0,
        0,
    )
    # A feature that says nothing cannot do better.
    assert found.scores["naive_bayes"].accuracy == found.scores["logistic"].accuracy == 0.75


def test_what_is_left_out_is_counted():
    labels = ["a"] * 6 + ["b"] * 6 + ["rare"] * 4 + ["", "", "a", "b"]
    present = np.array([True] * 18 + [False] * 2)
    found = probe(table(np.random.default_rng(0).normal(size=(20, 2)), present), labels)
    assert (found.n_items, found.n_absent, found.n_unlabelled, found.n_rare) == (12, 2, 2, 4)
    assert found.classes == {"a": 6, "b": 6}


def test_equal_seeds_give_equal_scores_and_few_items_teach_less():
    x, y = clusters(300, 1, width=12)
    labels = [str(label) for label in y]
    assert probe(table(x), labels, seed=3) == probe(table(x), labels, seed=3)
    few = probe(table(x), labels, train_items=6)
    assert few.train_items == 6
    assert few.scores["logistic"].accuracy < probe(table(x), labels).scores["logistic"].accuracy


@pytest.mark.parametrize("labels", [["a"] * 9 + ["b"] * 4, [""] * 13, ["a"] * 13])
def test_fewer_than_two_classes_is_an_error(labels):
    with pytest.raises(InvalidData, match="nothing to tell apart") as caught:
        probe(table(np.zeros((13, 1))), labels)
    assert caught.value.code == "D125"


def test_labels_must_be_as_many_as_items_and_folds_two():
    with pytest.raises(InvalidData, match="2 labels for 3 items"):
        probe(table(np.zeros((3, 1))), ["a", "b"])
    with pytest.raises(ValueError, match="folds"):
        probe(table(np.zeros((2, 1))), ["a", "b"], folds=1)


@given(st.lists(st.integers(0, 3), min_size=8, max_size=60), st.integers(2, 5), st.integers(0, 9))
@settings(deadline=None)
def test_folds_share_every_class_evenly_and_hold_every_item_once(y, folds, seed):
    y = np.array(y)
    parts = _folds(y, folds, np.random.default_rng(seed))
    assert set(parts.tolist()) <= set(range(folds))
    for label in np.unique(y):
        sizes = np.bincount(parts[y == label], minlength=folds)
        assert sizes.max() - sizes.min() <= 1
    assert np.ptp(np.bincount(parts, minlength=folds)) <= 1


@given(st.lists(st.integers(0, 3), min_size=4, max_size=60), st.integers(4, 70), st.integers(0, 9))
@settings(deadline=None)
def test_items_kept_are_as_many_as_asked_for_and_of_every_class(y, count, seed):
    y = np.array(y)
    rows = np.arange(len(y))
    kept = _kept(rows, y, count, np.random.default_rng(seed))
    assert len(kept) == min(count, len(y)) == len(set(kept.tolist()))
    assert set(y[kept].tolist()) == set(y.tolist())
