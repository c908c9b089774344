"""A split for other programs: RecBole's atomic files, MMRec's `.inter`, TREC's qrels.

What is written is read again by `interaction_files` with the same pairs, times, weights and parts, in the
same order. An export is a new folder, whole or absent.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from extract.disk import new_folder
from extract.errors import InvalidData, UnsafeInput
from recsys.interactions import Interactions
from recsys.trec import trec_field

PARTS = ("train", "valid", "test")
Rows = Iterable[Sequence[object]]


def export_split(parts: Mapping[str, Interactions], folder: Path, format: str, name: str) -> list[Path]:
    """Write the parts train, valid and test of one split into a new folder.

    Args:
        parts: on the same axes; an empty one is written as such.
        folder: does not exist yet.
        format: a name from `FORMATS`.
        name: of the data set; files begin with it.

    Returns:
        The files, sorted.

    Raises:
        UnsafeInput: U407, the folder exists; U408, the name is none for a file.
        InvalidData: D216, an id has a line break, which no line of a text file can hold.
    """
    with new_folder(folder) as half:
        if not re.fullmatch(r"[\w-]+", name):
            raise UnsafeInput("U408", f"a data set called {name!r} has no file of its own to be written to")
        first = parts[PARTS[0]]
        for axis in (first.user_ids.tolist(), first.item_ids.tolist()):
            if broken := [text for text in axis if re.search(r"[\r\n]", text)]:
                raise InvalidData("D216", "an id holds a line break", why=repr(broken[0]))
        FORMATS[format](parts, half, name)
    return sorted(folder.iterdir())


def _recbole(parts: Mapping[str, Interactions], folder: Path, name: str) -> None:
    """NAME.inter with the part as a column, and one file per part for RecBole's `benchmark_filename`."""
    fields = {"user_id:token": "users", "item_id:token": "items"}
    optional = {"rating:float": "weights", "timestamp:float": "timestamps"}
    fields |= {field: column for field, column in optional.items() if _everywhere(parts, column)}
    rows = {part: list(zip(*(_column(parts[part], column) for column in fields.values()))) for part in PARTS}
    for part in PARTS:
        _write(folder / f"{name}.{part}.inter", list(fields), rows[part])
    whole = ([*row, part] for part in PARTS for row in rows[part])
    _write(folder / f"{name}.inter", [*fields, "split:token"], whole)


def _mmrec(parts: Mapping[str, Interactions], folder: Path, name: str) -> None:
    """NAME.inter with numbers for ids and x_label 0, 1, 2, and files that say which number is which id."""
    first = parts[PARTS[0]]
    numbers = {"users": _numbered(first.user_ids.tolist()), "items": _numbered(first.item_ids.tolist())}
    extra = {"rating": "weights", "timestamp": "timestamps"}
    extra = {field: column for field, column in extra.items() if _everywhere(parts, column)}
    rows = (
        (numbers["users"][user], numbers["items"][item], *rest, label)
        for label, part in enumerate(PARTS)
        for user, item, *rest in zip(
            *(_column(parts[part], column) for column in ("users", "items", *extra.values()))
        )
    )
    _write(folder / f"{name}.inter", ["userID", "itemID", *extra, "x_label"], rows)
    for file, header, axis in (
        ("u_id_mapping.csv", ("user_id", "userID"), "users"),
        ("i_id_mapping.csv", ("asin", "itemID"), "items"),
    ):
        by_number = sorted((number, text) for text, number in numbers[axis].items())
        _write(folder / file, header, ((text, number) for number, text in by_number))


def _qrels(parts: Mapping[str, Interactions], folder: Path, name: str) -> None:
    """NAME.PART.qrels: a line `user 0 item 1` per choice, ids escaped as in the TREC runs."""
    for part in PARTS:
        pairs = zip(_column(parts[part], "users"), _column(parts[part], "items"), strict=True)
        lines = (f"{trec_field(user)} 0 {trec_field(item)} 1\n" for user, item in pairs)
        (folder / f"{name}.{part}.qrels").write_text("".join(lines), encoding="utf-8")


FORMATS: dict[str, Callable[[Mapping[str, Interactions], Path, str], None]] = {
    "recbole": _recbole,
    "mmrec": _mmrec,
    "qrels": _qrels,
}


def _numbered(ids: Sequence[str]) -> dict[str, int]:
    """Numbers from 0 in the order of the axis; ids that are such numbers themselves are kept.

    Kept only while they are dense: MMRec makes a row for every number up to the largest.
    """
    if all(re.fullmatch(r"0|[1-9]\d{0,17}", text) for text in ids) and max(map(int, ids)) < 2 * len(ids):
        return {text: int(text) for text in ids}
    return {text: number for number, text in enumerate(ids)}


def _everywhere(parts: Mapping[str, Interactions], column: str) -> bool:
    return all(getattr(parts[part], column) is not None for part in PARTS)


def _column(part: Interactions, name: str) -> list[Any]:
    if name == "users":
        return list(part.user_ids[part.user_rows].tolist())
    if name == "items":
        return list(part.item_ids[part.item_rows].tolist())
    return list(getattr(part, name).tolist())


def _write(path: Path, header: Sequence[str], rows: Rows) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
