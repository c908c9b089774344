"""Tables found in a folder and read for a first look; what spreadsheets do to them is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from catalograph.validate import columns_of
from extract.errors import CatalographError, ConfigError, InvalidData
from extract.tables import read_columns
from recsys.interaction_files import column_names, read_batches

TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
CHOICES = (*TABLES, ".inter", ".txt")
USER = ("user", "customer", "person", "people", "visitor", "session", "member", "account", "client", "reader")


def find_tables(folder: Path, catalog: Path | None, interactions: Path | None) -> tuple[Path, Path | None]:
    """The table of items and that of choices (None: there is none) among the files of a folder.

    Raises:
        ConfigError: C301, there is no table, or more than names can tell apart.
    """
    names = sorted(path for path in folder.iterdir() if path.is_file())
    given = [path.resolve() for path in (catalog, interactions) if path is not None]
    tables = [path for path in names if path.name.removesuffix(".gz").endswith(CHOICES)]
    left = [path for path in tables if path.resolve() not in given]
    if catalog is not None:
        # The others are looked at only if there can be no doubt.
        return catalog, interactions or (left[0] if len(left) == 1 else None)
    if interactions is None:
        chosen = [path for path in left if hints(_columns(path), USER)]
        interactions = chosen[0] if len(chosen) == 1 else None
        if interactions is None and len(left) > 1:
            for path in left:
                # One that cannot be read may be the one that is looked for.
                _readable_columns(path)
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


def item_rows(path: Path) -> pa.Table:
    """All columns of a table of items, as texts.

    Raises:
        ConfigError: C302, other separators than its name says; InvalidData: D104, it cannot be read.
    """
    try:
        names = columns_of(path)
    except FileNotFoundError as error:
        raise ConfigError("C301", "the table of items is not there", where=str(path)) from error
    except (OSError, ValueError, EOFError) as error:
        raise _unreadable(path, error) from error
    _need_separators(path, names)
    return read_columns(path, names)


def choice_rows(path: Path) -> pa.Table:
    """The first rows of an interaction file, all columns; errors as `item_rows`, and C302 for no row."""
    names = _readable_columns(path)
    _need_separators(path, names)
    try:
        batch = next(iter(read_batches(path, names)), None)
    except InvalidData as error:
        raise _unreadable(path, error) from error
    if batch is None or not len(batch):
        raise ConfigError("C302", "the table of choices has no rows", where=str(path))
    return pa.Table.from_batches([batch])


def hints(names: Sequence[str], words: Sequence[str]) -> list[str]:
    """Names that hold one of the words, those of the earliest word first; whole names before parts."""
    rank: Mapping[str, tuple[bool, int]] = {
        name: (name.lower() not in words, place)
        for name in names
        for place, word in reversed(list(enumerate(words)))
        if word in name.lower()
    }
    return sorted(rank, key=rank.__getitem__)


def _columns(path: Path) -> list[str]:
    try:
        return column_names(path)
    except CatalographError:
        return []


def _readable_columns(path: Path) -> list[str]:
    try:
        return column_names(path)
    except InvalidData as error:
        raise _unreadable(path, error) from error


def _need_separators(path: Path, names: Sequence[str]) -> None:
    other = next((mark for mark in (";", "\t", "|") if len(names) == 1 and mark in names[0]), None)
    if other is not None:
        kind = path.name.removesuffix(".gz").rpartition(".")[2]
        raise ConfigError(
            "C302", f"the columns of this .{kind} are parted by {other!r}", where=str(path),
            why=f"its first line: {names[0][:100]}",
            next_step="save it as a .csv with commas, or as a .tsv with tabs",
        )  # fmt: skip


def _unreadable(path: Path, error: Exception) -> InvalidData:
    return InvalidData(
        "D104", "the table cannot be read", where=str(path), why=getattr(error, "why", "") or str(error),
        next_step="save it as UTF-8 (in a spreadsheet: `CSV UTF-8`), and not as .xlsx under another name",
    )  # fmt: skip
