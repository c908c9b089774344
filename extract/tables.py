"""Columns of a CSV, Parquet or JSON-lines file as Arrow strings: ids stay the text they were."""

from __future__ import annotations

import csv
import difflib
import gzip
import json
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.csv

from extract.errors import InvalidData, UnsafeInput
from extract.faults import describe


def read_columns(path: Path, names: Sequence[str], ids: Sequence[str] = ()) -> pa.Table:
    """The named columns of a table file, each as a string column without nulls (a null becomes "").

    Lists become their parts joined by newlines, numbers their shortest text, objects JSON. Formats by name:
    .csv, .tsv, .jsonl, each also with .gz, and .parquet.

    Args:
        path: the file.
        names: columns wanted, in the order wanted.
        ids: those of them that identify something: floating-point values are refused there.

    Raises:
        UnsafeInput: the file is missing or of an unknown kind.
        InvalidData: a column is missing, or the file cannot be parsed.
    """
    path, names = Path(path), list(dict.fromkeys(names))
    if not path.is_file():
        raise UnsafeInput("U401", "the file is not there", where=str(path), next_step="correct the path")
    kind = path.name.removesuffix(".gz").rsplit(".", 1)[-1].lower()
    if kind not in READERS or (kind == "parquet" and path.suffix == ".gz"):
        known = ", ".join(f".{name}" for name in READERS)
        raise UnsafeInput(
            "U403", "unknown kind of table", where=str(path), why=f"known: {known}, text ones also .gz"
        )
    try:
        table = READERS[kind](path, names)
    except (pa.ArrowException, UnicodeDecodeError, OSError, EOFError, zlib.error, csv.Error) as error:
        raise InvalidData("D104", "the table cannot be read", where=str(path), why=describe(error)) from error
    for name in ids:
        if pa.types.is_floating(table[name].type):
            raise InvalidData(
                "D105",
                f"ids in column `{name}` are floating-point numbers",
                where=str(path),
                why="leading zeros or missing values were lost when the file was written",
                next_step="write the column as text",
            )
    return pa.table({name: as_strings(table[name]) for name in names})


def _opened(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _read_delimited(path: Path, names: Sequence[str], delimiter: str) -> pa.Table:
    with _opened(path) as file:
        header = next(csv.reader(file, delimiter=delimiter), [])
    check_columns(path, names, header)
    return pa.csv.read_csv(
        path,
        parse_options=pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pa.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), include_columns=names, strings_can_be_null=False
        ),
    )


def _read_csv(path: Path, names: Sequence[str]) -> pa.Table:
    return _read_delimited(path, names, ",")


def _read_tsv(path: Path, names: Sequence[str]) -> pa.Table:
    return _read_delimited(path, names, "\t")


def _read_parquet(path: Path, names: Sequence[str]) -> pa.Table:
    check_columns(path, names, pa.parquet.read_schema(path).names)
    return pa.parquet.read_table(path, columns=list(names))


def _read_jsonl(path: Path, names: Sequence[str]) -> pa.Table:
    columns: dict[str, list[str | None]] = {name: [] for name in names}
    seen: dict[str, None] = {}
    for number, row in _json_rows(path):
        seen.update(dict.fromkeys(row))
        for name in names:
            text = as_text(row.get(name))
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise _bad_line(path, number, f"column `{name}`: {error.reason}") from error
            columns[name].append(text)
    check_columns(path, names, list(seen))
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise _bad_line(path, number, describe(error)) from error
            if not isinstance(row, dict):
                raise _bad_line(path, number, f"expected an object, found {type(row).__name__}")
            yield number, row


def _bad_line(path: Path, number: int, why: str) -> InvalidData:
    return InvalidData(
        "D104", f"line {number} is not a usable JSON object", where=f"{path} line {number}", why=why
    )


READERS: dict[str, Callable[[Path, Sequence[str]], pa.Table]] = {
    "csv": _read_csv,
    "tsv": _read_tsv,
    "parquet": _read_parquet,
    "jsonl": _read_jsonl,
}


def check_columns(path: Path, wanted: Sequence[str], found: Sequence[str]) -> None:
    """Raise InvalidData naming every wanted column that is not found, with the nearest name beside it."""
    missing = [name for name in wanted if name not in found]
    if not missing:
        return
    hints = [(name, difflib.get_close_matches(name, found, n=1)) for name in missing]
    raise InvalidData(
        "D103",
        "; ".join(
            f"no column `{name}`" + (f", did you mean `{near[0]}`?" if near else "") for name, near in hints
        ),
        where=str(path),
        why=f"columns found: {', '.join(found) or 'none'}",
        next_step="name the columns of this file in the `columns` part of the configuration",
    )


def as_strings(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column as strings without nulls."""
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind):
        return column.cast(pa.string()).fill_null("")
    return pa.chunked_array([pa.array([as_text(value) for value in column.to_pylist()], pa.string())])


def as_text(value: Any) -> str:
    """One value as text: None and NaN are empty, lists are joined by newlines, objects become JSON."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        return "\n".join(text for text in map(as_text, value) if text)
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
    return str(value)
