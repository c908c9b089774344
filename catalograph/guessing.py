"""Which table is which, and which column is what: guesses from names and values, each with its reason.

Nothing here decides a run: what is guessed is written into a file that its owner reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from catalograph.own_tables import USER, choice_rows, hints, item_rows
from extract.errors import CatalographError, ConfigError
from extract.pictures import PictureSource
from recsys.columns import times

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
    addresses: str | None = None
    """A column of addresses of pictures, which are not fetched."""


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
    unread_times: str | None = None
    """A column called like times whose values are none that can be read."""


def guess(
    catalog: Path, interactions: Path | None, pictures: Path | None
) -> tuple[ItemTable, ChoiceTable | None]:
    """The columns of both tables.

    Raises:
        ConfigError: C302, no column of the catalogue identifies its items.
    """
    table = item_rows(catalog)
    keys = [name for name in table.column_names if _identifies(table[name])]
    if not keys:
        raise ConfigError(
            "C302", "no column holds an id: another value in each row, never empty", where=str(catalog),
            why=_nearly(table), next_step="give every item one row and an id of its own",
        )  # fmt: skip
    if interactions is None:
        item_id = _named(keys, ("id", *_ITEM)) or keys[0]
        return _catalogue(catalog, table, item_id, pictures), None
    head = choice_rows(interactions)
    item_id, item, known = _matching(table, keys, head, interactions)
    return _catalogue(catalog, table, item_id, pictures), _choices(interactions, head, item, known)


def _nearly(table: pa.Table) -> str:
    """The column that comes nearest to identifying the rows, and what stands in its way."""
    distinct = {name: pc.count_distinct(table[name]).as_py() for name in table.column_names}
    name = max(distinct, key=distinct.__getitem__, default="")
    if not name or not len(table):
        return f"columns: {', '.join(table.column_names)}; {len(table)} rows"
    counts = pc.value_counts(table[name])
    often = [row["values"] for row in counts.to_pylist() if row["counts"] > 1]
    return f"`{name}` comes nearest, {distinct[name]:,} values in {len(table):,} rows; twice: {often[0]!r}"


def _matching(table: pa.Table, keys: Sequence[str], head: pa.Table, path: Path) -> tuple[str, str, float]:
    """The pair of columns that join the tables; of several that do, the one whose names say so."""
    found = []
    for key in keys:
        ids = table[key].combine_chunks()
        for name in head.column_names:
            known = pc.mean(pc.is_in(head[name].cast(pa.string()), value_set=ids).cast(pa.float64())).as_py()
            alike = key == name or bool(hints([name], _ITEM))
            found.append((known >= 0.5, alike, known, -keys.index(key), key, name))
    _, _, known, _, key, name = max(found)
    if not known:
        raise ConfigError(
            "C302", "no column of the choices holds ids of the catalogue", where=str(path),
            why=f"there: {_examples(head, hints(head.column_names, _ITEM) or head.column_names)}; "
            f"in the catalogue: {_examples(table, keys)}",
            next_step="check that both tables spell the ids alike, leading zeros included",
        )  # fmt: skip
    return key, name, known


def _examples(table: pa.Table, names: Sequence[str]) -> str:
    """The first values of a few columns."""
    shown = (f"{name} ({', '.join(map(str, table[name].slice(0, 2).to_pylist()))})" for name in names[:3])
    return ", ".join(shown)


def _catalogue(path: Path, table: pa.Table, item_id: str, pictures: Path | None) -> ItemTable:
    left = [name for name in table.column_names if name != item_id]
    picture = next((name for name in left if _share(table[name], _is_picture) > 0.5), None)
    left = [name for name in left if name != picture]
    title = _named(left, _TITLE)
    left = [name for name in left if name != title]
    text = tuple(name for name in left if hints([name], _TEXT))
    left = [name for name in left if name not in text]
    attributes = tuple(name for name in left if _is_attribute(table[name]))
    folder, pattern, found = _pictures(path.parent, table, item_id, picture, pictures)
    return ItemTable(
        path, table.select([item_id]), item_id, title, text, attributes,
        tuple(name for name in left if name not in attributes),
        picture if folder else None, pattern, folder, found,
        next((name for name in left if _share(table[name], _is_address) > 0.5), None),
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
    user = _named(left, USER)
    by_values = user is None
    if user is None:
        repeated = {name: len(head[name].unique()) for name in left}
        user = max((n for n in left if 1 < repeated[n] < len(head)), key=repeated.__getitem__, default=None)
    if user is None:
        raise ConfigError(
            "C302", "no column of the choices seems to name who chose", where=str(path),
            why=f"columns: {', '.join(head.column_names)}", next_step="give it a column such as user_id",
        )  # fmt: skip
    called = [name for name in hints(left, _TIME) if name != user]
    timestamp = next((name for name in called if _are_times(head[name])), None)
    labels = () if label is None else tuple(sorted(map(str, head[label].unique().to_pylist())))
    unread = None if timestamp or not called else called[0]
    return ChoiceTable(path, user, item, known, timestamp, label, labels, by_values, unread)


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


def _is_address(text: str) -> bool:
    return text.startswith(("http://", "https://")) and text.partition("?")[0].lower().endswith(PICTURES)


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
    return next(iter(hints(names, words)), None)
