"""Interactions and features in, candidates out.

This page re-exports the numpy nouns; models are imported from their own modules.
"""

from recsys.candidates import Candidates, retrieve
from recsys.interactions import (
    InteractionColumns,
    Interactions,
    ReadCounts,
    interactions_from,
    read_interactions,
)
from recsys.metrics import Judged, Metrics, evaluate, evaluate_conditional, judge
from recsys.ranking import Recommender, id_places, top_k
from recsys.settings import TrainConfig
from recsys.significance import (
    Comparison,
    Interval,
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
from recsys.split import Fold, Split, SplitConfig, out_of_fold, split_interactions

__all__ = [
    "Candidates",
    "Comparison",
    "Fold",
    "InteractionColumns",
    "Interactions",
    "Interval",
    "Judged",
    "Metrics",
    "ReadCounts",
    "Recommender",
    "Split",
    "SplitConfig",
    "TrainConfig",
    "bootstrap_difference",
    "bootstrap_mean",
    "bootstrap_means",
    "bootstrap_seeds",
    "compare",
    "evaluate",
    "evaluate_conditional",
    "holm",
    "id_places",
    "interactions_from",
    "judge",
    "lower_bounds",
    "out_of_fold",
    "permutation_test",
    "permutation_tests",
    "read_interactions",
    "retrieve",
    "split_interactions",
    "top_k",
]
