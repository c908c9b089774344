"""How well someone who collects published lists can copy the ranking, and what publishing less changes.

The attacker sees the catalogue, people's histories (of their own accounts) and N published lists, and nothing
of the run's models: the surrogate is a linear ListNet on what they can work out themselves. It is asked to
order the candidates of people whose lists it has not seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import rankdata

from extract.features import FeatureTable
from recsys.candidates import Candidates
from recsys.interactions import Interactions
from recsys.significance import bootstrap_means
from rerank.fusion import fit_fusion, standardised

TOP = 10
"""Places whose overlap is counted."""
MOST_ASKED = 500
"""People whose lists the copy is asked for."""


@dataclass(frozen=True, slots=True)
class Publishing:
    """What is published of a list.

    Attributes:
        places: how many of its first places; None: all.
        digits: digits behind the point of its scores, which lie between 0 and 1; None: no scores.
    """

    name: str
    places: int | None = None
    digits: int | None = None


PUBLISHED = (
    Publishing("order and scores", digits=6),
    Publishing("scores rounded to 0.1", digits=1),
    Publishing("order alone"),
    Publishing("first 10, order alone", places=10),
    Publishing("first 5, order alone", places=5),
)


def extraction_curve(
    lists: Candidates,
    known: Interactions,
    tables: Mapping[str, FeatureTable],
    sizes: Sequence[int],
    seed: int,
) -> list[dict[str, Any]]:
    """By way of publishing and N: Kendall's tau and the overlap of the first ten with the published order.

    Args:
        lists: the delivered lists, best first.
        known: what everybody chose: the histories.
        tables: vectors of the items that the attacker has made.
        sizes: numbers N of published lists; two thirds of all lists can be collected at most.
        seed: draws who is collected and who is asked.

    Returns:
        Rows with the keys published, lists, tau, overlap; both of these a mean with an interval over people.
    """
    order = np.random.default_rng([seed, 8]).permutation(len(lists))
    asked = np.sort(order[len(order) - len(order) // 3 :][:MOST_ASKED])
    rows = []
    for publishing in PUBLISHED:
        for size in [n for n in sizes if n <= len(order) - len(order) // 3]:
            seen = np.sort(order[:size])
            found = _copied(lists, known, tables, publishing, seen, asked)
            low = bootstrap_means(found, seed=seed)
            rows.append({"published": publishing.name, "lists": size, **{
                name: {"mean": own.estimate, "low": own.low, "high": own.high}
                for name, own in zip(("tau", "overlap"), low, strict=True)
            }})  # fmt: skip
    return rows


def _copied(
    lists: Candidates, known: Interactions, tables: Mapping[str, FeatureTable], publishing: Publishing,
    seen: NDArray[np.int64], asked: NDArray[np.int64],
) -> NDArray[np.float64]:  # fmt: skip
    """Tau and overlap [N, 2] of a surrogate's order of the lists `asked`."""
    published = lists.take(seen)
    places = publishing.places or lists.k
    shown = published.head(places)
    learnt, taught = (_with_signs(part, shown, known, tables) for part in (shown, lists.take(asked)))
    names = tuple(learnt.scores)
    surrogate = fit_fusion(learnt, _target(shown, publishing), names)
    scores = surrogate.scores(taught)
    return np.array([
        agreement(row[mask], items[mask])
        for row, items, mask in zip(scores.astype(np.float64), taught.items, taught.mask, strict=True)
    ])  # fmt: skip


def _target(shown: Candidates, publishing: Publishing) -> NDArray[np.float32]:
    """What the surrogate learns to spread a list's mass like [N, K]."""
    if publishing.digits is None:
        target = np.where(shown.mask, 1.0 / np.arange(1, shown.k + 1), 0.0)
    else:
        scores = standardised(shown.final.astype(np.float64), shown.mask)
        spread = softmax(np.where(shown.mask, scores, -np.inf), axis=1)
        target = np.round(spread / spread.max(axis=1, keepdims=True), publishing.digits)
    return np.asarray(target, np.float32)


def _with_signs(
    lists: Candidates, shown: Candidates, known: Interactions, tables: Mapping[str, FeatureTable]
) -> Candidates:
    """The lists with what the attacker can work out as their only sources: scores, and ranks by them."""
    signs = {
        **{f"mean:{name}": _likeness(lists, known, table, nearest=False) for name, table in tables.items()},
        **{f"nearest:{name}": _likeness(lists, known, table, nearest=True) for name, table in tables.items()},
        "shown": _shown(lists, shown),
        "chosen": _chosen(lists, known),
    }
    scores = {name: np.where(lists.mask, values, np.nan).astype(np.float32) for name, values in signs.items()}
    ranks = {}
    for name, values in scores.items():
        # Equal values share the better rank: broken by place, the order itself would be told.
        own = rankdata(-np.nan_to_num(values, nan=-np.inf), method="min", axis=1)
        ranks[name] = np.where(lists.mask, own, 0).astype(np.int32)
    return replace(lists, scores=scores, ranks=ranks)


def _likeness(
    lists: Candidates, known: Interactions, table: FeatureTable, *, nearest: bool
) -> NDArray[np.float64]:
    """Cosine [U, K] of each candidate with the mean of the person's items, or with the nearest of them."""
    aligned = table.aligned_to([str(item) for item in known.item_ids])
    unit = aligned.matrix / np.maximum(np.linalg.norm(aligned.matrix, axis=1, keepdims=True), 1e-9)
    row_of = {item: row for row, item in enumerate(known.item_ids.tolist())}
    found = np.zeros(lists.items.shape)
    users = known.user_rows_of([str(user) for user in lists.user_ids])
    for place, history in enumerate(known.history(users)):
        if len(history):
            own = [row_of.get(str(item), 0) for item in lists.items[place]]
            cosines = unit[own] @ unit[history].T
            found[place] = cosines.max(axis=1) if nearest else cosines.mean(axis=1)
    return found


def _shown(lists: Candidates, shown: Candidates) -> NDArray[np.float64]:
    """How often, and how high, each candidate stands in the published lists of others [U, K]."""
    weight: dict[str, float] = {}
    for row in shown.items:
        for place, item in enumerate(row[row != ""].tolist(), start=1):
            weight[item] = weight.get(item, 0.0) + 1 / place
    found = np.vectorize(lambda item: weight.get(item, 0.0), otypes=[float])(lists.items)
    if lists is shown:
        # A list that taught itself would be learnt by heart.
        found = found - 1 / np.arange(1, shown.k + 1)
    return np.asarray(np.log1p(np.maximum(found, 0)), np.float64)


def _chosen(lists: Candidates, known: Interactions) -> NDArray[np.float64]:
    counts = np.bincount(known.item_rows, minlength=known.n_items)
    by_item = dict(zip(known.item_ids.tolist(), counts.tolist(), strict=True))
    found = np.vectorize(lambda item: by_item.get(item, 0), otypes=[float])(lists.items)
    return np.asarray(np.log1p(found), np.float64)


def agreement(scores: NDArray[np.float64], items: NDArray[np.str_]) -> tuple[float, float]:
    """Kendall's tau of scores [K] with the order they stand in, and the share of its first ten among theirs.

    Equal scores count for neither order in tau, and go by item id among the first ten.
    """
    count = len(scores)
    if count < 2:
        return 0.0, 1.0
    signs = np.sign(scores[:, None] - scores[None, :])[np.triu_indices(count, 1)]
    top = min(TOP, count)
    first = np.lexsort((items, -scores))[:top]
    return float(signs.mean()), float((first < top).mean())
