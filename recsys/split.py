"""Splits of interactions into train, validation and test, and the folds a reranker is trained on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from extract.errors import InvalidData
from recsys.interactions import Interactions

logger = logging.getLogger(__name__)

TRAIN, VALID, TEST, DROPPED = 0, 1, 2, -1
# Fewer earlier choices than this say too little about a user to hold the next one out.
MIN_EARLIER = 3


class SplitConfig(BaseModel):
    """How interactions become train, validation and test."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["label", "random", "mmrec", "leave_last_out", "global_time"] = "random"
    """label: the file says it; random: per user; mmrec: per user by MMRec's rule; leave_last_out: each user's
    last choice; global_time: two dates for all.
    """
    train_labels: tuple[str, ...] = ("train",)
    """Label values that mean train (method label); rows with no listed label are dropped."""
    valid_labels: tuple[str, ...] = ("valid",)
    """Label values that mean validation; where no row has one, `valid_share` of train is carved out per user.
    """
    test_labels: tuple[str, ...] = ("test",)
    """Label values that mean test."""
    valid_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of the interactions for validation (random, global_time, label without valid rows). 0: no
    validation split.
    """
    test_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of the interactions for test (random, global_time). 0: no test split."""
    cold_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of the chosen items that are made cold: all their choices go to test, whatever the method."""
    cold_by: Literal["least_chosen", "random"] = "least_chosen"
    """Which items are made cold; equal numbers of choices go by the order of the catalogue."""
    seed: int = 0
    """Seed of every random choice."""

    @field_validator("train_labels", "valid_labels", "test_labels", mode="before")
    @classmethod
    def _as_texts(cls, value: object) -> object:
        values = value if isinstance(value, list | tuple) else [value]
        return tuple(str(v) if isinstance(v, int | float) else v for v in values)

    @model_validator(mode="after")
    def _leaves_some_train(self) -> Self:
        if self.valid_share + self.test_share >= 1:
            raise ValueError("valid_share + test_share must be below 1")
        labels = [*self.train_labels, *self.valid_labels, *self.test_labels]
        if len(set(labels)) != len(labels):
            raise ValueError("a label value may stand for one split only")
        return self


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Three disjoint parts on the same axes."""

    train: Interactions
    valid: Interactions
    test: Interactions


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """What a retriever of this fold may see, and the pairs it must never have seen."""

    train: Interactions
    held_out: Interactions


def split_interactions(interactions: Interactions, config: SplitConfig) -> Split:
    """Split by the configured method; an empty part raises InvalidData D206 unless its share is 0.

    Choices of items that are made cold are all in test. Users too short to be split (fewer than 3 choices)
    stay in train. Equal times keep file order, and under global_time rows of one moment are never parted.
    Users with a test row and no train row are kept and their count is logged.
    """
    assigned = METHODS[config.method](interactions, config)
    if config.cold_share:
        counts = np.bincount(interactions.item_rows, minlength=interactions.n_items)
        cold = cold_items(counts, config)[interactions.item_rows]
        assigned[cold & (assigned != DROPPED)] = TEST
    parts = {
        name: interactions.take(assigned == part)
        for name, part in (("train", TRAIN), ("valid", VALID), ("test", TEST))
    }
    labels = [] if interactions.labels is None else np.unique(interactions.labels).tolist()
    check_parts({name: len(part) for name, part in parts.items()}, labels, config)
    if dropped := int((assigned == DROPPED).sum()):
        logger.info("%d interactions carry a label of no split and are dropped", dropped)
    lost = np.setdiff1d(parts["test"].user_rows, parts["train"].user_rows).size
    if lost:
        logger.warning("%d users have test rows and no train rows", lost)
    return Split(**parts)


