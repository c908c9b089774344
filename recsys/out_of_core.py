"""Preparing more interactions than memory holds: the steps of `recsys.prepare` as SQL, by duckdb on disk.

What comes out is the same, byte for byte: random orders are drawn by numpy, in the same way, and sizes, cuts
and cold items by the functions of `recsys.split`. Only numbers reach the sorts: ids are exchanged for them
while reading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from extract.errors import CatalographError, InvalidData, ResourceExhausted
from recsys.axes import axis_of
from recsys.columns import ReadCounts, no_pair_left, numbers, texts, times, unknown_items
from recsys.database import Database
from recsys.filters import FilterCounts, core, nothing_left
from recsys.interaction_files import read_batches
from recsys.overview import Tally
from recsys.pair_files import write_pairs
from recsys.plan import Plan, Prepared
from recsys.split import DROPPED, TEST, TRAIN, VALID, check_parts
from recsys.split_on_disk import SplitOnDisk

ROWS = 1 << 17
"""Rows that leave the database at a time."""
NUMBER = {TRAIN: "train", VALID: "valid", TEST: "test"}


def prepare_on_disk(plan: Plan, target: Callable[[str], Path], scratch: Path, memory_gib: float) -> Prepared:
    """Write the files of all parts with at most `memory_gib` GiB for duckdb; the process needs some 0.3 GiB
    beside, and the two axes several times over.

    Raises:
        ResourceExhausted: R603, the memory or the disk below `scratch` does not suffice.
        Others as the same steps in memory.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="prepare-", dir=scratch))
        steps: _Steps | None = None
        try:
            database = Database(folder, memory_gib, reads=plan.path)
            stack.callback(database.close)
            steps = _Steps(plan, database)
            return steps.run(target)
        except (duckdb.OutOfMemoryException, duckdb.IOException) as problem:
            raise ResourceExhausted(
                "R603",
                "the interactions cannot be prepared within the memory and disk there are",
                where=str(scratch),
                why=str(problem).partition("\n")[0],
                next_step="raise data.memory_gib, or make room on this disk",
            ) from problem
        except duckdb.Error as problem:
            # What went wrong while a file was read comes back in words of the database.
            if steps is not None and steps.unread is not None:
                raise steps.unread from problem
            why = str(problem).partition("\n")[0]
            raise InvalidData(
                "D201", "the interaction file cannot be parsed", where=str(plan.path), why=why
            ) from problem


