"""A duckdb database of one task: what is asked of it, in few words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from duckdb.func import PythonUDFType
from numpy.typing import NDArray


class Database:
    """A connection; `threads` 2 and all that does not fit in the limit of memory go to `folder`.

    It opens files in `folder` and `reads`, and nothing else: no other file, no address, no extension from
    the network.
    """

    def __init__(self, folder: str, memory_gib: float, reads: Path) -> None:
        self._connection = duckdb.connect(
            f"{folder}/work.duckdb",
            config={
                "memory_limit": f"{memory_gib}GiB", "temp_directory": folder, "threads": 2,
                "autoinstall_known_extensions": False, "autoload_known_extensions": False,
            },
        )  # fmt: skip
        allowed = {"allowed_directories": folder, "allowed_paths": str(reads)}
        for setting, path in allowed.items():
            self.do(f"SET {setting} = ['{path.replace(chr(39), chr(39) * 2)}']")
        self.do("SET enable_external_access = false")
        self.do("SET lock_configuration = true")

    def close(self) -> None:
        """Let go of the files."""
        self._connection.close()

    def give(self, name: str, table: Any) -> None:
        """Make an Arrow table or reader known under a name."""
        self._connection.register(name, table)

    def give_function(self, name: str, function: Any, takes: Any, gives: Any) -> None:
        """Make a function from an Arrow array to another known under a name."""
        self._connection.create_function(name, function, [takes], gives, type=PythonUDFType.ARROW)

    @contextmanager
    def function(self, name: str, function: Any, takes: Any, gives: Any) -> Iterator[None]:
        """Know a function from an Arrow array to another under a name, as long as this lasts."""
        self._connection.create_function(name, function, [takes], gives, type=PythonUDFType.ARROW)
        try:
            yield
        finally:
            self._connection.remove_function(name)

    def do(self, statement: str) -> None:
        """Run a statement."""
        self._connection.execute(statement)

    def rows(self, query: str) -> list[Any]:
        """All rows, as tuples."""
        return self._connection.execute(query).fetchall()

    def one(self, query: str) -> int:
        """The only number."""
        return int(self.rows(query)[0][0])

    def table(self, query: str) -> pa.Table:
        """All rows, as an Arrow table."""
        return self._connection.sql(query).to_arrow_table()

    def reader(self, query: str, rows: int) -> pa.RecordBatchReader:
        """The rows, some at a time."""
        return self._connection.sql(query).to_arrow_reader(rows)

    def counts(self, query: str, size: int) -> NDArray[np.int64]:
        """An array [size] of the numbers n at the places code, 0 elsewhere."""
        found = self.table(query)
        counts = np.zeros(size, dtype=np.int64)
        counts[found["code"].to_numpy()] = found["n"].to_numpy()
        return counts

    def give_codes(self, name: str, there: NDArray[np.bool_]) -> None:
        """Make the places where `there` is true known as a table with the column code."""
        self.give(name, pa.table({"code": np.flatnonzero(there).astype(np.int32)}))
