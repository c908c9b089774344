"""Which item a row of a matrix belongs to, where the matrix does not say it: lists, tables, a mapping."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from extract.errors import InvalidData, UnsafeInput
from extract.faults import describe
from extract.tables import READERS, read_columns


def existing(path: Path) -> Path:
    """The path of a file that is there; UnsafeInput U401 otherwise."""
    if not path.is_file():
        raise UnsafeInput("U401", "the file is not there", where=str(path), next_step="correct the path")
    return path


def read_ids(path: Path, column: str, row_column: str | None) -> list[str]:
    """The ids of rows 0, 1, 2 ... from a .txt, .json or .npy list, or from a table.

    Args:
        path: the file.
        column: a table's column of ids.
        row_column: a table's column of row numbers; None: its rows are in order.

    Raises:
        UnsafeInput: the file is missing or of an unknown kind.
        InvalidData: it cannot be read, or the row numbers are not 0, 1, 2 ... once each.
    """
    existing(path)
    try:
        if path.suffix == ".txt":
            with path.open(encoding="utf-8-sig") as lines:
                return [line.rstrip("\n") for line in lines]
        if path.suffix == ".json":
            return [str(item_id) for item_id in json.loads(path.read_text(encoding="utf-8"))]
        if path.suffix == ".npy":
            return [str(item_id) for item_id in np.load(path, allow_pickle=False)]
        if _is_tabbed_csv(path):
            with path.open(encoding="utf-8-sig", newline="") as file:
                found = list(csv.DictReader(file, delimiter="\t"))
            ids = [row[column] for row in found]
            numbers = None if row_column is None else [row[row_column] for row in found]
        elif path.name.removesuffix(".gz").rsplit(".", 1)[-1] in READERS:
            table = read_columns(path, [column, *([row_column] if row_column else [])], ids=[column])
            ids = table[column].to_pylist()
            numbers = None if row_column is None else table[row_column].to_pylist()
        else:
            raise UnsafeInput("U405", "unknown kind of id file", where=str(path))
    except (ValueError, KeyError, OSError, TypeError) as error:
        raise InvalidData("D124", "the ids cannot be read", where=str(path), why=describe(error)) from error
    return ids if numbers is None else _in_row_order(ids, numbers, path)


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
        raise InvalidData("D124", what, where=str(path), why=describe(error)) from error
    if wrong := [row for row in rows if not 0 <= row < n_rows]:
        what = f"row {wrong[0]} is not among the {n_rows:,} rows, which count from 0"
        raise InvalidData("D124", what, where=str(path))
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
        raise InvalidData(
            "D124", "row numbers must be 0, 1, 2 ... once each", where=str(path), why=f"{len(ids)} rows"
        )
    return [by_row[str(row)] for row in range(len(ids))]
