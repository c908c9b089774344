"""Orders of a teacher as labels: permutations of a list's items, by user or query, from a file.

FIRST and RankZephyr learn from a stronger model's permutations (Reddy et al. 2024, Pradeep et al. 2023). The
item at the teacher's rank r gets relevance 1/r, one it did not name 0: losses that read the order alone see
the whole permutation, those that read gains see the top weigh most.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from extract.errors import InvalidData, UnsafeInput
from rerank.lists import RankingList
from rerank.search import IDS, text_lines

Orders = Mapping[str, Sequence[str]]

WHOSE = ("user_id", "query_id", "qid", "id")
WHAT = ("items", "item_ids", "docids")


def read_orders(path: Path) -> dict[str, tuple[str, ...]]:
    """By user or query id, item ids, best first.

    Parquet with the columns user_id (or query_id, qid), item_id and rank, as the stages write lists; JSON
    lines `{"user_id": .., "items": [..]}`; anything else is a TREC run, ordered by score, ties by rank.

    Raises:
        InvalidData: D223, a row is no order; D224, an id has two orders, or an order an item twice.
        UnsafeInput: U102, the file cannot be read.
    """
    suffix = path.name.removesuffix(".gz").rpartition(".")[2]
    read = {"parquet": _parquet, "jsonl": _json_lines}.get(suffix, _trec)
    found: dict[str, tuple[str, ...]] = {}
    for name, items in read(path):
        if name in found or len(set(items)) < len(items):
            what = "more than one order" if name in found else "an order that names an item twice"
            raise InvalidData(
                "D224", f"{name} has {what}", where=str(path), next_step="write each item of a list once"
            )
        found[name] = tuple(items)
    return found


def taught(lists: Sequence[RankingList], orders: Orders) -> list[RankingList]:
    """The lists with relevance 1/r by the teacher's ranks r among their own candidates.

    A list whose user or query the teacher did not order, or of whose candidates it names none, keeps its own.
    """
    made = []
    for entry in lists:
        own = set(entry.candidates)
        named = [item for item in orders.get(entry.user_id, ()) if item in own]
        rank = {item: place for place, item in enumerate(named, start=1)}
        relevance = [1 / rank[item] if item in rank else 0.0 for item in entry.candidates]
        made.append(replace(entry, relevance=np.array(relevance, np.float32)) if named else entry)
    return made


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
    rows: dict[str, list[tuple[int, str]]] = {}
    columns = (table[name].to_pylist() for name in (whose, "rank", "item_id"))
    for name, rank, item in zip(*columns, strict=True):
        rows.setdefault(str(name), []).append((int(rank), str(item)))
    for name, group in rows.items():
        yield name, [item for _, item in sorted(group)]


def _json_lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    for number, line in enumerate(text_lines(path), start=1):
        try:
            row = json.loads(line)
            name = next(row[key] for key in (*WHOSE, *IDS) if key in row)
            items = next(row[key] for key in WHAT if key in row)
            if not isinstance(items, list):
                raise TypeError(f"a list was wanted, not {items!r}")
        except (ValueError, TypeError, StopIteration) as error:
            raise InvalidData(
                "D223", "a line is no order", where=f"{path}, line {number}",
                why=str(error) or "it lacks user_id or items",
                next_step='write {"user_id": .., "items": [..]}',
            ) from error  # fmt: skip
        yield str(name), [str(item) for item in items]


def _trec(path: Path) -> Iterator[tuple[str, list[str]]]:
    rows: dict[str, list[tuple[float, int, str]]] = {}
    for number, line in enumerate(text_lines(path), start=1):
        try:
            name, _, item, rank, score = line.split()[:5]
            rows.setdefault(name, []).append((-float(score), int(rank), item))
        except ValueError as error:
            raise InvalidData(
                "D223", "a line is no order", where=f"{path}, line {number}", why=str(error),
                next_step="write: user Q0 item rank score tag",
            ) from error  # fmt: skip
    for name, group in rows.items():
        yield name, [item for *_, item in sorted(group)]
