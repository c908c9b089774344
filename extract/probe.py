"""What a feature knows: how well an item's attribute is predicted from its vector, by two plain classifiers.

Gaussian naive Bayes and multinomial logistic regression, after Ng and Jordan, "On Discriminative vs.
Generative Classifiers" (NIPS 2001): the first needs few labels, the second is better with many. Both are
cross-validated over items and stand beside the commonest class and beside themselves on permuted labels,
which know nothing. Left out: several labels per item, and numbers as targets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from extract.errors import InvalidData
from extract.features import FeatureTable

L2 = (1.0, 10.0, 100.0, 1000.0)
"""Ridge strengths the logistic regression chooses from, on a part of its training items."""
SMOOTHING = 1e-9
"""Share of the largest variance that naive Bayes adds to each, so that none is zero."""
Z = 1.959964
"""The normal quantile of a 95 % interval."""

Matrix = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Score:
    """How one predictor did on items it had not seen."""

    accuracy: float
    low: float
    high: float
    """Wilson's 95 % interval of the accuracy, over items."""
    balanced_accuracy: float
    """Mean over classes of the share recognised; 1 / classes is chance."""
    gain: float
    gain_low: float
    gain_high: float
    """Accuracy above that of the commonest class, with its paired 95 % interval over items."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A feature's scores on one attribute, and what was left out."""

    n_items: int
    classes: dict[str, int]
    """Items of each class that was asked for, the commonest first."""
    n_absent: int
    """Items without a vector."""
    n_unlabelled: int
    """Items with a vector whose attribute is empty."""
    n_rare: int
    """Items of classes with fewer items than folds."""
    folds: int
    train_items: int
    """Items each fold learned from; the least of the folds."""
    scores: dict[str, Score]
    """By predictor: naive_bayes, logistic, majority, and naive_bayes_permuted, logistic_permuted."""

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return asdict(self)


def probe(
    table: FeatureTable,
    labels: Sequence[str],
    *,
    folds: int = 5,
    seed: int = 0,
    train_items: int | None = None,
) -> Probe:
    """Predict an attribute from a feature.

    Args:
        table: vectors of I items.
        labels: the attribute of each item [I], in the table's order; empty: not known.
        folds: parts of the items, each predicted by what the others taught; stratified by class.
        seed: of the folds, of the permutation, and of which items are kept.
        train_items: learn from at most this many items in each fold; None: from all.

    Raises:
        InvalidData: as many labels as items are not given, or fewer than two classes have ``folds`` items.
    """
    if len(labels) != len(table):
        raise InvalidData("D108", f"{len(labels)} labels for {len(table)} items")
    if folds < 2:
        raise ValueError(f"`folds` must be at least 2, got {folds}")
    known = [row for row, text in enumerate(labels) if text and table.present[row]]
    counts = Counter(labels[row] for row in known)
    classes = {text: count for text, count in counts.most_common() if count >= folds}
    if len(classes) < 2:
        raise InvalidData(
            "D125",
            f"nothing to tell apart: {len(classes)} classes have at least {folds} items with a vector",
            why=f"found: {', '.join(f'{text} ({n})' for text, n in counts.most_common(5)) or 'no labels'}",
            next_step="name another attribute, or ask for fewer folds",
        )
    rows = [row for row in known if labels[row] in classes]
    number = {text: place for place, text in enumerate(classes)}
    x, y = table.matrix[rows].astype(np.float64), np.array([number[labels[row]] for row in rows])
    shuffled = np.random.default_rng(seed).permutation(y)
    scores, least = _predict(x, y, folds, seed, train_items)
    permuted, _ = _predict(x, shuffled, folds, seed, train_items)
    scores |= {f"{name}_permuted": score for name, score in permuted.items() if name != "majority"}
    return Probe(
        n_items=len(rows),
        classes=classes,
        n_absent=len(table) - int(table.present.sum()),
        n_unlabelled=int(table.present.sum()) - len(known),
        n_rare=len(known) - len(rows),
        folds=folds,
        train_items=least,
        scores=scores,
    )


def _predict(
    x: Matrix, y: Labels, folds: int, seed: int, train_items: int | None
) -> tuple[dict[str, Score], int]:
    """The predictors' scores, and how many items the smallest fold learned from."""
    chance, classes = np.random.default_rng(seed), int(y.max()) + 1
    parts, least = _folds(y, folds, chance), len(y)
    guesses = {name: np.empty_like(y) for name in PREDICTORS}
    for fold in range(folds):
        train, test = _kept(np.flatnonzero(parts != fold), y, train_items, chance), parts == fold
        least = min(least, len(train))
        for name, fit in PREDICTORS.items():
            guesses[name][test] = fit(x[train], y[train], classes)(x[test])
    base = guesses["majority"] == y
    return {name: _score(guess, y, base) for name, guess in guesses.items()}, least


def _folds(y: Labels, folds: int, chance: np.random.Generator) -> Labels:
    """The fold of each item: those of a class are dealt out in turn, each class going on where one ended."""
    order = chance.permutation(len(y))
    order = order[np.argsort(y[order], kind="stable")]
    parts = np.empty_like(y)
    parts[order] = np.arange(len(y)) % folds
    return parts