class _Steps:
    def __init__(self, plan: Plan, database: Database) -> None:
        self.plan = plan
        self.items = axis_of(plan.item_ids)
        columns = plan.columns
        self.extra = [
            name
            for name, column in (("t", columns.timestamp), ("w", columns.weight), ("l", columns.label))
            if column is not None
        ]
        """Columns beside the pair: t time, w weight, l label."""
        self.all = ", ".join(["user", "item", "n", *self.extra])
        self._db = database
        self.unread: CatalographError | None = None
        """Why the file could not be read to its end."""

    def run(self, target: Callable[[str], Path]) -> Prepared:
        """All steps in order."""
        self._read()
        counts = self._choose()
        filtered = self._filter()
        users, row_of = self._user_axis()
        SplitOnDisk(self._db, self.plan.split, self.extra, len(self.items)).assign()
        found = "SELECT DISTINCT l FROM kept ORDER BY l LIMIT 10"
        labels = [str(row[0]) for row in self._db.rows(found)] if "l" in self.extra else []
        tally = Tally(len(users), len(self.items))
        sizes = dict(
            self._db.rows(f"SELECT part, count(*) FROM assigned WHERE part <> {DROPPED} GROUP BY part")
        )
        check_parts({NUMBER[part]: sizes.get(part, 0) for part in NUMBER}, labels, self.plan.split)
        for part, name in NUMBER.items():
            write_pairs(target(name), users, self.items, self._chunks(part, row_of, tally))
        return Prepared(counts, filtered, users, tally)

    def _read(self) -> None:
        """`raw`: the rows of the file by number n, with codes of users and rows of items (null: none)."""
        ids = pa.table({
            "item": pa.array(self.items.tolist(), pa.string()),
            "row": np.arange(len(self.items)),
        })
        self._db.give("given_items", ids)
        self._db.do("CREATE TABLE items AS SELECT item, CAST(row AS INTEGER) AS row FROM given_items")
        self._db.do(
            "CREATE TABLE users AS SELECT user, CAST(row_number() OVER () - 1 AS INTEGER) AS code "
            f"FROM (SELECT DISTINCT user FROM {self._source()} WHERE user <> '')"
        )
        extra = "".join(f", {name}" for name in self.extra)
        self._db.do(
            f"CREATE TABLE raw AS SELECT n, code AS user, row AS item, s.item <> '' AS given{extra} "
            f"FROM {self._source()} s LEFT JOIN users ON s.user = users.user "
            "LEFT JOIN items ON s.item = items.item"
        )

    def _source(self) -> str:
        """What to select n, user, item and the extra columns from, in any order of rows."""
        if native := self._native():
            return native
        kinds = {"t": pa.int64(), "w": pa.float32(), "l": pa.string()}
        fields = {"n": pa.int64(), "user": pa.string(), "item": pa.string()}
        schema = pa.schema(fields | {name: kinds[name] for name in self.extra})
        self._db.give("source", pa.RecordBatchReader.from_batches(schema, self._batches(schema)))
        return "source"

    def _batches(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        try:
            yield from self._made(schema)
        except CatalographError as error:
            self.unread = error
            raise

    def _made(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        columns, path, n = self.plan.columns, self.plan.path, 0
        for batch in read_batches(path, columns.named()):
            made: dict[str, Any] = {"n": np.arange(n, n + len(batch))}
            for name, column in (("user", columns.user), ("item", columns.item)):
                made[name] = batch[column].cast(pa.string()).fill_null("")
            if columns.timestamp is not None:
                made["t"] = times(batch[columns.timestamp], columns.timestamp, path)
            if columns.weight is not None:
                made["w"] = numbers(batch[columns.weight], columns.weight, path)
            if columns.label is not None:
                made["l"] = batch[columns.label].cast(pa.string()).fill_null("")
            n += len(batch)
            yield pa.RecordBatch.from_pydict(made, schema=schema)

    def _native(self) -> str:
        """Parquet with ids of text or whole numbers, and whole times: duckdb reads it, on all threads."""
        columns, path = self.plan.columns, self.plan.path
        if path.suffix != ".parquet" or columns.weight is not None or columns.label is not None:
            return ""
        if set(str(path)) & set("*?[]{}"):
            return ""  # The database would take the name for a pattern.
        try:
            schema = pq.read_schema(path)
        except (pa.ArrowException, OSError):
            return ""  # The other way tells what is wrong with it.
        if not set(columns.named()) <= set(schema.names):
            return ""
        for name in columns.named():
            kind = schema.field(name).type
            if not (pa.types.is_integer(kind) or (pa.types.is_string(kind) and name != columns.timestamp)):
                return ""
        chosen = ["file_row_number AS n"]
        for name, alias in ((columns.user, "user"), (columns.item, "item")):
            chosen.append(f"coalesce(CAST({_quoted(name)} AS VARCHAR), '') AS {alias}")
        if columns.timestamp is not None:
            chosen.append(f"CAST({_quoted(columns.timestamp)} AS BIGINT) AS t")
        file = str(path).replace("'", "''")
        return f"(SELECT {', '.join(chosen)} FROM read_parquet('{file}', file_row_number = true))"

    def _choose(self) -> ReadCounts:
        """`kept`: the first row of every pair whose item is known."""
        if "t" in self.extra and self._db.one("SELECT count(*) FROM raw WHERE t IS NULL"):
            times(pa.array([None], pa.int64()), str(self.plan.columns.timestamp), self.plan.path)
        n_in, empty, unknown = self._db.rows(
            "SELECT count(*), count(*) FILTER (WHERE NOT (given AND user IS NOT NULL)), "
            "count(*) FILTER (WHERE given AND user IS NOT NULL AND item IS NULL) FROM raw"
        )[0]
        missing = self._missing() if unknown else []
        where = str(self.plan.path)
        if unknown and self.plan.unknown == "error":
            raise unknown_items(unknown, missing, where)
        firsts = "".join(f", arg_min({name}, n) AS {name}" for name in self.extra)
        self._db.do(
            f"CREATE TABLE kept AS SELECT user, item, min(n) AS n{firsts} FROM raw "
            "WHERE user IS NOT NULL AND item IS NOT NULL GROUP BY user, item"
        )
        kept = self._db.one("SELECT count(*) FROM kept")
        conflicts = 0
        if "l" in self.extra:
            conflicts = self._db.one(
                "SELECT count(*) FROM raw JOIN kept USING (user, item) WHERE raw.l <> kept.l"
            )
        self._db.do("DROP TABLE raw")
        counts = ReadCounts(
            n_in, kept, unknown, n_in - empty - unknown - kept, empty, tuple(missing[:5]), conflicts
        )
        if not kept:
            raise no_pair_left(counts, where)
        return counts

    def _missing(self) -> list[str]:
        found = self._db.rows(
            f"SELECT s.item FROM {self._source()} s WHERE user <> '' AND item <> '' "
            "AND item NOT IN (SELECT item FROM items) GROUP BY s.item ORDER BY min(n)"
        )
        return [str(row[0]) for row in found]

    def _filter(self) -> FilterCounts:
        """Takes out of `kept` whom and what the filter takes out."""
        config = self.plan.filter
        if config.does_nothing:
            return FilterCounts()
        n_codes = self._db.one("SELECT count(*) FROM users")

        def count(
            users: NDArray[np.bool_] | None, items: NDArray[np.bool_] | None
        ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
            there = "" if users is None or items is None else f"WHERE {self._among(users, items)}"
            return self._counts("user", n_codes, there), self._counts("item", len(self.items), there)

        before = count(None, None)
        users, items, rounds = core(config, count)
        self._db.do(f"CREATE TABLE enough AS SELECT * FROM kept WHERE {self._among(users, items)}")
        self._db.do("DROP TABLE kept")
        self._db.do("ALTER TABLE enough RENAME TO kept")
        after = count(None, None)
        if not after[0].any():
            raise nothing_left(config, int(before[0].sum()))
        lost_users, lost_items = (
            int((b > 0).sum() - (a > 0).sum()) for b, a in zip(before, after, strict=True)
        )
        return FilterCounts(lost_users, lost_items, int(before[0].sum() - after[0].sum()), rounds)

    def _among(self, users: NDArray[np.bool_], items: NDArray[np.bool_]) -> str:
        """The condition that a row is of these users and items."""
        self._db.give_codes("of_users", users)
        self._db.give_codes("of_items", items)
        return "user IN (SELECT code FROM of_users) AND item IN (SELECT code FROM of_items)"

    def _counts(self, side: str, size: int, where: str = "") -> NDArray[np.int64]:
        return self._db.counts(f"SELECT {side} AS code, count(*) AS n FROM kept {where} GROUP BY 1", size)

    def _user_axis(self) -> tuple[NDArray[np.str_], NDArray[np.int32]]:
        """The users that are left, sorted by id, and the row of each code among them."""
        left = self._db.table(
            "SELECT user, code FROM users WHERE code IN (SELECT user FROM kept) ORDER BY user"
        )
        codes = left["code"].to_numpy()
        row_of = np.zeros(codes.max() + 1, dtype=np.int32)
        row_of[codes] = np.arange(len(codes), dtype=np.int32)
        return texts(left["user"]), row_of

    def _chunks(
        self, part: int, row_of: NDArray[np.int32], tally: Tally
    ) -> Iterator[Mapping[str, NDArray[Any]]]:
        """The rows of a part in the order of the file, as `write_pairs` takes them, counted on the way."""
        query, given = f"SELECT {self.all} FROM assigned WHERE part = {part} ORDER BY n", False
        for batch in self._db.reader(query, ROWS):
            columns: dict[str, NDArray[Any]] = {
                "user_rows": row_of[batch["user"].to_numpy()],
                "item_rows": batch["item"].to_numpy(),
            }
            moments = batch["t"].to_numpy() if "t" in self.extra else None
            tally.add(NUMBER[part], columns["user_rows"], columns["item_rows"], moments)
            if moments is not None and self.plan.keeps_times:
                columns["timestamps"] = moments
            if "w" in self.extra:
                columns["weights"] = batch["w"].to_numpy()
            if "l" in self.extra:
                columns["labels"] = texts(batch["l"])
            given = True
            yield columns
        if not given:
            yield self._no_rows()

    def _no_rows(self) -> Mapping[str, NDArray[Any]]:
        kinds: dict[str, Any] = {"user_rows": np.int32, "item_rows": np.int32}
        if "t" in self.extra and self.plan.keeps_times:
            kinds["timestamps"] = np.int64
        kinds |= {"weights": np.float32} if "w" in self.extra else {}
        kinds |= {"labels": np.str_} if "l" in self.extra else {}
        return {name: np.zeros(0, dtype=kind) for name, kind in kinds.items()}


def _quoted(name: str | None) -> str:
    return '"' + str(name).replace('"', '""') + '"'
