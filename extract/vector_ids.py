"""Which item a row of a matrix belongs to, where the matrix does not say it: lists, tables, a mapping."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.errors import CatalographError, InvalidData, UnsafeInput
from extract.faults import describe, is_out_of_memory
from extract.tables import READERS, read_columns

KINDS = ".txt, .json, .npy, " + ", ".join(f".{name}" for name in READERS)

IDS_STEP = "write the ids as text, one for each row, or name their column as `id_column`"
ROWS_STEP = "number the rows from 0, each once"


def existing(path: Path) -> Path:
    """The path of a file that is there; UnsafeInput U401 otherwise."""
    if not path.is_file():
        raise UnsafeInput("U401", "the file is not there", where=str(path), next_step="correct the path")
    return path


@contextmanager
def parsing(path: Path, code: str, what: str, next_step: str) -> Iterator[None]:
    """Tells whatever a parser raises about a file as InvalidData with this code.

    Raises:
        InvalidData: something inside the block failed for another reason than memory.
    """
    try:
        yield
    except CatalographError:
        raise
    except Exception as error:
        # Each parser has its own types, and RecursionError, EOFError and OverflowError are among them.
        if is_out_of_memory(error):
            raise
        raise InvalidData(code, what, where=str(path), why=describe(error), next_step=next_step) from error


def read_ids(path: Path, column: str, row_column: str | None) -> list[str]:
    """The ids of rows 0, 1, 2 ... from a .txt, .json or .npy list, or from a table.

    Args:
        path: the file.
        column: a table's column of ids.
        row_column: a table's column of row numbers; None: its rows are in order.

    Raises:
        UnsafeInput: the file is missing or of an unknown kind.
        InvalidData: it cannot be read, holds something else than ids, or the row numbers are not
            0, 1, 2 ... once each.
    """
    with parsing(existing(path), "D124", "the ids cannot be read", IDS_STEP):
        ids, numbers = _read(path, column, row_column)
    return ids if numbers is None else _in_row_order(ids, numbers, path)


def _read(path: Path, column: str, row_column: str | None) -> tuple[list[str], list[Any] | None]:
    if path.suffix == ".txt":
        with path.open(encoding="utf-8-sig") as lines:
            return [line.rstrip("\n") for line in lines], None
    if path.suffix == ".json":
        return _listed(json.loads(path.read_text(encoding="utf-8-sig"))), None
    if path.suffix == ".npy":
        # Mapped, so that a header that lies about its size reserves nothing.
        return _of_array(np.lib.format.open_memmap(path, mode="r")), None
    if _is_tabbed_csv(path):
        with path.open(encoding="utf-8-sig", newline="") as file:
            found = list(csv.DictReader(file, delimiter="\t"))
        ids = [row[column] for row in found]
        if None in ids:
            raise ValueError(f"line {ids.index(None) + 2} ends before the column `{column}`")
        return ids, None if row_column is None else [row[row_column] for row in found]
    if path.name.removesuffix(".gz").rsplit(".", 1)[-1] in READERS:
        table = read_columns(path, [column, *([row_column] if row_column else [])], ids=[column])
        return table[column].to_pylist(), None if row_column is None else table[row_column].to_pylist()
    raise UnsafeInput(
        "U405", "unknown kind of id file", where=str(path), next_step=f"convert it to one of {KINDS}"
    )


def _listed(found: Any) -> list[str]:
    # An object is a list of its keys to Python, in an order that says nothing; a string one of its letters.
    if not isinstance(found, list):
        raise ValueError(f"expected a list of ids, found {type(found).__name__}")
    for item_id in found:
        if not isinstance(item_id, (str, int)) or isinstance(item_id, bool):
            raise ValueError(f"ids are text or whole numbers, found {type(item_id).__name__}")
    return [str(item_id) for item_id in found]


def _of_array(found: NDArray[Any]) -> list[str]:
    if found.ndim != 1:
        raise ValueError("expected a list of ids, found an array of another shape")
    if found.dtype.kind not in "iuUS":
        raise ValueError(f"ids are text or whole numbers, found {found.dtype}")
    return [value.decode() if isinstance(value, bytes) else str(value) for value in found.tolist()]


def read_row_numbers(path: Path, n_rows: int) -> list[int]:
    """Row numbers from 0, one a line.

    Raises:
        UnsafeInput: the file is missing.
        InvalidData: a line is not the number of one of the ``n_rows`` rows.
    """
    existing(path)
    try:
        rows = [int(line) for line in path.read_text(encoding="utf-8-sig").split()]
    except ValueError as error:
        what = "row numbers must be whole, one a line"
        raise InvalidData(
            "D124", what, where=str(path), why=describe(error), next_step="remove headings and fractions"
        ) from error
    if wrong := [row for row in rows if not 0 <= row < n_rows]:
        what = f"row {wrong[0]} is not among the {n_rows:,} rows, which count from 0"
        raise InvalidData("D124", what, where=str(path), next_step="give the list that belongs to this file")
    return rows


def _is_tabbed_csv(path: Path) -> bool:
    # MMRec writes tabs into files named .csv.
    if path.suffix != ".csv":
        return False
    with path.open(encoding="utf-8-sig") as file:
        return "\t" in file.readline()


def _in_row_order(ids: Sequence[str], numbers: Sequence[str], path: Path) -> list[str]:
    # Compared as text, so that "1.0", "x" and an empty number are refused and not read as something.
    by_row = dict(zip(map(str, numbers), ids, strict=True))
    if by_row.keys() != {str(row) for row in range(len(ids))}:
        what = "row numbers must be 0, 1, 2 ... once each"
        raise InvalidData("D124", what, where=str(path), why=f"{len(ids)} rows", next_step=ROWS_STEP)
    return [by_row[str(row)] for row in range(len(ids))]