def _kept(rows: Labels, y: Labels, count: int | None, chance: np.random.Generator) -> Labels:
    """At most ``count`` of the rows, every class with its share and no class without an item."""
    if count is None or count >= len(rows):
        return rows
    order = chance.permutation(rows)
    # An item's place within its class, as a share, is the order in which items are taken.
    turn = np.empty(len(order))
    for label in np.unique(y[order]):
        mine = np.flatnonzero(y[order] == label)
        turn[mine] = np.arange(len(mine)) / len(mine)
    return np.sort(order[np.argsort(turn, kind="stable")[:count]])


Guess = Callable[[Matrix], Labels]


def fit_majority(x: Matrix, y: Labels, classes: int) -> Guess:
    """The commonest class, whatever the vector."""
    commonest = int(np.bincount(y, minlength=classes).argmax())
    return lambda rows: np.full(len(rows), commonest)


def fit_naive_bayes(x: Matrix, y: Labels, classes: int) -> Guess:
    """Gaussian naive Bayes: means of each class and number, variances of each number, shares as priors.

    Variances are shared by the classes, as in the paper, which makes it the logistic regression's twin.
    """
    counts = np.bincount(y, minlength=classes)
    wanted = np.eye(classes)[y]
    mean = (wanted.T @ x) / np.maximum(counts, 1)[:, None]
    variance = ((x - mean[y]) ** 2).mean(axis=0)
    variance += SMOOTHING * max(float(x.var(axis=0).max()), 1e-300)
    with np.errstate(divide="ignore"):
        prior = np.log(counts / len(y))
    weights, intercepts = (mean / variance).T, prior - 0.5 * (mean**2 / variance).sum(axis=1)
    return lambda rows: np.asarray((rows @ weights + intercepts).argmax(axis=1))


def fit_logistic(x: Matrix, y: Labels, classes: int) -> Guess:
    """Multinomial logistic regression on standardised numbers; its ridge is chosen on every fourth item."""
    shift, scale = x.mean(axis=0), x.std(axis=0)
    scale[scale == 0] = 1
    z = (x - shift) / scale
    held = np.zeros(len(y), bool)
    held[np.argsort(y, kind="stable")[3::4]] = True
    best = max(
        L2, key=lambda l2: (_accuracy(softmax_weights(z[~held], y[~held], classes, l2), z[held], y[held]), l2)
    )
    weights = softmax_weights(z, y, classes, best)
    return lambda rows: np.asarray(_logits(weights, (rows - shift) / scale).argmax(axis=1))


def softmax_weights(z: Matrix, y: Labels, classes: int, l2: float) -> Matrix:
    """Weights [D + 1, C], the last row the intercepts, of least cross entropy + l2 / 2 |weights|^2.

    The cross entropy is summed over items, and intercepts are free.
    """
    n, width = z.shape
    wanted = np.eye(classes)[y]

    def cost(flat: Matrix) -> tuple[float, Matrix]:
        weights = flat.reshape(width + 1, classes)
        logits = _logits(weights, z)
        logits -= logits.max(axis=1, keepdims=True)
        shares = np.exp(logits)
        total = shares.sum(axis=1, keepdims=True)
        loss = float(np.log(total).sum() - logits[np.arange(n), y].sum())
        loss += l2 / 2 * float((weights[:-1] ** 2).sum())
        error = shares / total - wanted
        gradient = np.vstack([z.T @ error + l2 * weights[:-1], error.sum(axis=0)])
        return loss / n, gradient.ravel() / n

    start = np.zeros((width + 1) * classes)
    found = minimize(cost, start, jac=True, method="L-BFGS-B", options={"maxiter": 300})
    return np.asarray(found.x).reshape(width + 1, classes)


def _logits(weights: Matrix, z: Matrix) -> Matrix:
    return np.asarray(z @ weights[:-1] + weights[-1])


def _accuracy(weights: Matrix, z: Matrix, y: Labels) -> float:
    return float((_logits(weights, z).argmax(axis=1) == y).mean()) if len(y) else 0.0


PREDICTORS: dict[str, Callable[[Matrix, Labels, int], Guess]] = {
    "naive_bayes": fit_naive_bayes,
    "logistic": fit_logistic,
    "majority": fit_majority,
}
"""Training vectors [N, D], labels [N] and the number of classes in; a function from vectors to labels out."""


def _score(guess: Labels, truth: Labels, base: NDArray[np.bool_]) -> Score:
    hit = guess == truth
    n, share = len(hit), float(hit.mean())
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    reach = Z / (1 + Z**2 / n) * float(np.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2)))
    gain = hit.astype(float) - base
    error = Z * float(gain.std(ddof=1)) / n**0.5
    return Score(
        accuracy=share,
        low=middle - reach,
        high=middle + reach,
        balanced_accuracy=float(np.mean([hit[truth == label].mean() for label in np.unique(truth)])),
        gain=float(gain.mean()),
        gain_low=float(gain.mean()) - error,
        gain_high=float(gain.mean()) + error,
    )
