"""LambdaMART beside the reranker: what it needs, and that it learns from the same numbers."""

import importlib.util
import sys

import numpy as np
import pytest

from extract.errors import InvalidData, MissingPrerequisite
from rerank.lambdamart import fit_lambdamart
from rerank.lists import RankingList
from rerank.settings import LambdaMartConfig


def lists(count, seed):
    """The truth is the candidate whose two numbers have the same sign: no linear fusion finds it."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        inputs = rng.normal(size=(6, 2)).astype(np.float32)
        inputs[:, 1] = -np.sign(inputs[:, 0]) * np.abs(inputs[:, 1])
        inputs[2, 1] *= -1
        order = rng.permutation(6)
        relevance = np.eye(6, dtype=np.float32)[2][order]
        items = tuple(f"i{place}" for place in order)
        made.append(RankingList(f"u{number}", (), items, order, relevance, inputs[order]))
    return made


def test_a_missing_package_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(MissingPrerequisite) as caught:
        fit_lambdamart(lists(2, 0), lists(2, 1), LambdaMartConfig(), seed=0)
    assert "pip install 'catalograph[lambdamart]'" in caught.value.next_step


needs_trees = pytest.mark.skipif(
    importlib.util.find_spec("lightgbm") is None, reason="needs the extra lambdamart"
)


@needs_trees
def test_it_learns_what_no_linear_fusion_can_and_undoes_the_shuffle():
    config = LambdaMartConfig(leaves=(4, 7), min_leaf=(5,), trees=60)
    trees = fit_lambdamart(lists(300, 0), lists(60, 1), config, seed=0)
    assert len(trees.tried) == 2
    assert max(row["ndcg@20"] for row in trees.tried) > 0.9
    found = trees.scores(lists(60, 2))
    assert np.mean([scores.argmax() == 2 for scores in found]) > 0.8


@needs_trees
def test_without_validation_lists_it_refuses():
    with pytest.raises(InvalidData, match="validation"):
        fit_lambdamart(lists(2, 0), [], LambdaMartConfig(), seed=0)
