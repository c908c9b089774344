"""The catalogue: items with an id, texts, a picture's name and attributes."""

from __future__ import annotations

import json
import logging
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, model_validator

from extract.errors import InvalidData
from extract.pictures import PictureSource
from extract.tables import read_columns

logger = logging.getLogger(__name__)

SCHEMA = pa.schema([(name, pa.string()) for name in ("item_id", "title", "text", "picture", "attributes")])
BLOCK = 10_000
"""Rows that are Python objects at a time."""


@dataclass(frozen=True, slots=True)
class Item:
    """One thing a user can choose. ``picture`` is a name relative to the catalogue's pictures, or None."""

    item_id: str
    title: str = ""
    text: str = ""
    picture: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)


class CatalogColumns(BaseModel):
    """Which columns of a table are what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    item_id: str = "item_id"
    """Column with the item's id: unique, never empty, kept as text."""
    title: str | None = "title"
    """Column with the title; null if there is none."""
    text: list[str] = []
    """Columns joined by newlines into the text; empty ones are left out."""
    picture: str | None = None
    """Column with the picture's name, relative to the pictures; an empty value means no picture."""
    picture_pattern: str | None = None
    """Instead of a column: a name made from the id, such as ``posters/{item_id}.jpg``."""
    attributes: list[str] = []
    """Columns kept as attributes under their own names."""

    @model_validator(mode="after")
    def _one_way_to_a_picture(self) -> CatalogColumns:
        if self.picture and self.picture_pattern:
            raise ValueError("give `picture` or `picture_pattern`, not both")
        if self.picture_pattern and "{item_id}" not in self.picture_pattern:
            raise ValueError("`picture_pattern` must contain {item_id}")
        return self

    def wanted(self) -> list[str]:
        """All columns these settings read."""
        single = [name for name in (self.item_id, self.title, self.picture) if name]
        return list(dict.fromkeys([*single, *self.text, *self.attributes]))


class Catalog:
    """Items in file order, found by id; wraps an Arrow table so that millions of rows stay compact.

    Args:
        table: string columns item_id, title, text, picture (null: none) and attributes (a JSON object).
        pictures: where the pictures' names lead; None if there are none.
        where: named in errors.

    Raises:
        InvalidData: an id is empty or appears twice.
    """

    def __init__(
        self, table: pa.Table, pictures: PictureSource | None = None, *, where: str = "catalogue"
    ) -> None:
        # Taking rows from a column in many chunks copies them all, for every shard.
        self.table = table.select(SCHEMA.names).cast(SCHEMA).combine_chunks()
        self.pictures = pictures
        _check_ids(self.id_column, where)

    @classmethod
    def from_items(cls, items: Iterable[Item], pictures: PictureSource | None = None) -> Catalog:
        """A catalogue of items in the order given."""
        rows = [
            {
                "item_id": item.item_id,
                "title": item.title,
                "text": item.text,
                "picture": item.picture,
                "attributes": _as_json(item.attributes),
            }
            for item in items
        ]
        return cls(pa.Table.from_pylist(rows, schema=SCHEMA), pictures)

    @property
    def id_column(self) -> pa.ChunkedArray:
        """The ids [I] as an Arrow column: what a million of them should be held as."""
        return self.table["item_id"]

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The ids [I]."""
        return tuple(self.id_column.to_pylist())

    def __len__(self) -> int:
        return len(self.table)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._rows

    def __getitem__(self, item_id: str) -> Item:
        return _item(self.table.slice(self._rows[item_id], 1).to_pylist()[0])

    def __iter__(self) -> Iterator[Item]:
        for batch in self.table.to_batches(max_chunksize=1000):
            yield from map(_item, batch.to_pylist())

    def __repr__(self) -> str:
        return f"Catalog({len(self)} items, pictures={self.pictures!r})"

    def take(self, positions: Sequence[int]) -> list[Item]:
        """The items at these rows, in the order given."""
        return [_item(row) for row in self.table.take(pa.array(positions, pa.int64())).to_pylist()]

    def subset(self, ids: Iterable[str]) -> Catalog:
        """The catalogue of these ids, in the order given.

        Raises:
            InvalidData: an id is not in the catalogue.
        """
        wanted = list(ids)
        unknown = [item_id for item_id in wanted if item_id not in self._rows]
        if unknown:
            raise InvalidData(
                "D106",
                f"{len(unknown)} of {len(wanted)} ids are not in the catalogue",
                why=f"first: {', '.join(unknown[:20])}",
            )
        rows = pa.array([self._rows[item_id] for item_id in wanted], pa.int64())
        return Catalog(self.table.take(rows), self.pictures)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {item_id: row for row, item_id in enumerate(self.ids)}


def read_catalog(path: Path, columns: CatalogColumns | None = None, pictures: Path | None = None) -> Catalog:
    """Read a catalogue from CSV, TSV, JSON lines (each also .gz) or Parquet.

    Args:
        path: the table.
        columns: which column is what; the default expects ``item_id`` and ``title``.
        pictures: folder or zip file the pictures' names are relative to.

    Raises:
        UnsafeInput: a file is missing or of an unknown kind.
        InvalidData: a column is missing, an id is empty or doubled, or the file cannot be parsed.
    """
    columns = columns or CatalogColumns()
    source = read_columns(Path(path), columns.wanted(), ids=[columns.item_id])
    ids = source[columns.item_id]
    empty = pa.array([""] * len(ids), pa.string())
    parts: dict[str, Any] = {
        "item_id": ids,
        "title": source[columns.title] if columns.title else empty,
        "text": _row_by_row(source, columns.text, lambda row: "\n".join(text for text in row if text)),
        "picture": _pictures(source, columns, ids),
        "attributes": _row_by_row(
            source,
            columns.attributes,
            lambda row: _as_json({name: text for name, text in zip(columns.attributes, row) if text}),
        ),
    }
    folder = PictureSource(Path(pictures)) if pictures is not None else None
    return Catalog(pa.table(parts), folder, where=str(path))


def _pictures(source: pa.Table, columns: CatalogColumns, ids: pa.ChunkedArray) -> Any:
    if columns.picture:
        names = source[columns.picture]
        return pc.if_else(pc.equal(names, ""), pa.scalar(None, pa.string()), names)
    if columns.picture_pattern:
        # The id separates the parts of the pattern that stand around it.
        return pc.binary_join_element_wise(*columns.picture_pattern.split("{item_id}"), ids)
    return pa.nulls(len(ids), pa.string())


def _row_by_row(source: pa.Table, names: Sequence[str], write: Callable[[Sequence[str]], str]) -> Any:
    """One text per row, written from the row's values of the columns ``names``."""
    if not names:
        return pa.array([write(())] * len(source), pa.string())
    texts = (
        pa.array([write(row) for row in zip(*(batch[name].to_pylist() for name in names))], pa.string())
        for batch in source.to_batches(max_chunksize=BLOCK)
    )
    return pa.chunked_array(texts, pa.string())


