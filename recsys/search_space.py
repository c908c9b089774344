"""What is worth searching of each model: ranges on the scale where its effect is even."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Value = int | float | str | bool


class Range(BaseModel):
    """One setting to search: a range of numbers, or a list of values."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: int | float | None = None
    """Least value; with two whole numbers the setting stays whole."""
    high: int | float | None = None
    """Largest value."""
    log: bool = False
    """Whether the range is even on a logarithmic scale."""
    values: tuple[Value, ...] = Field(default=())
    """Instead: the values to choose from."""

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if (self.low is None) != (self.high is None) or (self.low is None) == (not self.values):
            raise ValueError("give `low` and `high`, or `values`")
        if self.low is not None and self.high is not None and not (self.low < self.high):
            raise ValueError("`low` must be below `high`")
        if self.log and (self.low is None or self.low <= 0):
            raise ValueError("a logarithmic range starts above 0")
        return self

    def holds(self, value: object) -> bool:
        """Whether a value lies in the range or the list."""
        if self.low is None or self.high is None:
            return value in self.values
        return isinstance(value, int | float) and self.low <= value <= self.high


class TuneConfig(BaseModel):
    """How long `tune` searches, and where; it decides no result of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trials: int = Field(default=30, ge=1)
    """Tries of each retriever, those of earlier calls included."""
    minutes: float | None = Field(default=None, gt=0)
    """Minutes after which no try of a retriever begins; null: no limit."""
    max_seconds: float | None = Field(default=None, gt=0)
    """Seconds that a fit may take: what takes longer is not chosen, and the search keeps away; null: any."""
    seed: int = Field(default=0, ge=0)
    """Seed of the search; fits have that of their retriever."""
    space: dict[str, dict[str, Range]] = Field(default_factory=dict)
    """By retriever, keys such as params.l2 with {low, high, log} or {values}; others have their model's."""


def _log(low: float, high: float) -> Range:
    return Range(low=low, high=high, log=True)


def _of(*values: Value) -> Range:
    return Range(values=values)


_RATE = {"train.learning_rate": _log(3e-4, 3e-2)}

SPACES: dict[str, dict[str, Range]] = {
    "item_knn": {
        "params.neighbours": Range(low=10, high=1000, log=True),
        "params.shrink": Range(low=0.0, high=500.0),
    },
    "ease": {"params.l2": _log(1.0, 1e4)},
    "sparse_ease": {"params.l2": _log(1.0, 1e4), "params.neighbours": _of(50, 100, 200)},
    "als": {
        "params.alpha0": _log(3e-3, 1.0),
        "params.l2": _log(1e-4, 1e-1),
        "params.embedding_size": _of(32, 64, 128),
    },
    "graph_filter": {
        "params.content_weight": Range(low=0.0, high=0.9),
        "params.alpha": Range(low=0.3, high=0.9),
        "params.power": _log(0.5, 2.0),
        "params.neighbours": _of(10, 20, 50),
    },
    "bpr_mf": {"params.reg": _log(1e-5, 1e-1)} | _RATE,
    "lightgcn": {"params.layers": Range(low=1, high=4), "params.reg": _log(1e-6, 1e-2)} | _RATE,
    "vbpr": {"params.reg": _log(1e-5, 1e-1), "params.feature_size": _of(32, 64, 128)} | _RATE,
    "freedom": {"params.reg": _log(1e-5, 1e-2), "params.kept_edges": _of(0.1, 0.2, 0.5)} | _RATE,
    "bm3": {
        "params.layers": Range(low=1, high=2),
        "params.dropout": Range(low=0.1, high=0.6),
        "params.reg": _log(1e-2, 1.0),
    }
    | _RATE,
    "smore": {
        "params.layers": Range(low=2, high=4),
        "params.contrast": _log(1e-3, 1e-1),
        "params.reg": _log(1e-5, 1e-3),
        "params.dropout": _of(0.0, 0.1),
    }
    | _RATE,
    "lirdrec": {
        "params.layers": Range(low=2, high=4),
        "params.reg": _log(1e-4, 1e-1),
        "params.neighbours": _of(5, 10, 20),
    }
    | _RATE,
    "cm3": {
        "params.layers": Range(low=2, high=4),
        "params.gamma": Range(low=0.3, high=1.2),
        "params.alpha": _of(0.1, 0.5, 0.9),
        "params.max_similarity": _of(0.8, 1.0),
    }
    | _RATE,
}
"""By model, keys of a retriever to their ranges; those that are not here have nothing to search."""
