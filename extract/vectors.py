"""Ready vectors of any modality, made elsewhere, into a feature table: found by id, never by position.

A file that numbers its rows only (.npy, a plain safetensors tensor) needs a file of ids beside it; Parquet
and this package's own feature files carry theirs. Files are memory-mapped or read in blocks, so that one
larger than memory can be imported for the items of a small catalogue.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, model_validator
from safetensors import safe_open

from extract.errors import ConfigError, InvalidData, UnsafeInput
from extract.features import FeatureTable, Provenance
from extract.store import BadRow, content_hash, hash_file
from extract.tables import read_columns
from extract.vector_ids import existing, parsing, read_ids, read_row_numbers

logger = logging.getLogger(__name__)

STAGE = "embed"
BLOCK = 4096
"""Rows read at a time."""

NUMBERS = {"F64": "float64", "F32": "float32", "F16": "float16"} | {
    f"{letter}{bits}": f"{kind}{bits}"
    for letter, kind in (("I", "int"), ("U", "uint"))
    for bits in (8, 16, 32, 64)
}
"""Types of safetensors that numpy has; bfloat16 is not among them."""

STEP = "write the vectors as one matrix of rows, in float32 or float16"
"""How to go on with a file that cannot be read."""


class VectorsConfig(BaseModel):
    """Where ready vectors are, and what says whose they are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    """The vectors: .npy, .safetensors or .parquet."""
    ids: str | None = None
    """Ids of the rows: .txt, .json, .npy or a table; not for Parquet and feature files, which hold theirs."""
    id_column: str = "item_id"
    """Column with the item's id, in the table of ids or in the Parquet file."""
    row_column: str | None = None
    """Column with the row's number from 0, as in MMRec's id mapping; null: ids are in the rows' order."""
    vector_column: str = "vector"
    """Column of lists of numbers, in a Parquet file; null: the item has none."""
    tensor: str | None = None
    """Name of the tensor in a safetensors file; null: the only one."""
    absent_rows: str | None = None
    """Numbers from 0 of rows that are fillings, one a line, such as MMRec's ``missed_img_itemIDs.csv``."""
    unknown_items: Literal["error", "drop"] = "error"
    """What to do with vectors of items that the catalogue lacks; dropped ones are counted in the log."""
    model: str = ""
    """What made the vectors, for the record."""

    @model_validator(mode="after")
    def _rows_have_ids(self) -> VectorsConfig:
        if self.ids is None and self.path.lower().endswith(".npy"):
            raise ValueError("an array does not say which item a row belongs to: give a file of ids as `ids`")
        if self.ids is None and self.row_column is not None:
            raise ValueError("`row_column` is a column of the file `ids`, which is not given")
        if self.ids is not None and self.path.lower().endswith(".parquet"):
            raise ValueError("a Parquet file holds its own ids, in `id_column`: remove `ids`")
        return self

    def files(self) -> tuple[str, ...]:
        """Every file these settings read."""
        return tuple(name for name in (self.path, self.ids, self.absent_rows) if name is not None)


@dataclass(frozen=True, slots=True)
class ImportedVectors:
    """A table in the order of the ids asked for, rows that cannot be used, and how many were dropped."""

    table: FeatureTable
    bad: tuple[BadRow, ...]
    n_dropped: int