def out_of_fold(train: Interactions, folds: int, seed: int, ordered: bool) -> list[Fold]:
    """Folds whose retriever never saw the pair it is asked for; for building a reranker's training lists.

    Unordered: each user's pairs are dealt at random over `folds` folds; users with one pair are never held
    out. Ordered: fold f = 1..folds holds out each user's f-th last choice and keeps only that user's earlier
    ones; a user with fewer than 3 earlier ones is not held out in that fold and is trained on whole.
    """
    if folds < 1 or (folds < 2 and not ordered):
        raise InvalidData("D207", "too few folds", why=f"`folds` is {folds}; unordered folds need at least 2")
    if ordered:
        return [_rolling_fold(train, f) for f in range(1, folds + 1)]
    rng = np.random.default_rng(seed)
    position, length = _place_in_user(train, rng.permutation(len(train)))
    offset = rng.integers(0, folds, size=train.n_users)
    fold_of = (position + offset[train.user_rows]) % folds
    fold_of[length < 2] = -1
    return [Fold(train.take(fold_of != f), train.take(fold_of == f)) for f in range(folds)]


def _rolling_fold(train: Interactions, f: int) -> Fold:
    rank = np.empty(len(train), dtype=np.int64)
    rank[train.chronological()] = np.arange(len(train))
    position, length = _place_in_user(train, rank)
    asked = length - f >= MIN_EARLIER
    return Fold(train.take(~asked | (position < length - f)), train.take(asked & (position == length - f)))


