"""Files of interactions as they are found in the world, read in batches, in file order.

CSV and TSV, JSON lines, Parquet, RecBole's atomic files (a `.inter` whose header carries types, such as
`user_id:token`), MMRec's `.inter` (the same without types), and folders that `datasets` saved.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from extract.errors import InvalidData, UnsafeInput
from extract.faults import not_installed
from extract.tables import as_text

BATCH = 1 << 17
"""Rows at a time."""
ATOMIC = re.compile(r"(.+):(token|float|token_seq|float_seq)$")
"""A field of RecBole's header: name and type."""
UNREADABLE = (pa.ArrowException, OSError, EOFError, ValueError, csv.Error)
"""What the parsers raise about a file."""
SPLIT = "split"
"""Column made from the names of a `DatasetDict`'s parts, unless they have one of this name."""


def read_batches(path: Path, wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The named columns of an interaction file, in file order, some rows at a time.

    Text formats give text columns. A missing file raises UnsafeInput I201; a missing column, an unknown kind
    of file or one that cannot be parsed raises InvalidData D201.
    """
    reader = READERS[_kind(path)]
    try:
        yield from reader(path, wanted)
    except UNREADABLE as problem:
        raise InvalidData(
            "D201", "the interaction file cannot be parsed", where=str(path), why=str(problem)
        ) from problem


def column_names(path: Path) -> list[str]:
    """The columns of an interaction file, from its beginning; errors as `read_batches`."""
    kind = _kind(path)
    try:
        if kind == "dataset":
            return _dataset_columns(path)
        if kind == "parquet":
            return list(pq.read_schema(path).names)
        if kind == "jsonl":
            return list(next(_json_rows(path), {}))
        return list(_header(path, kind))
    except UNREADABLE as problem:
        raise InvalidData(
            "D201", "the interaction file cannot be parsed", where=str(path), why=str(problem)
        ) from problem


def _kind(path: Path) -> str:
    if path.is_dir():
        return "dataset"
    if not path.is_file():
        raise UnsafeInput("I201", "the interaction file does not exist", where=str(path))
    kind = path.name.removesuffix(".gz").rsplit(".", 1)[-1].lower()
    if kind not in READERS or kind == "dataset" or (kind == "parquet" and path.suffix == ".gz"):
        raise InvalidData(
            "D201",
            "unknown kind of interaction file",
            where=str(path),
            next_step="use .csv, .tsv, .inter, .jsonl (also .gz), .parquet or a folder of datasets",
        )
    return kind


def _read_delimited(path: Path, wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
    kind = _kind(path)
    header = _header(path, kind)
    check_columns(wanted, list(header), path)
    raw = [header[name] for name in wanted]
    batches = pacsv.open_csv(
        pa.input_stream(str(path), compression="detect"),
        read_options=pacsv.ReadOptions(block_size=1 << 22),
        parse_options=pacsv.ParseOptions(delimiter=_delimiter(kind)),
        convert_options=pacsv.ConvertOptions(
            include_columns=raw, column_types=dict.fromkeys(raw, pa.string()), strings_can_be_null=False
        ),
    )
    for batch in batches:
        yield batch.rename_columns(list(wanted))


def _delimiter(kind: str) -> str:
    return "," if kind == "csv" else "\t"


def _header(path: Path, kind: str) -> dict[str, str]:
    """Column name to its field in the file, which RecBole's carries a type."""
    with pa.input_stream(str(path), compression="detect") as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
        fields = next(csv.reader(iter([text.readline()]), delimiter=_delimiter(kind)), [])
    named = {}
    for field in fields:
        typed = ATOMIC.match(field) if kind == "inter" else None
        named[field if typed is None else typed[1]] = field
    return named


def _read_parquet(path: Path, wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        check_columns(wanted, file.schema_arrow.names, path)
        for batch in file.iter_batches(batch_size=BATCH, columns=list(wanted)):
            yield batch.select(list(wanted))


def _read_jsonl(path: Path, wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
    columns: dict[str, list[str]] = {name: [] for name in wanted}
    for number, row in enumerate(_json_rows(path)):
        if number == 0:
            check_columns(wanted, list(row), path)
        for name in wanted:
            columns[name].append(as_text(row.get(name)))
        if number % BATCH == BATCH - 1:
            yield _text_batch(columns)
            columns = {name: [] for name in wanted}
    yield _text_batch(columns)


def _text_batch(columns: dict[str, list[str]]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({name: pa.array(c, pa.string()) for name, c in columns.items()})


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    with pa.input_stream(str(path), compression="detect") as stream:
        for number, line in enumerate(io.TextIOWrapper(stream, encoding="utf-8-sig"), start=1):
            if line.strip():
                try:
                    row = json.loads(line)
                except RecursionError as problem:
                    raise ValueError(f"line {number}: nested too deeply") from problem
                if not isinstance(row, dict):
                    raise ValueError(f"line {number}: expected an object, found {type(row).__name__}")
                yield row


def _read_dataset(path: Path, wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
    try:
        import datasets
    except ImportError as error:
        raise not_installed(error, "datasets") from error
    check_columns(wanted, _dataset_columns(path), path)
    loaded = datasets.load_from_disk(str(path))
    parts = loaded.items() if isinstance(loaded, datasets.DatasetDict) else [("", loaded)]
    for split, part in parts:
        own = [name for name in wanted if name in part.column_names]
        for table in part.select_columns(own).with_format("arrow").iter(batch_size=BATCH):
            columns = {name: table[name].combine_chunks() for name in own}
            if len(own) < len(wanted):
                columns[SPLIT] = pa.array([split] * len(table), pa.string())
            yield pa.RecordBatch.from_pydict({name: columns[name] for name in wanted})


def _dataset_columns(path: Path) -> list[str]:
    """Told by the folder's own records, so that nothing is loaded to check a configuration."""
    whole = path / "dataset_dict.json"
    parts = json.loads(whole.read_text())["splits"] if whole.is_file() else []
    card = path / (parts[0] if parts else "") / "dataset_info.json"
    if not card.is_file():
        raise ValueError("the folder holds no dataset_info.json: give one that datasets' save_to_disk wrote")
    names = list(json.loads(card.read_text())["features"])
    return [*names, SPLIT] if parts and SPLIT not in names else names


READERS: dict[str, Callable[[Path, Sequence[str]], Iterator[pa.RecordBatch]]] = {
    "csv": _read_delimited,
    "tsv": _read_delimited,
    "txt": _read_delimited,
    "inter": _read_delimited,
    "jsonl": _read_jsonl,
    "parquet": _read_parquet,
    "dataset": _read_dataset,
}
"""By the end of the file's name, `.gz` aside; `dataset` is a folder."""


def check_columns(wanted: Sequence[str], found: Sequence[str], path: Path) -> None:
    """Raise InvalidData D201 with the nearest name for a wanted column that is not found."""
    for name in wanted:
        if name not in found:
            close = difflib.get_close_matches(name, found, n=1)
            raise InvalidData(
                "D201",
                f"the interaction file has no column `{name}`",
                where=str(path),
                why=f"it has: {', '.join(found)}",
                next_step=f"did you mean `{close[0]}`?" if close else "",
            )