def import_vectors(ids: Sequence[str], config: VectorsConfig, folder: Path = Path()) -> ImportedVectors:
    """The vectors of these items; items without a row are absent.

    A row with NaN or infinity is quarantined and its item absent. A Parquet row without a vector makes its
    item absent, and so does a row that is known to be a filling, whatever it holds.

    Args:
        ids: item ids [I], unique; the table's rows are in their order.
        config: what to read.
        folder: where relative paths begin.

    Raises:
        UnsafeInput: a file is missing or of an unknown kind, or needs a file of ids that is not given.
        InvalidData: a file cannot be read, an id is doubled or unknown, or the rows and ids disagree.
    """
    path = existing(folder / config.path)
    rows = _Rows(path, config, folder)
    doubled = [item_id for item_id, count in Counter(rows.ids).items() if count > 1]
    if doubled:
        why = f"first: {', '.join(doubled[:5])}"
        what = f"{len(doubled)} item ids have several vectors"
        raise InvalidData("D120", what, where=str(path), why=why, next_step="keep one row for each item")
    position = {item_id: row for row, item_id in enumerate(ids)}
    n_dropped = _check_known(rows.ids, position, config, path)
    if config.absent_rows is not None:
        for row in read_row_numbers(folder / config.absent_rows, len(rows.ids)):
            position.pop(rows.ids[row], None)
    matrix, present = np.zeros((len(ids), rows.width), np.float32), np.zeros(len(ids), bool)
    bad: list[BadRow] = []
    for start, block, known in rows.blocks():
        targets = np.array([position.get(item_id, -1) for item_id in rows.ids[start : start + len(block)]])
        finite = np.isfinite(block).all(axis=1)
        wanted = (targets >= 0) & known
        matrix[targets[wanted & finite]] = block[wanted & finite]
        present[targets[wanted & finite]] = True
        for row in np.flatnonzero(wanted & ~finite).tolist():
            detail = f"row {start + row} holds NaN or infinity"
            bad.append(BadRow(ids[targets[row]], STAGE, "not-finite", detail))
    files = [hash_file(folder / name) for name in config.files()]
    provenance = Provenance(
        model=config.model,
        dtype=rows.dtype,
        inputs_sha256=content_hash(files),
        settings={"imported": config.model_dump(mode="json")},
    )
    return ImportedVectors(FeatureTable(tuple(ids), matrix, present, provenance), tuple(bad), n_dropped)


def _check_known(found: Sequence[str], known: dict[str, int], config: VectorsConfig, path: Path) -> int:
    unknown = [item_id for item_id in found if item_id not in known]
    # Where none is known the ids are of another kind, and dropping them would make an empty feature.
    none = bool(known) and len(unknown) == len(found)
    if unknown and (none or config.unknown_items == "error"):
        drop = "" if none else ", or set `unknown_items: drop`"
        raise InvalidData(
            "D121",
            f"{len(unknown)} of {len(found):,} vectors belong to items that the catalogue lacks",
            where=str(path),
            why=f"first: {', '.join(unknown[:5])}",
            next_step=f"check the id file and column{drop}",
        )
    if unknown:
        logger.warning("%s: %d vectors of unknown items dropped", path, len(unknown))
    return len(unknown)


