"""Linear fusion: standardised inputs, weights that favour what is informative, a permutation out."""

import numpy as np
import pytest

from recsys.candidates import Candidates
from rerank.fusion import Fusion, fit_fusion, fused, fusion_inputs


def candidates_of(scores, items=None):
    """Candidates whose sources' ranks follow their scores."""
    first = next(iter(scores.values()))
    users, k = first.shape
    items = np.array([[f"i{place}" for place in range(k)]] * users) if items is None else items
    ranks = {
        name: np.where(items == "", 0, 1 + np.argsort(np.argsort(-table, axis=1), axis=1)).astype(np.int32)
        for name, table in scores.items()
    }
    return Candidates(
        np.array([f"u{row}" for row in range(users)]),
        items,
        {n: s.astype(np.float32) for n, s in scores.items()},
        ranks,
        first.astype(np.float32),
    )


def test_a_score_is_standardised_within_its_list():
    inputs, _ = fusion_inputs(candidates_of({"a": np.array([[3.0, 1.0, 2.0]])}), ["score:a"])
    np.testing.assert_allclose(inputs[0, :, 0], np.array([1, -1, 0]) / np.sqrt(2 / 3))


def test_a_rank_becomes_minus_its_logarithm_before_it_is_standardised():
    inputs, _ = fusion_inputs(candidates_of({"a": np.array([[3.0, 1.0]])}), ["rank:a"])
    np.testing.assert_allclose(inputs[0, :, 0], [1, -1])


def test_a_constant_source_counts_for_nothing():
    inputs, _ = fusion_inputs(candidates_of({"a": np.array([[2.0, 2.0, 2.0]])}), ["score:a"])
    assert not inputs.any()


def test_an_item_the_source_does_not_know_counts_as_its_lowest():
    inputs, _ = fusion_inputs(candidates_of({"a": np.array([[3.0, np.nan, 1.0]])}), ["score:a"])
    assert inputs[0, 1, 0] == inputs[0, 2, 0] < inputs[0, 0, 0]


def test_padding_has_no_influence_and_stays_last():
    items = np.array([["x", "y", ""]])
    short = candidates_of({"a": np.array([[1.0, 3.0, np.nan]])}, items)
    ordered = fused(short, Fusion(("score:a",), np.array([1.0])), "fused")
    assert ordered.items.tolist() == [["y", "x", ""]]


def test_the_informative_source_gets_the_weight_and_noise_does_not():
    rng = np.random.default_rng(0)
    relevance = np.eye(8, dtype=np.float32)[rng.integers(8, size=400)]
    tables = {
        "good": relevance + 0.5 * rng.normal(size=relevance.shape),
        "noise": rng.normal(size=relevance.shape),
    }
    weights = dict(zip(*_parts(fit_fusion(candidates_of(tables), relevance, ["good", "noise"])), strict=True))
    assert weights["score:good"] > 10 * abs(weights["score:noise"])


def _parts(fusion):
    return fusion.names, fusion.weights


def test_fitting_on_lists_without_a_truth_falls_back_to_the_first_source():
    table = np.array([[1.0, 2.0, 3.0]])
    fusion = fit_fusion(candidates_of({"a": table}), np.zeros((1, 3), np.float32), ["a"])
    assert fused(candidates_of({"a": table}), fusion, "f").items[0].tolist() == ["i2", "i1", "i0"]


def test_fitted_weights_are_a_minimum_of_the_penalised_cross_entropy():
    rng = np.random.default_rng(1)
    relevance = np.eye(5, dtype=np.float32)[rng.integers(5, size=60)]
    candidates = candidates_of({"a": rng.normal(size=(60, 5)) + relevance})
    fusion = fit_fusion(candidates, relevance, ["a"], ridge=0.01)
    inputs, _ = fusion_inputs(candidates, fusion.names)

    def loss(weights):
        logits = inputs @ weights
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return -(relevance * log_p).sum() / 60 + 0.01 * weights @ weights

    best = loss(fusion.weights)
    assert all(loss(fusion.weights + step) >= best - 1e-9 for step in 0.05 * rng.normal(size=(20, 2)))
    assert best == pytest.approx(loss(fusion.weights))
