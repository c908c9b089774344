"""Which table is which, and which column is what: guesses from names and values, each with its reason.

Nothing here decides a run: what is guessed is written into a file that its owner reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from catalograph.validate import columns_of
from extract.errors import CatalographError, ConfigError
from extract.pictures import PictureSource
from extract.tables import read_columns
from recsys.columns import times
from recsys.interaction_files import column_names, read_batches

TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
CHOICES = (*TABLES, ".inter", ".txt")
PICTURES = (".jpg", ".jpeg", ".png", ".webp")
_ITEM = (
    "item",
    "product",
    "sku",
    "asin",
    "movie",
    "film",
    "track",
    "song",
    "book",
    "article",
    "isbn",
    "gtin",
)
_USER = (
    "user",
    "customer",
    "person",
    "people",
    "visitor",
    "session",
    "member",
    "account",
    "client",
    "reader",
)
_TIME = ("timestamp", "time", "date", "created", "ordered", "bought", "_at", "ts")
_LABEL = ("x_label", "split", "subset")
_TITLE = ("title", "name", "label", "headline")
_TEXT = ("description", "text", "summary", "plot", "body", "abstract", "overview", "details")
_SAMPLE = 1000
"""Rows that tell what a column of texts, times or pictures holds."""


@dataclass(frozen=True)
class ItemTable:
    """What the table of items seems to hold."""

    path: Path
    table: pa.Table
    item_id: str
    title: str | None = None
    text: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    picture: str | None = None
    picture_pattern: str | None = None
    pictures: Path | None = None
    pictures_found: int = 0


@dataclass(frozen=True)
class ChoiceTable:
    """What the table of interactions seems to hold."""

    path: Path
    user: str
    item: str
    known: float
    """Share of the rows, as far as they were read, whose item is in the catalogue."""
    timestamp: str | None = None
    label: str | None = None
    labels: tuple[str, ...] = field(default=())
    user_by_values: bool = False
    """Whether no name told the user's column."""


def find_tables(folder: Path, catalog: Path | None, interactions: Path | None) -> tuple[Path, Path | None]:
    """The table of items and that of choices (None: there is none) among the files of a folder.

    Raises:
        ConfigError: C301, there is no table, or more than names can tell apart.
    """
    names = sorted(path for path in folder.iterdir() if path.is_file())
    tables = [path for path in names if path.name.removesuffix(".gz").endswith(CHOICES)]
    left = [path for path in tables if path not in (catalog, interactions)]
    if catalog is not None:
        # The others are looked at only if there can be no doubt.
        return catalog, interactions or (left[0] if len(left) == 1 else None)
    if interactions is None:
        chosen = [path for path in left if _hint(_columns(path), _USER)]
        interactions = chosen[0] if len(chosen) == 1 else None
        if interactions is None and len(left) > 1:
            raise ConfigError(
                "C301", f"{len(left)} tables, and their columns do not tell which holds the choices",
                where=str(folder), why=", ".join(path.name for path in left),
                next_step="name them: --catalog FILE --interactions FILE",
            )  # fmt: skip
    left = [path for path in left if path != interactions]
    items = [path for path in left if path.name.removesuffix(".gz").endswith(TABLES)]
    if len(items) != 1:
        raise ConfigError(
            "C301", "no table of items was found" if not items else f"{len(items)} tables may hold the items",
            where=str(folder), why=", ".join(path.name for path in names[:10]) or "the folder is empty",
            next_step="name it: --catalog FILE (.csv, .tsv, .jsonl, .parquet); --sample draws a shop to try",
        )  # fmt: skip
    return items[0], interactions


def guess(
    catalog: Path, interactions: Path | None, pictures: Path | None
) -> tuple[ItemTable, ChoiceTable | None]:
    """The columns of both tables.

    Raises:
        ConfigError: C302, no column of the catalogue identifies its items.
    """
    table = read_columns(catalog, columns_of(catalog))
    keys = [name for name in table.column_names if _identifies(table[name])]
    if not keys:
        raise ConfigError(
            "C302", "no column holds an id: another value in each row, never empty", where=str(catalog),
            why=f"columns: {', '.join(table.column_names)}",
            next_step="give every item one row and an id of its own",
        )  # fmt: skip
    if interactions is None:
        item_id = _named(keys, ("id", *_ITEM)) or keys[0]
        return _catalogue(catalog, table, item_id, pictures), None
    head = _head(interactions)
    item_id, item, known = _matching(table, keys, head, interactions)
    return _catalogue(catalog, table, item_id, pictures), _choices(interactions, head, item, known)


def _matching(table: pa.Table, keys: Sequence[str], head: pa.Table, path: Path) -> tuple[str, str, float]:
    """The pair of columns that join the tables; of several that do, the one whose names say so."""
    found = []
    for key in keys:
        ids = table[key].combine_chunks()
        for name in head.column_names:
            known = pc.mean(pc.is_in(head[name].cast(pa.string()), value_set=ids).cast(pa.float64())).as_py()
            alike = key == name or bool(_hint([name], _ITEM))
            found.append((known >= 0.5, alike, known, -keys.index(key), key, name))
    _, _, known, _, key, name = max(found)
    if not known:
        raise ConfigError(
            "C302", "no column of the choices holds ids of the catalogue", where=str(path),
            why=f"its columns: {', '.join(head.column_names)}; those of the catalogue: {', '.join(keys)}",
            next_step="check that both tables spell the ids alike, leading zeros included",
        )  # fmt: skip
    return key, name, known