class _Rows:
    """The rows of one file: their ids, their width, and their values block by block."""

    def __init__(self, path: Path, config: VectorsConfig, folder: Path) -> None:
        self._path, self._config = path, config
        self._read: Callable[[], Iterable[Any]]
        kinds = {
            ".npy": self._open_npy,
            ".safetensors": self._open_safetensors,
            ".parquet": self._open_parquet,
        }
        if path.suffix.lower() not in kinds:
            why = f"known: {', '.join(kinds)}"
            raise UnsafeInput("U405", "unknown kind of vector file", where=str(path), why=why, next_step=STEP)
        with self._parsing():
            own, shape, self.dtype = kinds[path.suffix.lower()]()
        if len(shape) != 2 or not shape[1]:
            why = f"found the shape {list(shape)}"
            what = "vectors must be a matrix of rows"
            raise InvalidData("D122", what, where=str(path), why=why, next_step=STEP)
        self.width = int(shape[1])
        if own is not None and config.ids is not None:
            raise ConfigError(
                "C402",
                "the file of vectors holds its own ids, and `ids` would override them",
                where=str(path),
                next_step="remove `ids`",
            )
        if own is not None:
            self.ids = own
        elif config.ids is not None:
            self.ids = read_ids(folder / config.ids, config.id_column, config.row_column)
        else:
            raise UnsafeInput(
                "U406",
                "these vectors do not say which item a row belongs to",
                where=str(path),
                next_step="give a file of ids as `ids`",
            )
        if len(self.ids) != shape[0]:
            what = f"{shape[0]:,} vectors for {len(self.ids):,} ids"
            raise InvalidData("D123", what, where=str(path), next_step="give the ids of exactly these rows")
        if "" in self.ids:
            what = f"{self.ids.count(''):,} rows have no id"
            why = f"first: row {self.ids.index('')}"
            raise InvalidData("D124", what, where=str(path), why=why, next_step="remove these rows")

    def _parsing(self) -> AbstractContextManager[None]:
        return parsing(self._path, "D122", "the vectors cannot be read", STEP)

    def blocks(self) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.bool_]]]:
        """(first row, values float32 [n, D], whether a row holds a vector [n]) over all rows."""
        start, blocks = 0, iter(self._read())
        while True:
            with self._parsing():
                block = next(blocks, None)
                if block is None:
                    return
                values, known = block if isinstance(block, tuple) else (block, np.ones(len(block), bool))
                # A number beyond float32 becomes infinite and is told as such; no need for a warning.
                with np.errstate(over="ignore"):
                    values = np.asarray(values, dtype=np.float32)
            yield start, values, known
            start += len(values)

    def _open_npy(self) -> tuple[list[str] | None, tuple[int, ...], str]:
        # Pickled arrays would run code; they are refused, as are archives of arrays.
        values: NDArray[Any] = np.lib.format.open_memmap(self._path, mode="r")
        self._read = lambda: (values[at : at + BLOCK] for at in range(0, len(values), BLOCK))
        return None, values.shape, _number(values.dtype)

    def _open_safetensors(self) -> tuple[list[str] | None, tuple[int, ...], str]:
        file: Any = safe_open(self._path, framework="np")
        names = list(file.keys())
        if {"matrix", "present", "ids_utf8", "ids_end"} <= set(names):
            table = FeatureTable.load(self._path)
            parts = [slice(at, at + BLOCK) for at in range(0, len(table), BLOCK)]
            self._read = lambda: ((table.matrix[part], table.present[part]) for part in parts)
            return list(table.ids), table.matrix.shape, "float32"
        name = self._config.tensor or (names[0] if len(names) == 1 else "")
        if name not in names:
            raise ValueError(f"name one as `tensor`: {', '.join(sorted(names))}")
        rows = file.get_slice(name)
        kind, shape = rows.get_dtype(), tuple(rows.get_shape())
        if kind not in NUMBERS:
            raise ValueError(f"vectors must be numbers that numpy knows, found {kind}")
        count = int(shape[0]) if shape else 0
        self._read = lambda: (rows[at : min(at + BLOCK, count)] for at in range(0, count, BLOCK))
        return None, shape, NUMBERS[kind]

    def _open_parquet(self) -> tuple[list[str] | None, tuple[int, ...], str]:
        file = pq.ParquetFile(self._path, memory_map=True)
        name = self._config.vector_column
        ids = read_columns(self._path, [self._config.id_column], ids=[self._config.id_column])
        kind = file.schema_arrow.field(name).type
        inner = getattr(kind, "value_type", None)
        if inner is None or not any(is_kind(inner) for is_kind in PARQUET_NUMBERS):
            raise ValueError(f"the column `{name}` must hold lists of numbers, found {kind}")
        batches = file.iter_batches(batch_size=BLOCK, columns=[name])
        lengths = (length for batch in batches for length in pc.list_value_length(batch[name]).drop_null())
        first = next(lengths, None)
        if first is None and file.metadata.num_rows and not pa.types.is_fixed_size_list(kind):
            raise ValueError(f"no row of the column `{name}` holds a vector")
        width = getattr(kind, "list_size", 0) if first is None else first.as_py()
        self._read = lambda: (
            _lists(batch[name], width) for batch in file.iter_batches(batch_size=BLOCK, columns=[name])
        )
        return ids[self._config.id_column].to_pylist(), (file.metadata.num_rows, width), str(inner)


PARQUET_NUMBERS = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)


def _lists(column: Any, width: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    known = column.is_valid().to_numpy(zero_copy_only=False)
    if (pc.list_value_length(column.drop_null()).to_numpy(zero_copy_only=False) != width).any():
        step = "give every item a vector of the same width"
        what = f"the vectors are not all {width} wide"
        raise InvalidData("D122", what, where="the Parquet file", next_step=step)
    rows = np.zeros((len(column), width), np.float32)
    values = column.drop_null().flatten().cast(pa.float32(), safe=False)
    rows[known] = values.to_numpy(zero_copy_only=False).reshape(-1, width)
    return rows, known


def _number(dtype: Any) -> str:
    if np.dtype(dtype).kind not in "fiu":
        raise ValueError(f"vectors must be numbers, found {dtype}")
    return str(np.dtype(dtype))
