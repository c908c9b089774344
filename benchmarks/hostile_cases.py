"""Hostile and broken inputs, each with the exit code and the words that answer it: `hostile_inputs.py` runs
them.

A case spoils a copy of the tiny shop of `hostile_shop.py` and names the command that meets what was spoilt.
The cases lie by what they spoil: `hostile_configs.py`, `hostile_tables.py`, `hostile_vectors.py`,
`hostile_runs.py` and `hostile_searches.py`. Pictures come from `picture_traps.py`, where each has the reasons
that fit it.
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hostile_configs import config_cases
from hostile_runs import output_cases, run_folder_cases
from hostile_searches import model_cases, search_cases
from hostile_shop import Case, configure, write_clicks
from hostile_tables import database_cases, id_cases, table_cases
from hostile_vectors import vector_cases
from picture_traps import Case as Picture
from picture_traps import bombs, drawn, impostors, make_traps, names, odd


def picture_cases(seed: int) -> Iterator[tuple[str, list[Picture]]]:
    """By row of the table, pictures with the reasons that fit them: each row is one catalogue."""
    picture = drawn(np.random.default_rng([seed, 1]), 96)
    chance = random.Random(seed)
    by_kind: dict[str, list[Picture]] = {}
    for case in (*names(), *impostors(picture), *odd(picture), *bombs(picture)):
        by_kind.setdefault(case[0], []).append(case)
    data = io.BytesIO()
    picture.save(data, "JPEG")
    by_kind["cut JPEG"] = [
        ("cut", None, data.getvalue()[:-n], {"broken"}) for n in (20, 40, chance.randrange(60, 500))
    ]
    yield from by_kind.items()


def picture_shop(folder: Path, pictures: list[Picture]) -> dict[str, set[str]]:
    """Writes a catalogue of as many good items as bad ones; the fitting reasons by id."""
    good = folder / "pictures" / "good"
    good.mkdir()
    rows, fits = [], {}
    for n in range(max(12, len(pictures))):
        drawn(np.random.default_rng([7, n]), 24).save(good / f"{n}.png")
        drawn(np.random.default_rng([7, n]), 24).save(good / f"{n}.jpg")
        rows.append({"item_id": f"good-{n}", "title": f"mug {n}", "photo": f"good/{n}.png", "brand": "b"})
    for n, (_, name, data, answers) in enumerate(pictures):
        rows.append({
            "item_id": f"bad-{n}",
            "title": f"mug {n}",
            "photo": name if name is not None else f"b{n}.png",
            "brand": "b",
        })
        fits[f"bad-{n}"] = answers
        if data is not None:
            (folder / "pictures" / f"b{n}.png").write_bytes(data)
    make_traps(folder / "pictures")
    pq.write_table(pa.Table.from_pylist(rows), folder / "items.parquet")
    write_clicks(folder, [("u", "good-0"), ("u", "good-1"), ("u", "good-2")])
    configure(folder, data={"catalog": "items.parquet"}, caption={"limits": {"max_seconds": 3}}, max_bad=1.0)
    return fits


def single_cases() -> Iterator[Case]:
    """All cases that are a command of their own."""
    yield from config_cases()
    yield from table_cases()
    yield from id_cases()
    yield from vector_cases()
    yield from database_cases()
    yield from run_folder_cases()
    yield from output_cases()
    yield from search_cases()
    yield from model_cases()