def _catalogue(path: Path, table: pa.Table, item_id: str, pictures: Path | None) -> ItemTable:
    left = [name for name in table.column_names if name != item_id]
    picture = next((name for name in left if _share(table[name], _is_picture) > 0.5), None)
    left = [name for name in left if name != picture]
    title = _named(left, _TITLE)
    left = [name for name in left if name != title]
    text = tuple(name for name in left if _hint([name], _TEXT))
    left = [name for name in left if name not in text]
    attributes = tuple(name for name in left if _is_attribute(table[name]))
    folder, pattern, found = _pictures(path.parent, table, item_id, picture, pictures)
    return ItemTable(
        path, table.select([item_id]), item_id, title, text, attributes,
        tuple(name for name in left if name not in attributes),
        picture if folder else None, pattern, folder, found,
    )  # fmt: skip


def _pictures(
    beside: Path, table: pa.Table, item_id: str, column: str | None, given: Path | None
) -> tuple[Path | None, str | None, int]:
    """The folder or zip file that has the most of the named pictures, a pattern of ids where no column names
    them, and how many of the first rows it has.
    """
    places = [given] if given else sorted(p for p in beside.iterdir() if p.is_dir() or p.suffix == ".zip")
    best: tuple[int, Path | None, str | None] = (0, None, None)
    patterns = [None] if column else [f"{{item_id}}{suffix}" for suffix in PICTURES]
    for place in [*places, *([] if given or not column else [beside])]:
        source = PictureSource(place)
        for pattern in patterns:
            names = table[column or item_id].slice(0, _SAMPLE).to_pylist()
            wanted = [pattern.format(item_id=name) if pattern else name for name in names if name]
            found = sum(_is_there(source, name) for name in wanted)
            best = max(best, (found, place, pattern), key=lambda row: row[0])
    return best[1], best[2], best[0]


def _choices(path: Path, head: pa.Table, item: str, known: float) -> ChoiceTable:
    left = [name for name in head.column_names if name != item]
    label = _named(left, _LABEL)
    left = [name for name in left if name != label]
    user = _named(left, _USER)
    by_values = user is None
    if user is None:
        repeated = {name: len(head[name].unique()) for name in left}
        user = max((n for n in left if 1 < repeated[n] < len(head)), key=repeated.__getitem__, default=None)
    if user is None:
        raise ConfigError(
            "C302", "no column of the choices seems to name who chose", where=str(path),
            why=f"columns: {', '.join(head.column_names)}", next_step="give it a column such as user_id",
        )  # fmt: skip
    dated = (name for name in left if name != user and _hint([name], _TIME) and _are_times(head[name]))
    labels = () if label is None else tuple(sorted(map(str, head[label].unique().to_pylist())))
    return ChoiceTable(path, user, item, known, next(dated, None), label, labels, by_values)


def _head(path: Path) -> pa.Table:
    """The first rows of an interaction file, all columns."""
    batch = next(iter(read_batches(path, column_names(path))), None)
    if batch is None or not len(batch):
        raise ConfigError("C302", "the table of choices has no rows", where=str(path))
    return pa.Table.from_batches([batch])


def _columns(path: Path) -> list[str]:
    try:
        return column_names(path)
    except CatalographError:
        return []


def _identifies(column: pa.ChunkedArray) -> bool:
    return bool(len(column)) and pc.count_distinct(column).as_py() == len(column) and not pc.any(
        pc.equal(column, "")
    ).as_py()  # fmt: skip


def _is_attribute(column: pa.ChunkedArray) -> bool:
    """Values that items share, and words rather than amounts."""
    values = column.unique()
    shared = 1 < len(values) <= max(2, len(column) // 2)
    return shared and _share(column, lambda text: not text.replace(".", "", 1).isdigit()) > 0.5


def _is_picture(text: str) -> bool:
    return text.lower().endswith(PICTURES) and "://" not in text


def _is_there(source: PictureSource, name: str) -> bool:
    try:
        return source.stamp(name) is not None
    except CatalographError:
        return False


def _are_times(column: pa.ChunkedArray) -> bool:
    try:
        times(column.slice(0, _SAMPLE), "", Path())
    except CatalographError:
        return False
    return True


def _share(column: pa.ChunkedArray, holds: Callable[[str], bool]) -> float:
    texts = [str(text) for text in column.slice(0, _SAMPLE).to_pylist() if text]
    return sum(map(holds, texts)) / max(1, len(texts))


def _named(names: Sequence[str], words: Sequence[str]) -> str | None:
    """The name that says the earliest of the words."""
    return next(iter(_hint(names, words)), None)


def _hint(names: Sequence[str], words: Sequence[str]) -> list[str]:
    """Names that hold one of the words, those of the earliest word first; whole names before parts."""
    rank: Mapping[str, tuple[bool, int]] = {
        name: (name.lower() not in words, place)
        for name in names
        for place, word in reversed(list(enumerate(words)))
        if word in name.lower()
    }
    return sorted(rank, key=rank.__getitem__)
