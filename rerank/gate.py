"""The gate: whose lists are reordered, and by what, so that nobody is given worse than what came in.

Learned orders are held against the retrieved one on held-out lists that nothing was fitted or chosen on. In
each group of users an order is used only where the lower bound of its gain is positive, all groups and orders
counted (`recsys.significance.lower_bounds`); of several that pass, the one with the highest bound, a tie
going to the reranker. So the reranker takes a group from a comparator only where it is as surely better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.candidates import Candidates
from recsys.significance import lower_bounds
from rerank.settings import GateConfig

RETRIEVED = "retrieved"
GATED = "gated"


@dataclass(frozen=True, slots=True)
class Bound:
    """An order's mean gain over the retrieved one in a group, and the lower bound of it."""

    gain: float
    low: float


@dataclass(frozen=True, slots=True)
class Decision:
    """What a group of users is given.

    Attributes:
        group: its label.
        lists: held-out lists it was decided on.
        retrieved: their mean metric as retrieved.
        bounds: by order; empty where there are too few lists.
        chosen: name of an order, or `RETRIEVED`.
    """

    group: str
    lists: int
    retrieved: float
    bounds: Mapping[str, Bound]
    chosen: str


def decide(
    values: Mapping[str, NDArray[np.float64]], groups: NDArray[np.str_], config: GateConfig
) -> list[Decision]:
    """One decision per label of `groups` [N], by label.

    Args:
        values: by order, the metric of N held-out lists; `RETRIEVED` among them. Of equal bounds the first
            order wins, so the reranker comes first.
    """
    base = values[RETRIEVED]
    arms = [name for name in values if name != RETRIEVED]
    labels = [str(label) for label in np.unique(groups)]
    members = {label: groups == label for label in labels}
    tried = [(label, arm) for label in labels if members[label].sum() >= config.least_lists for arm in arms]
    gains = {(label, arm): (values[arm] - base)[members[label]] for label, arm in tried}
    lows = lower_bounds(list(gains.values()), confidence=config.confidence)
    bounds = {pair: Bound(float(gains[pair].mean()), low) for pair, low in zip(gains, lows, strict=True)}
    decisions = []
    for label in labels:
        own = {arm: bounds[label, arm] for arm in arms if (label, arm) in bounds}
        passed = [arm for arm, bound in own.items() if bound.low > 0]
        chosen = max(passed, key=lambda arm: own[arm].low, default=RETRIEVED)
        count = int(members[label].sum())
        decisions.append(Decision(label, count, float(base[members[label]].mean()), own, chosen))
    return decisions


def gated(
    retrieved: Candidates, orders: Mapping[str, Candidates], groups: NDArray[np.str_],
    decisions: Sequence[Decision],
) -> Candidates:  # fmt: skip
    """Each user's list in the order that was decided for the user's group [U]; a group that nothing was
    decided for keeps the retrieved order.

    Args:
        orders: the same lists, by name of the order.

    Orders have scores of different kinds, so a list's scores, under `GATED`, are minus its places.
    """
    moves = np.tile(np.arange(retrieved.k), (len(retrieved), 1))
    arriving = np.argsort(retrieved.items, axis=1, kind="stable")
    for decision in decisions:
        if decision.chosen != RETRIEVED:
            rows = np.flatnonzero(groups == decision.group)
            wanted = np.argsort(orders[decision.chosen].items[rows], axis=1, kind="stable")
            own = np.empty_like(wanted)
            np.put_along_axis(own, wanted, arriving[rows], axis=1)
            moves[rows] = own
    places = np.argsort(moves, axis=1).astype(np.float32)
    return retrieved.reordered(moves, GATED, np.where(retrieved.mask, -1 - places, np.nan))


def set_aside(
    useful: NDArray[np.int64], limit: int, seed: int, times: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of lists to fit and choose on, at most `limit`, and those left for the gate, at least half.

    Args:
        useful: [M] rows of lists with a truth.
        times: [M] when each list's first truth was chosen. With them the earlier lists are fitted on and the
            later ones decide, as the lists of a split by time are used; lists of one moment stay together.
            Where that leaves less than a quarter to fit on, all are, and the gate has none.
    """
    draw = np.random.default_rng(seed)
    if times is None:
        limit = min(limit, len(useful) - len(useful) // 2)
        chosen = np.sort(draw.choice(useful, limit, replace=False)) if len(useful) > limit else useful
        return chosen, np.setdiff1d(useful, chosen)
    cut = moment(times)
    earlier, later = useful[times < cut], useful[times >= cut]
    if 4 * len(earlier) < len(useful):
        earlier, later = useful, useful[:0]
    if len(earlier) > limit:
        earlier = np.sort(draw.choice(earlier, limit, replace=False))
    return earlier, later


def moment(times: NDArray[np.int64]) -> int:
    """The first moment of the later half of `times` [M]; behind all of them where they are one moment."""
    ordered = np.sort(times)
    if not len(ordered):
        return 0
    after = ordered[ordered > ordered[0]]
    return max(int(ordered[len(ordered) // 2]), int(after[0]) if len(after) else int(ordered[0]) + 1)
