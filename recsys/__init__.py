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
from recsys.metrics import Metrics, evaluate, evaluate_conditional
from recsys.ranking import Recommender, id_places, top_k
from recsys.settings import TrainConfig
from recsys.significance import (
    Comparison,
    Interval,
    bootstrap_difference,
    bootstrap_mean,
    compare,
    permutation_test,
)
from recsys.split import Fold, Split, SplitConfig, out_of_fold, split_interactions

__all__ = [
    "Candidates",
    "Comparison",
    "Fold",
    "InteractionColumns",
    "Interactions",
    "Interval",
    "Metrics",
    "ReadCounts",
    "Recommender",
    "Split",
    "SplitConfig",
    "TrainConfig",
    "bootstrap_difference",
    "bootstrap_mean",
    "compare",
    "evaluate",
    "evaluate_conditional",
    "id_places",
    "interactions_from",
    "out_of_fold",
    "permutation_test",
    "read_interactions",
    "retrieve",
    "split_interactions",
    "top_k",
]
