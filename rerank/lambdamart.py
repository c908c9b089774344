"""LambdaMART (Burges 2010): gradient-boosted trees on the numbers of `rerank.inputs`, the bar to clear.

It sees what the token form sees of a candidate, except the items of the history themselves and the vectors.
Trained on the same out-of-fold lists, chosen on the same validation lists. lightgbm does the work.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.errors import InvalidData, MissingPrerequisite
from rerank.lists import RankingList
from rerank.settings import LambdaMartConfig

CUT = 20


@dataclass(frozen=True)
class LambdaMart:
    """Fitted trees, as lightgbm's own text, and what validation said of every setting tried."""

    text: str
    tried: tuple[dict[str, float], ...] = ()

    def scores(self, lists: Sequence[RankingList]) -> list[NDArray[np.float32]]:
        """Each list's scores [K] in the order its candidates arrived."""
        booster = _lightgbm().Booster(model_str=self.text)
        found: list[NDArray[np.float32]] = []
        for entry in lists:
            arrived = np.zeros(len(entry.candidates), np.float32)
            if len(arrived):
                arrived[entry.places] = booster.predict(_inputs(entry), num_threads=1)
            found.append(arrived)
        return found


def fit_lambdamart(
    lists: Sequence[RankingList], valid: Sequence[RankingList], config: LambdaMartConfig, *, seed: int
) -> LambdaMart:
    """Tries every setting of `config` and keeps the one with the best validation NDCG@20."""
    lightgbm = _lightgbm()
    if not lists or not valid:
        raise InvalidData(
            "R306", "LambdaMART needs training and validation lists with a truth",
            why=f"{len(lists)} and {len(valid)}", next_step="set rerank.lambdamart to null",
        )  # fmt: skip
    train, held = (_dataset(lightgbm, part) for part in (lists, valid))
    tried, best = [], ("", -1.0)
    for leaves, least in itertools.product(config.leaves, config.min_leaf):
        params = {
            "objective": "lambdarank", "metric": "ndcg", "eval_at": [CUT], "num_leaves": leaves,
            "min_data_in_leaf": least, "learning_rate": config.learning_rate, "max_bin": 127,
            "lambdarank_truncation_level": CUT + 10, "seed": seed, "deterministic": True,
            "force_row_wise": True, "num_threads": 0, "verbose": -1, "feature_pre_filter": False,
        }  # fmt: skip
        booster = lightgbm.train(
            params, train, config.trees, valid_sets=[held],
            callbacks=[lightgbm.early_stopping(30, verbose=False)],
        )  # fmt: skip
        value = float(booster.best_score["valid_0"][f"ndcg@{CUT}"])
        tried.append({
            "leaves": leaves, "min_leaf": least, "trees": booster.best_iteration, f"ndcg@{CUT}": value
        })  # fmt: skip
        if value > best[1]:
            best = (booster.model_to_string(num_iteration=booster.best_iteration), value)
    return LambdaMart(best[0], tuple(tried))


def _dataset(lightgbm: Any, lists: Sequence[RankingList]) -> Any:
    return lightgbm.Dataset(
        np.concatenate([_inputs(entry) for entry in lists]),
        np.concatenate([entry.relevance for entry in lists]),
        group=[len(entry.candidates) for entry in lists],
        params={"max_bin": 127, "feature_pre_filter": False, "verbose": -1},
        free_raw_data=False,
    )


def _inputs(entry: RankingList) -> NDArray[np.float32]:
    if entry.inputs is None:
        raise InvalidData("R304", f"the list of user {entry.user_id} has no inputs for LambdaMART")
    return entry.inputs


def _lightgbm() -> Any:
    try:
        import lightgbm
    except (ImportError, OSError) as error:
        # OSError: its library links to the system's OpenMP, which a slim image lacks.
        raise MissingPrerequisite(
            "P304", "LambdaMART needs the package lightgbm", why=str(error),
            next_step="pip install 'catalograph[lambdamart]', or set rerank.lambdamart to null",
        ) from error  # fmt: skip
    return lightgbm
