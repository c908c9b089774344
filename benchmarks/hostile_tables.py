"""Hostile catalogues and interactions: broken text and files, ids that are alike, names that are SQL."""

from __future__ import annotations

import gzip
import io
import json
import unicodedata
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hostile_shop import CLICKS, ITEMS, Case, catalog, clicks, configure, file, with_items

EVENTS = [{"user_id": u, "item_id": i} for u, i in CLICKS]
DEEP = b'{"item_id": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"


def lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def table_cases() -> Iterator[Case]:
    """Catalogues and interactions as text, JSON lines, gzip and Parquet."""
    yield from json_catalogue_cases()
    yield from gzip_cases()
    yield from json_interaction_cases()
    yield from parquet_cases()
    yield from csv_cases()


def json_catalogue_cases() -> Iterator[Case]:
    whole = lines(ITEMS)
    for name, data, says in (
        ("bad UTF-8", whole.replace(b"mug 3", b"mug \xff"), "utf-8"),
        ("a lone surrogate", whole.replace(b"mug 3", b"mug \\ud800"), "surrogates"),
        ("nested too deeply", whole + DEEP, "line 13"),
        ("a list instead of an object", whole + b"[1]\n", "line 13"),
        ("a cut line", whole[:-20], "line 12"),
        ("an id of NaN", whole.replace(b'"i3"', b"NaN"), "no id"),
        ("an empty file", b"", "no column `item_id`"),
    ):
        yield Case(
            "JSON", f"catalogue: {name}", "prepare", file("c.jsonl", data, **catalog("c.jsonl")), 5, says
        )
    yield Case(
        "JSON",
        "catalogue: NaN in a title is no text",
        "prepare",
        file("c.jsonl", whole.replace(b'"mug 3"', b"NaN"), **catalog("c.jsonl")),
        0,
        "24 of 24",
    )


def gzip_cases() -> Iterator[Case]:
    packed, broken = gzip.compress(lines(ITEMS)), bytearray(gzip.compress(lines(ITEMS) * 20))
    broken[40:60] = b"\xff" * 20
    for name, data in (("cut", packed[:-30]), ("damaged", bytes(broken)), ("no gzip", b"\x1f\x8b nonsense")):
        yield Case(
            "gzip",
            f"catalogue: {name}",
            "prepare",
            file("c.jsonl.gz", data, **catalog("c.jsonl.gz")),
            5,
            "error[D104]: the table cannot be read",
        )
        yield Case(
            "gzip",
            f"interactions: {name}",
            "prepare",
            file("k.csv.gz", data, **clicks("k.csv.gz")),
            5,
            "error[D201]: the interaction file cannot be parsed",
        )


def json_interaction_cases() -> Iterator[Case]:
    whole = lines(EVENTS)
    for name, data, says in (
        ("bad UTF-8", whole.replace(b'"u2"', b'"u\xff"'), "utf-8"),
        ("a lone surrogate", whole.replace(b'"u2"', b'"\\ud800"'), "surrogates"),
        ("nested too deeply", whole + DEEP, "nested too deeply"),
        ("no object", whole + b"3\n", "expected an object"),
        ("an empty file", b"", "no interaction is left"),
    ):
        yield Case(
            "JSON", f"interactions: {name}", "prepare", file("k.jsonl", data, **clicks("k.jsonl")), 5, says
        )


def parquet_cases() -> Iterator[Case]:
    for name, data in (
        ("not Parquet", b"PAR1 nonsense PAR1"),
        ("cut Parquet", parquet(EVENTS)[:-9]),
        ("empty Parquet", b""),
    ):
        for memory in (None, 0.2):
            spoil = file("k.parquet", data, **clicks("k.parquet", memory_gib=memory))
            where = "in memory" if memory is None else "on disk"
            yield Case("Parquet", f"interactions, {where}: {name}", "prepare", spoil, 5, "error[D201]")
        yield Case(
            "Parquet",
            f"catalogue: {name}",
            "prepare",
            file("c.parquet", data, **catalog("c.parquet")),
            5,
            "error[D104]",
        )
    floats = pa.table({"item_id": [1.0, 2.0], "title": ["a", "b"], "photo": ["", ""], "brand": ["", ""]})
    sink = io.BytesIO()
    pq.write_table(floats, sink)
    yield Case(
        "Parquet",
        "ids that became decimals",
        "prepare",
        file("c.parquet", sink.getvalue(), **catalog("c.parquet")),
        5,
        "floating-point",
    )