def _as_json(attributes: Mapping[str, str]) -> str:
    return json.dumps(dict(attributes), ensure_ascii=False, sort_keys=True)


def _item(row: dict[str, Any]) -> Item:
    attributes = json.loads(row["attributes"]) if row["attributes"] else {}
    return Item(row["item_id"], row["title"] or "", row["text"] or "", row["picture"], attributes)


def _check_ids(ids: pa.ChunkedArray, where: str) -> None:
    empty = np.flatnonzero(pc.equal(ids, "").to_numpy()) + 1
    if len(empty):
        raise InvalidData(
            "D101",
            f"{len(empty)} of {len(ids):,} items have no id",
            where=f"{where} rows {', '.join(map(str, empty[:20]))} (the header not counted)",
            next_step="give every row an id, or remove these rows",
        )
    if pc.count_distinct(ids).as_py() < len(ids):
        raise _doubled(ids, where)
    # Only hashes are held: a set of a million strings is a hundred megabytes for one warning.
    folded = np.fromiter((hash(_folded(item_id)) for item_id in _each(ids)), np.int64, len(ids))
    alike = len(ids) - len(np.unique(folded))
    if alike:
        logger.warning("%d ids differ from another id only by case, outer spaces or Unicode form", alike)


def _folded(item_id: str) -> str:
    return unicodedata.normalize("NFC", item_id).strip().casefold()


def _each(column: pa.ChunkedArray) -> Iterator[str]:
    for start in range(0, len(column), BLOCK):
        yield from column.slice(start, BLOCK).to_pylist()


def _doubled(ids: pa.ChunkedArray, where: str) -> InvalidData:
    counts = pc.value_counts(ids)
    doubled = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    shown = doubled[:20]
    rows: dict[str, list[int]] = {item_id: [] for item_id in shown.to_pylist()}
    for row in np.flatnonzero(pc.is_in(ids, shown).to_numpy()).tolist():
        rows[ids[row].as_py()].append(row + 1)
    listed = "; ".join(f"{item_id!r} in rows {', '.join(map(str, at[:5]))}" for item_id, at in rows.items())
    return InvalidData(
        "D101",
        f"{len(doubled)} item ids appear more than once",
        where=f"{where}: {listed} (the header not counted)",
        next_step="keep one row per item",
    )
