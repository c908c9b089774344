"""How sure a mean or a difference between two systems is, from per-user values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from extract.errors import InvalidData
from recsys.metrics import Metrics

Values = NDArray[np.float64]
# One chunk of resamples stays near 64 MB whatever the number of users.
CHUNK = 8_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with the bounds of its percentile bootstrap interval."""

    estimate: float
    low: float
    high: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The paired difference b - a of one metric: its interval over users and its permutation p-value."""

    metric: str
    mean_a: float
    mean_b: float
    difference: Interval
    p_value: float
    n_users: int


def bootstrap_mean(
    values: Values, *, samples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Percentile bootstrap of the mean of values [N], users resampled with replacement."""
    checked = _checked(values)
    rng = np.random.default_rng(seed)
    means = np.concatenate([
        checked[rng.integers(0, len(checked), size=(n, len(checked)))].mean(axis=1)
        for n in _chunks(samples, checked)
    ])
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(checked.mean()), float(low), float(high), confidence)


def bootstrap_difference(
    a: Values, b: Values, *, samples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """The same for the mean of b - a, the two paired by user [N]."""
    return bootstrap_mean(_paired(a, b), samples=samples, confidence=confidence, seed=seed)


def permutation_test(a: Values, b: Values, *, samples: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value of the mean of b - a under random swaps of the two systems per user; never below 1 /
    (samples + 1).
    """
    differences = _paired(a, b)
    rng = np.random.default_rng(seed)
    # A hair of slack, or rounding would make a swap that changes nothing look smaller than what was observed.
    observed = abs(differences.sum()) * (1 - 1e-12)
    extreme = 0
    for n in _chunks(samples, differences):
        signs = rng.integers(0, 2, size=(n, len(differences)), dtype=np.int8).astype(np.float64) * 2 - 1
        extreme += int((np.abs(signs @ differences) >= observed).sum())
    return (extreme + 1) / (samples + 1)


def compare(a: Metrics, b: Metrics, metric: str, *, samples: int = 2000, seed: int = 0) -> Comparison:
    """Is b better than a? Both must hold the same users in the same order, or InvalidData D208."""
    if not np.array_equal(a.user_ids, b.user_ids):
        raise InvalidData(
            "D208",
            "two evaluations cover different users",
            why=f"{len(a.user_ids)} against {len(b.user_ids)} users",
        )
    first, second = a.per_user[metric], b.per_user[metric]
    return Comparison(
        metric=metric,
        mean_a=float(first.mean()),
        mean_b=float(second.mean()),
        difference=bootstrap_difference(first, second, samples=samples, seed=seed),
        p_value=permutation_test(first, second, samples=samples, seed=seed),
        n_users=len(first),
    )


def _checked(values: Values) -> Values:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise InvalidData(
            "D211", "per-user values must be finite, one row, and not empty", why=f"shape {array.shape}"
        )
    return array


def _paired(a: Values, b: Values) -> Values:
    first, second = _checked(a), _checked(b)
    if len(first) != len(second):
        raise InvalidData("D208", "paired values differ in number", why=f"{len(first)} against {len(second)}")
    return second - first


def _chunks(samples: int, values: Values) -> Iterator[int]:
    size = max(1, CHUNK // len(values))
    for start in range(0, samples, size):
        yield min(size, samples - start)
