"""The methods of `recsys.split` as SQL over a table `kept` of numbered pairs: equal rows to equal parts.

Random orders are drawn by numpy, as there; sizes, cuts and cold items come from its functions.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from recsys.database import Database
from recsys.split import (
    DROPPED,
    TEST,
    TRAIN,
    VALID,
    SplitConfig,
    carving,
    cold_items,
    date_cuts,
    held_sizes,
    needs,
)

ROWS = 1 << 17
"""Rows that leave the database at a time."""


class SplitOnDisk:
    """Divides `kept` (user, item, n and of the columns t, l, w those in `extra`) of `n_items` items."""

    def __init__(self, database: Database, split: SplitConfig, extra: list[str], n_items: int) -> None:
        self._db, self.split, self.extra, self.n_items = database, split, extra, n_items
        self.all = ", ".join(["user", "item", "n", *extra])

    def assign(self) -> None:
        """`assigned`: the rows of `kept` with their part."""
        method = self.split.method
        for column, name in (("timestamp", "t"), ("label", "l")):
            needed = {"timestamp": ("leave_last_out", "global_time"), "label": ("label",)}[column]
            if method in needed and name not in self.extra:
                raise needs(column, self.split)
        if method == "label":
            self._by_label()
        elif method == "global_time":
            self._by_date()
        elif method == "leave_last_out":
            self._hold("kept", "t DESC, n DESC", self.split)
        else:
            self._hold_at_random("kept", self.split)
        if self.split.cold_share:
            query = "SELECT item AS code, count(*) AS n FROM kept GROUP BY item"
            counts = self._db.counts(query, self.n_items)
            cold = cold_items(counts, self.split)
            self._db.give_codes("cold", cold)
            self._db.do(
                f"UPDATE assigned SET part = {TEST} "
                f"WHERE part <> {DROPPED} AND item IN (SELECT code FROM cold)"
            )

    def _by_label(self) -> None:
        named = (
            (TRAIN, self.split.train_labels),
            (VALID, self.split.valid_labels),
            (TEST, self.split.test_labels),
        )
        cases = " ".join(f"WHEN l IN ({', '.join(map(_text, values))}) THEN {part}" for part, values in named)
        label = f"SELECT {self.all}, CAST(CASE {cases} ELSE {DROPPED} END AS TINYINT) AS part FROM kept"
        if not self.split.valid_share or self._db.one(f"SELECT count(*) FROM ({label}) WHERE part = {VALID}"):
            self._db.do(f"CREATE TABLE assigned AS {label}")
            return
        self._db.do(f"CREATE TABLE labelled AS {label}")
        self._hold_at_random(f"(SELECT {self.all} FROM labelled WHERE part = {TRAIN})", carving(self.split))
        self._db.do(f"INSERT INTO assigned SELECT * FROM labelled WHERE part <> {TRAIN}")

    def _by_date(self) -> None:
        cases = f"{TRAIN}"
        for part, cut in date_cuts(self._db.one("SELECT count(*) FROM kept"), self.split):
            moment = self._db.one(f"SELECT t FROM kept ORDER BY t LIMIT 1 OFFSET {cut}")
            cases = f"CASE WHEN t >= {moment} THEN {part} ELSE {cases} END"
        self._db.do(f"CREATE TABLE assigned AS SELECT {self.all}, CAST({cases} AS TINYINT) AS part FROM kept")

    def _hold_at_random(self, rows: str, config: SplitConfig) -> None:
        """The order that `recsys.split` draws: one permutation of the rows in the order of the file."""
        there = np.zeros(self._db.one("SELECT max(n) + 1 FROM kept"), dtype=np.bool_)
        for batch in self._db.reader(f"SELECT n FROM {rows}", ROWS):
            there[batch["n"].to_numpy()] = True
        drawn = np.arange(np.count_nonzero(there), dtype=np.int32)
        np.random.default_rng(config.seed).shuffle(drawn)
        # By number, so that the rows need no sort of their own before that of each user's.
        key_of = np.zeros(len(there), dtype=np.int32)
        key_of[there] = drawn
        del there, drawn
        with self._db.function("key_of", lambda n: pa.array(key_of[n.to_numpy()]), "BIGINT", "INTEGER"):
            self._hold(rows, "key_of(n)", config)

    def _hold(self, rows: str, order: str, config: SplitConfig) -> None:
        """Each user's rows in an order: first those of test, then of validation, then of train."""
        longest = self._db.one("SELECT max(c) FROM (SELECT count(*) AS c FROM kept GROUP BY user)")
        test, valid = held_sizes(np.arange(longest + 1), config)
        sizes = {"length": np.arange(longest + 1), "test": test, "held": test + valid}
        self._db.give("sizes", pa.table(sizes))
        self._db.do(
            f"CREATE TABLE assigned AS SELECT {self.all}, CAST(CASE WHEN place <= test THEN {TEST} "
            f"WHEN place <= held THEN {VALID} ELSE {TRAIN} END AS TINYINT) AS part FROM ("
            f"SELECT *, row_number() OVER (PARTITION BY user ORDER BY {order}) AS place, "
            f"count(*) OVER (PARTITION BY user) AS length FROM {rows}) JOIN sizes USING (length)"
        )


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
