"""The catalogue: items with an id, texts, a picture's name and attributes."""

from __future__ import annotations

import json
import logging
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, model_validator

from extract.errors import InvalidData
from extract.pictures import PictureSource
from extract.tables import read_columns

logger = logging.getLogger(__name__)

SCHEMA = pa.schema([(name, pa.string()) for name in ("item_id", "title", "text", "picture", "attributes")])


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
        self.table = table.select(SCHEMA.names).cast(SCHEMA)
        self.pictures = pictures
        self.ids: tuple[str, ...] = tuple(self.table["item_id"].to_pylist())
        _check_ids(self.ids, where)

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

    def __len__(self) -> int:
        return len(self.ids)

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
        "text": _joined([source[name] for name in columns.text], len(ids)),
        "picture": _pictures(source, columns, ids),
        "attributes": _attributes(source, columns.attributes, len(ids)),
    }
    folder = PictureSource(Path(pictures)) if pictures is not None else None
    return Catalog(pa.table(parts), folder, where=str(path))


def _joined(columns: Sequence[pa.ChunkedArray], rows: int) -> pa.Array:
    lists = [column.to_pylist() for column in columns]
    return pa.array(
        ["\n".join(text for text in row if text) for row in zip(*lists)] or [""] * rows, pa.string()
    )


def _pictures(source: pa.Table, columns: CatalogColumns, ids: pa.ChunkedArray) -> Any:
    if columns.picture:
        names = source[columns.picture]
        return pc.if_else(pc.equal(names, ""), pa.scalar(None, pa.string()), names)
    if columns.picture_pattern:
        pattern = columns.picture_pattern
        return pa.array([pattern.replace("{item_id}", item_id) for item_id in ids.to_pylist()], pa.string())
    return pa.nulls(len(ids), pa.string())


def _attributes(source: pa.Table, names: Sequence[str], rows: int) -> pa.Array:
    lists = [source[name].to_pylist() for name in names]
    values = ({name: text for name, text in zip(names, row) if text} for row in zip(*lists))
    return pa.array([_as_json(row) for row in values] or ["{}"] * rows, pa.string())


def _as_json(attributes: Mapping[str, str]) -> str:
    return json.dumps(dict(attributes), ensure_ascii=False, sort_keys=True)


def _item(row: dict[str, Any]) -> Item:
    attributes = json.loads(row["attributes"]) if row["attributes"] else {}
    return Item(row["item_id"], row["title"] or "", row["text"] or "", row["picture"], attributes)


def _check_ids(ids: Sequence[str], where: str) -> None:
    empty = [row for row, item_id in enumerate(ids, start=1) if not item_id]
    if empty:
        raise InvalidData(
            "D101",
            f"{len(empty)} of {len(ids):,} items have no id",
            where=f"{where} rows {', '.join(map(str, empty[:20]))} (the header not counted)",
            next_step="give every row an id, or remove these rows",
        )
    if len(set(ids)) < len(ids):
        raise _doubled(ids, where)
    alike = len(ids) - len({unicodedata.normalize("NFC", item_id).strip().casefold() for item_id in ids})
    if alike:
        logger.warning("%d ids differ from another id only by case, outer spaces or Unicode form", alike)


def _doubled(ids: Sequence[str], where: str) -> InvalidData:
    rows: dict[str, list[int]] = {item_id: [] for item_id, count in Counter(ids).items() if count > 1}
    for row, item_id in enumerate(ids, start=1):
        if item_id in rows:
            rows[item_id].append(row)
    listed = "; ".join(
        f"{item_id!r} in rows {', '.join(map(str, at[:5]))}" for item_id, at in list(rows.items())[:20]
    )
    return InvalidData(
        "D101",
        f"{len(rows)} item ids appear more than once",
        where=f"{where}: {listed} (the header not counted)",
        next_step="keep one row per item",
    )
