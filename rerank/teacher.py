"""Orders of a teacher as labels: permutations of a list's items, by user or query, from a file.

FIRST and RankZephyr learn from a stronger model's permutations (Reddy et al. 2024, Pradeep et al. 2023). The
item at the teacher's rank r gets relevance 1/r, one it did not name 0: losses that read the order alone see
the whole permutation, those that read gains see the top weigh most.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import repeat
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from extract.errors import InvalidData, UnsafeInput
from rerank.lists import RankingList
from rerank.search import IDS, text_lines

Orders = Mapping[str, Sequence[Sequence[str]]]
"""By user or query id, orders of item ids, best first: one, or one for each fold's list."""

WHOSE = ("user_id", "query_id", "qid", "id")
WHAT = ("items", "item_ids", "docids")


def read_orders(path: Path) -> dict[str, list[tuple[str, ...]]]:
    """By user or query id, orders of item ids, best first.

    Parquet with the columns user_id (or query_id, qid), item_id and rank, as the stages write lists, and a
    column fold where an id has several; JSON lines `{"user_id": .., "items": [..]}`, an order a line;
    anything else is a TREC run, ordered by score, ties by rank.

    Raises:
        InvalidData: D223, a row is no order; D224, an order names an item or a rank twice.
        UnsafeInput: U102, the file cannot be read.
    """
    suffix = path.name.removesuffix(".gz").rpartition(".")[2]
    read = {"parquet": _parquet, "jsonl": _json_lines}.get(suffix, _trec)
    found: dict[str, list[tuple[str, ...]]] = {}
    for name, items in read(path):
        if len(set(items)) < len(items):
            raise _twice(path, name, "names an item twice")
        found.setdefault(name, []).append(tuple(items))
    return found


def taught(lists: Sequence[RankingList], orders: Orders) -> list[RankingList]:
    """The lists with relevance 1/r by the teacher's ranks r among their own candidates.

    A list whose user or query the teacher did not order, or of whose candidates it names none, keeps its own.
    Where an id has several lists, as from several folds, or several orders, an order counts for the lists all
    of whose candidates it names: laid over another fold's list it would hide that list's truth.
    """
    count = Counter(entry.user_id for entry in lists)
    made = []
    for entry in lists:
        own, given = set(entry.candidates), orders.get(entry.user_id, ())
        if count[entry.user_id] > 1 or len(given) > 1:
            given = [order for order in given if own <= set(order)]
        named = [item for item in given[0] if item in own] if given else []
        rank = {item: place for place, item in enumerate(named, start=1)}
        relevance = [1 / rank[item] if item in rank else 0.0 for item in entry.candidates]
        made.append(replace(entry, relevance=np.array(relevance, np.float32)) if named else entry)
    return made


def _twice(path: Path, name: str, what: str) -> InvalidData:
    return InvalidData(
        "D224", f"an order of {name} {what}", where=str(path),
        next_step="write each item of a list once, and the orders of several folds apart: by a column fold",
    )  # fmt: skip


def _no_order(where: str, why: str, next_step: str) -> InvalidData:
    return InvalidData("D223", "a row is no order", where=where, why=why, next_step=next_step)


def _parquet(path: Path) -> Iterator[tuple[str, list[str]]]:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise UnsafeInput("U102", "a file cannot be read", where=str(path), why=str(error)) from error
    whose = next((name for name in WHOSE if name in table.column_names), None)
    if whose is None or not {"item_id", "rank"} <= set(table.column_names):
        raise InvalidData(
            "D223", "a table of orders lacks a column", where=str(path), why=", ".join(table.column_names),
            next_step="give it user_id (or query_id, qid), item_id and rank",
        )  # fmt: skip
    rows: dict[tuple[str, str], dict[int, str]] = {}
    folds = table["fold"].to_pylist() if "fold" in table.column_names else repeat("")
    columns = (table[name].to_pylist() for name in (whose, "rank", "item_id"))
    for row, (fold, name, rank, item) in enumerate(zip(folds, *columns)):
        try:
            place, key = int(rank), (_text(name), str(fold))
            if place in rows.setdefault(key, {}):
                raise _twice(path, key[0], f"names rank {place} twice")
            rows[key][place] = _text(item)
        except (ValueError, TypeError, OverflowError) as error:
            raise _no_order(f"{path}, row {row}", str(error), "write ids and whole ranks") from error
    for (name, _), group in rows.items():
        yield name, [item for _, item in sorted(group.items())]


def _text(value: object) -> str:
    """An id as text.

    Raises:
        TypeError: it is neither a text nor a whole number.
    """
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise TypeError(f"{value!r} is no id")
    return str(value)


def _json_lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    for number, line in enumerate(text_lines(path), start=1):
        try:
            row = json.loads(line)
            name = _text(next(row[key] for key in (*WHOSE, *IDS) if key in row))
            items = next(row[key] for key in WHAT if key in row)
            if not isinstance(items, list):
                raise TypeError(f"a list was wanted, not {items!r}")
            order = [_text(item) for item in items]
        except (ValueError, TypeError, StopIteration, RecursionError) as error:
            why = str(error) or "it lacks user_id or items"
            raise _no_order(f"{path}, line {number}", why, 'write {"user_id": .., "items": [..]}') from error
        yield name, order


def _trec(path: Path) -> Iterator[tuple[str, list[str]]]:
    rows: dict[str, dict[int, tuple[float, int, str]]] = {}
    for number, line in enumerate(text_lines(path), start=1):
        try:
            name, _, item, rank, score = line.split()[:5]
            if not math.isfinite(float(score)):
                raise ValueError(f"{score} is no score")
            place = int(rank)
            # Two orders of one id, one behind the other, would be interleaved by their scores.
            if place in rows.setdefault(name, {}):
                raise _twice(path, name, f"names rank {place} twice")
            rows[name][place] = (-float(score), place, item)
        except ValueError as error:
            raise _no_order(
                f"{path}, line {number}", str(error), "write: user Q0 item rank score tag"
            ) from error
    for name, group in rows.items():
        yield name, [item for *_, item in sorted(group.values())]
