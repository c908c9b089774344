"""How sure a mean or a difference between two systems is, from per-user values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


def bootstrap_means(
    values: Values, *, samples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> list[Interval]:
    """Percentile bootstrap of the mean of each column of values [N, C], users resampled with replacement.

    All columns share the resamples: a resample is N counts, and all means of a chunk are one product.
    """
    checked = _checked(values)
    n_users = len(checked)
    rng = np.random.default_rng(seed)
    means = []
    for n in _chunks(samples, checked):
        drawn = rng.integers(0, n_users, size=(n, n_users)) + np.arange(n)[:, None] * n_users
        counts = np.bincount(drawn.ravel(), minlength=n * n_users).reshape(n, n_users)
        means.append(counts.astype(np.float64) @ checked / n_users)
    return _percentiles(checked.mean(axis=0), np.concatenate(means), confidence)


def bootstrap_mean(
    values: Values, *, samples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """The same for one row of values [N]."""
    column = _one_row(values)[:, None]
    return bootstrap_means(column, samples=samples, confidence=confidence, seed=seed)[0]


def bootstrap_difference(
    a: Values, b: Values, *, samples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """The same for the mean of b - a, the two paired by user [N]."""
    return bootstrap_mean(_paired(a, b), samples=samples, confidence=confidence, seed=seed)


def bootstrap_seeds(
    values: Values,
    against: Values | None = None,
    *,
    samples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap of the mean of values [S, N] of S training seeds on the same N users, less that of
    another system's values [S', N] on these users where they are given.

    Seeds and users are both resampled, each with replacement, users together for both systems and seeds for
    each by itself; so the interval holds the noise of training and that of the sample of people. With few
    seeds it is rough: of three, all are drawn in two resamples of nine only.
    """
    sides = [_checked(values)] if against is None else [_checked(values), _checked(against)]
    n_users = sides[0].shape[1]
    if sides[-1].shape[1] != n_users:
        raise InvalidData("D208", "paired values differ in number", why=f"{n_users}, {sides[-1].shape[1]}")
    rng = np.random.default_rng(seed)
    means = []
    for n in _chunks(samples, sides[0].T):
        drawn = rng.integers(0, n_users, size=(n, n_users)) + np.arange(n)[:, None] * n_users
        counts = np.bincount(drawn.ravel(), minlength=n * n_users).reshape(n, n_users) / n_users
        reached = []
        for side in sides:
            of_seeds = rng.multinomial(len(side), np.full(len(side), 1 / len(side)), size=n) / len(side)
            reached.append((of_seeds * (counts @ side.T)).sum(axis=1))
        means.append(reached[0] - sum(reached[1:]))
    estimate = sides[0].mean() - sum(side.mean() for side in sides[1:])
    return _percentiles(np.array([estimate]), np.concatenate(means)[:, None], confidence)[0]


def permutation_tests(differences: Values, *, samples: int = 10_000, seed: int = 0) -> Values:
    """Two-sided p-values [C] of the mean of each column of paired differences [N, C] under random swaps of
    the two systems per user; never below 1 / (samples + 1). All columns share the swaps.
    """
    checked = _checked(differences)
    rng = np.random.default_rng(seed)
    # A hair of slack, or rounding would make a swap that changes nothing look smaller than what was observed.
    observed = np.abs(checked.sum(axis=0)) * (1 - 1e-12)
    extreme = np.zeros(checked.shape[1])
    for n in _chunks(samples, checked):
        signs = rng.integers(0, 2, size=(n, len(checked)), dtype=np.int8).astype(np.float64) * 2 - 1
        extreme += (np.abs(signs @ checked) >= observed).sum(axis=0)
    p_values: Values = (extreme + 1) / (samples + 1)
    return p_values


def permutation_test(a: Values, b: Values, *, samples: int = 10_000, seed: int = 0) -> float:
    """The same for one pair of systems, values [N] each."""
    return float(permutation_tests(_paired(a, b)[:, None], samples=samples, seed=seed)[0])


def holm(p_values: Values) -> Values:
    """P-values [M] of M comparisons, corrected so that the chance of any false claim among them stays below
    the level they are read at (Holm 1979); valid however the comparisons depend on each other.
    """
    values = _one_row(p_values)
    order = np.argsort(values, kind="stable")
    stepped = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)), 1.0)
    corrected = np.empty_like(stepped)
    corrected[order] = stepped
    return corrected


def lower_bounds(samples: Sequence[Values], *, confidence: float = 0.95) -> list[float]:
    """One-sided lower bounds of the means of M samples [N_m], which all hold at once with this confidence.

    Student's, each at an M-th of the error (Bonferroni), moved down by the first term of Hall (1983) where a
    sample leans to the left: losses that are rare make the mean look good and the deviation small. It is
    never moved up. Fewer than two values: minus infinity.
    """
    level = 1 - (1 - confidence) / max(len(samples), 1)
    return [_lower_bound(np.asarray(sample, dtype=np.float64), level) for sample in samples]


def _lower_bound(values: Values, level: float) -> float:
    from scipy.special import stdtrit

    count = len(values)
    if count < 2:
        return -np.inf
    mean, deviation = float(values.mean()), float(values.std(ddof=1))
    if not deviation:
        return mean
    skew = float((((values - mean) / deviation) ** 3).mean())
    t = float(stdtrit(count - 1, level))
    t += max(0.0, -skew) * (2 * t * t + 1) / (6 * float(np.sqrt(count)))
    return mean - t * deviation / float(np.sqrt(count))


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
    if array.ndim != 2 or not array.size or not np.isfinite(array).all():
        raise InvalidData(
            "D211", "per-user values must be finite, in a table, and not empty", why=f"shape {array.shape}"
        )
    return array


def _one_row(values: Values) -> Values:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise InvalidData(
            "D211", "per-user values must be finite, one row, and not empty", why=f"shape {array.shape}"
        )
    return array


def _paired(a: Values, b: Values) -> Values:
    first, second = _one_row(a), _one_row(b)
    if len(first) != len(second):
        raise InvalidData("D208", "paired values differ in number", why=f"{len(first)} against {len(second)}")
    return second - first


def _percentiles(estimates: Values, means: Values, confidence: float) -> list[Interval]:
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return [
        Interval(float(e), float(a), float(b), confidence)
        for e, a, b in zip(estimates, low, high, strict=True)
    ]


def _chunks(samples: int, values: Values) -> Iterator[int]:
    size = max(1, CHUNK // len(values))
    for start in range(0, samples, size):
        yield min(size, samples - start)