def csv_cases() -> Iterator[Case]:
    long = b"user_id,item_id," + b"x" * 200_000 + b"\n"
    for name, data, says in (
        ("a header of 200,000 letters", long, "error["),
        ("no header", b"u0,i0\nu1,i1\n", "no column"),
        ("a row with a cell too many", b"user_id,item_id\nu0,i0\nu1,i1,x\n", "error[D201]"),
        ("only zero bytes", bytes(5000), "no column"),
        ("only a header", b"user_id,item_id\n", "no interaction is left"),
        ("items unknown to the catalogue", b"user_id,item_id\nu0,x9\n", "x9"),
        ("an open quote", b'user_id,item_id\n"u0,i0\nu1,i1\n', "error["),
    ):
        yield Case("CSV", f"interactions: {name}", "prepare", file("k.csv", data, **clicks("k.csv")), 5, says)
    timed = {"interaction_columns": {"timestamp": "time"}}
    for value in ("yesterday", "", "NaN", "1e400", "2024-02-30", "9" * 30):
        data = f"user_id,item_id,time\nu0,i0,1\nu0,i1,{value}\n".encode()
        yield Case(
            "CSV",
            f"a time of {value!r}",
            "prepare",
            file("k.csv", data, **clicks("k.csv", **timed)),
            5,
            "D204",
        )


def parquet(rows: list[dict[str, str]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def id_cases() -> Iterator[Case]:
    """Ids that are empty, doubled, or alike."""
    both = "'i3' in rows 4, 13"
    doubled = with_items(lambda rows: [*rows, rows[3]])
    yield Case("ids", "the same id twice", "prepare", doubled, 5, both)
    yield Case(
        "ids",
        "an empty id",
        "prepare",
        with_items(lambda rows: [*rows, rows[3] | {"item_id": ""}]),
        5,
        "rows 13",
    )
    for name, other in (
        ("case", "I3"),
        ("an outer space", "i3 "),
        ("Unicode form", unicodedata.normalize("NFD", "é3")),
    ):
        same = "é3" if name == "Unicode form" else "i3"
        spoil = with_items(
            lambda rows, same=same, other=other: [
                *(row for row in rows if row["item_id"] != same),
                rows[3] | {"item_id": same},
                rows[3] | {"item_id": other},
            ]
        )
        yield Case(
            "ids",
            f"differing by {name}: reported, not changed",
            "prepare",
            spoil,
            0,
            "differ from another id only by",
        )


def database_cases() -> Iterator[Case]:
    """Names that are SQL, patterns or other files, where duckdb prepares."""
    evil = 'x"; DROP TABLE raw; --'
    columns = {"interaction_columns": {"user": evil, "item": "it'em"}, "memory_gib": 0.2}
    for name in ("k.parquet", "k'; DROP TABLE raw; --.parquet", "k[0-9]*.parquet", "kü 😀.parquet"):
        data = parquet([{evil: u, "it'em": i} for u, i in CLICKS])
        yield Case(
            "SQL",
            f"columns and a file that are SQL: {name}",
            "prepare",
            file(name, data, **clicks(name, **columns)),
            0,
            "24 of 24",
        )
    yield Case(
        "SQL",
        "an address instead of a file",
        "prepare",
        lambda folder: configure(
            folder, data={"interactions": "https://127.0.0.1:9/k.parquet", "memory_gib": 0.2}
        ),
        4,
        "an input file is missing",
    )
    yield Case(
        "SQL",
        "a memory limit of nothing",
        "prepare",
        lambda folder: configure(folder, data={"memory_gib": 0.001}),
        6,
        "error[R603]",
    )