def _place_in_user(
    interactions: Interactions, key: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """0-based place [E] of each row within its user, sorted by `key`, and that user's number of rows [E]."""
    users = interactions.user_rows
    order = np.lexsort((key, users))
    counts = np.bincount(users, minlength=interactions.n_users)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    position = np.empty(len(users), dtype=np.int64)
    position[order] = np.arange(len(users)) - starts[users[order]]
    return position, counts[users]


def cold_items(counts: NDArray[np.int64], config: SplitConfig) -> NDArray[np.bool_]:
    """Which items [I] are made cold, by their numbers of choices [I]: of the chosen ones, the share rounded
    down and at least one, the least chosen or drawn.
    """
    chosen = np.flatnonzero(counts)
    number = min(max(1, int(len(chosen) * config.cold_share)), len(chosen) - 1)
    if config.cold_by == "random":
        order = np.random.default_rng([config.seed, 1]).permutation(len(chosen))
    else:
        order = np.argsort(counts[chosen], kind="stable")
    cold = np.zeros(len(counts), dtype=np.bool_)
    cold[chosen[order[:number]]] = True
    return cold


def held_sizes(length: NDArray[np.int64], config: SplitConfig) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Test and validation rows of a user with `length` rows.

    random: the share rounded down, at least one, and train keeps at least one. mmrec: one each below 10 rows;
    from there a fifth rounded down, its smaller half for validation. leave_last_out: one each. A user with
    fewer than 3 rows keeps them in train.
    """
    if config.method in {"mmrec", "leave_last_out"}:
        fifth = length // 5 if config.method == "mmrec" else 0 * length
        test = np.where(fifth < 2, 1, fifth - fifth // 2)
        valid = np.where(fifth < 2, 1, fifth // 2)
        return np.where(length < 3, 0, test), np.where(length < 3, 0, valid)
    test = (
        np.minimum(np.maximum(1, np.floor(length * config.test_share)), length - 2)
        if config.test_share
        else 0 * length
    )
    room = length - test - 1
    valid = (
        np.minimum(np.maximum(1, np.floor(length * config.valid_share)), room)
        if config.valid_share
        else 0 * length
    )
    short = length < 3
    return np.where(short, 0, test).astype(np.int64), np.where(short, 0, valid).astype(np.int64)


def _by_random(interactions: Interactions, config: SplitConfig) -> NDArray[np.int8]:
    shuffled = np.random.default_rng(config.seed).permutation(len(interactions))
    return _held_first(interactions, shuffled, config)


def _held_first(interactions: Interactions, key: NDArray[np.int64], config: SplitConfig) -> NDArray[np.int8]:
    """Each user's rows in the order of `key` [E]: first those of test, then of validation, then of train."""
    position, length = _place_in_user(interactions, key)
    test, valid = held_sizes(length, config)
    return np.where(position < test, TEST, np.where(position < test + valid, VALID, TRAIN)).astype(np.int8)


def _by_label(interactions: Interactions, config: SplitConfig) -> NDArray[np.int8]:
    if interactions.labels is None:
        raise needs("label", config)
    assigned = np.full(len(interactions), DROPPED, dtype=np.int8)
    for part, values in (
        (TRAIN, config.train_labels),
        (VALID, config.valid_labels),
        (TEST, config.test_labels),
    ):
        assigned[np.isin(interactions.labels, values)] = part
    if not (assigned == VALID).any() and config.valid_share:
        rows = np.flatnonzero(assigned == TRAIN)
        carve = carving(config)
        assigned[rows] = _by_random(interactions.take(rows), carve)
    return assigned


def carving(config: SplitConfig) -> SplitConfig:
    """How validation is taken from rows labelled train, where no label means validation."""
    return config.model_copy(update={"method": "random", "test_share": 0.0})


def _by_last(interactions: Interactions, config: SplitConfig) -> NDArray[np.int8]:
    _times(interactions, config)
    rank = np.empty(len(interactions), dtype=np.int64)
    rank[interactions.chronological()[::-1]] = np.arange(len(interactions))
    return _held_first(interactions, rank, config)


def _by_date(interactions: Interactions, config: SplitConfig) -> NDArray[np.int8]:
    times = _times(interactions, config)
    ordered = np.sort(times)
    assigned = np.full(len(times), TRAIN, dtype=np.int8)
    # A cut is a moment, not a row number: rows of one moment go together, or the future would leak into the
    # past.
    for part, cut in date_cuts(len(times), config):
        assigned[times >= ordered[cut]] = part
    return assigned


def date_cuts(n: int, config: SplitConfig) -> list[tuple[int, int]]:
    """Validation and test with the place, among n rows in order of time, of the first of their rows."""
    shares = ((VALID, config.valid_share + config.test_share), (TEST, config.test_share))
    cuts = [(part, int(n * (1 - share))) for part, share in shares if share]
    return [(part, cut) for part, cut in cuts if cut < n]


def _times(interactions: Interactions, config: SplitConfig) -> NDArray[np.int64]:
    if interactions.timestamps is None:
        raise needs("timestamp", config)
    return interactions.timestamps


def needs(column: str, config: SplitConfig) -> InvalidData:
    """The error of a method without the column it goes by."""
    return InvalidData(
        "D207",
        f"a {config.method} split needs a {column} column",
        next_step=f"name it in the columns: {column}: ..., or use method: random",
    )


def check_parts(sizes: Mapping[str, int], labels: Sequence[str], config: SplitConfig) -> None:
    """Raise InvalidData D206 for a part without a row that the configuration does not leave out."""
    fixed = config.method in {"leave_last_out", "mmrec"}
    optional = {
        "train": False,
        "valid": not fixed and config.valid_share == 0,
        "test": config.method in {"random", "global_time"} and config.test_share == 0,
    }
    for name, size in sizes.items():
        if not size and not optional[name]:
            found = "" if not labels else f"; labels found: {', '.join(labels[:10])}"
            raise InvalidData(
                "D206",
                f"the {name} split is empty",
                where=f"method {config.method}, {sum(sizes.values())} interactions",
                why=", ".join(f"{key} {value}" for key, value in sizes.items()) + found,
                next_step=f"change the shares or labels, or set {name}_share: 0 if none is wanted",
            )


METHODS: dict[str, Callable[[Interactions, SplitConfig], NDArray[np.int8]]] = {
    "label": _by_label,
    "random": _by_random,
    "mmrec": _by_random,
    "leave_last_out": _by_last,
    "global_time": _by_date,
}
