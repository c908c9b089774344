"""Which settings the tables of retrievers try; nothing to run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

METRIC = "ndcg@20"
Setting = dict[str, dict[str, Any]]
# No seed moves these.
UNSEEDED = {
    "popularity", "item_knn", "ease", "sparse_ease", "content_search", "graph_filter",
}  # fmt: skip


def settings(params: Mapping[str, list[Any]], train: Mapping[str, list[Any]] | None = None) -> list[Setting]:
    """The product of all choices of a model's settings and of its training."""
    return [{"params": p, "train": t} for p in product_of(params) for t in product_of(train or {})]


def product_of(choices: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*choices.values()):
        yield dict(zip(choices, values, strict=True))


EPOCHS = {"epochs": [1000], "evaluate_every": [5], "patience": [5], "metric": [METRIC]}
BABY: dict[str, list[Setting]] = {
    "popularity": settings({}),
    "item_knn": settings({"neighbours": [50, 200, 1000], "shrink": [0.0, 50.0, 200.0, 1000.0]}),
    "ease": settings({"l2": [50.0, 100.0, 200.0, 400.0, 800.0]}),
    "sparse_ease": settings({"l2": [50.0, 100.0, 200.0, 400.0, 800.0], "neighbours": [50, 200]}),
    "graph_filter": settings({
        "alpha": [0.5, 0.7, 0.9, 1.0],
        "power": [0.25, 0.5, 0.75, 1.0],
        "coefficients": [[1.0], [2.0, -1.0]],
    }),
    "als": settings({"alpha0": [0.03, 0.1, 0.3, 1.0], "l2": [0.001, 0.003, 0.01, 0.03]}),
    "bpr_mf": settings({"reg": [1e-3, 1e-2]}, EPOCHS | {"learning_rate": [1e-3, 5e-3]}),
    "lightgcn": settings({"layers": [2], "reg": [1e-3, 3e-3, 1e-2]}, EPOCHS | {"learning_rate": [5e-3]}),
}


FEW = {"epochs": [300], "evaluate_every": [4], "patience": [4], "metric": [METRIC], "batch_size": [16384]}
# Losses that compare all pairs of a batch: their epochs are dear, so fewer are waited for.
PAIRS = FEW | {"evaluate_every": [1], "batch_size": [4096], "learning_rate": [5e-3]}
FILMS: dict[str, list[Setting]] = {
    "popularity": settings({}),
    "item_knn": settings({"neighbours": [50, 200], "shrink": [0.0, 50.0, 200.0]}),
    "ease": settings({"l2": [200.0, 400.0, 600.0, 1000.0, 1500.0]}),
    "sparse_ease": settings({"l2": [200.0, 400.0, 800.0], "neighbours": [200, 400]}),
    "als": settings({"alpha0": [0.03, 0.1, 0.3], "l2": [0.003, 0.01], "embedding_size": [128]}),
    "content_search": settings({}),
    "graph_filter": settings({
        "alpha": [0.5, 0.7],
        "power": [1.0, 2.0],
        "content_weight": [0.1, 0.3],
        "coefficients": [[1.0]],
    }),
    "bpr_mf": settings({"reg": [1e-3]}, FEW | {"learning_rate": [1e-2]}),
    "lightgcn": settings({"layers": [2], "reg": [1e-4]}, FEW | {"learning_rate": [1e-2]}),
    "vbpr": settings({"reg": [1e-3, 1e-2]}, FEW | {"learning_rate": [1e-2]}),
    "freedom": settings({}, FEW | {"learning_rate": [1e-2]}),
    "bm3": settings({}, FEW | {"learning_rate": [1e-2]}),
    "smore": settings({}, PAIRS),
    "lirdrec": settings({"layers": [2], "embedding_size": [32]}, FEW | {"learning_rate": [5e-3]}),
    "cm3": settings({}, PAIRS),
}
