"""A small shop as somebody would have it: two CSV files and a folder of pictures."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from catalograph.demo.shop import BRANDS, CATEGORIES, open_shop, picture_zip
from extract.errors import ConfigError
from extract.store import write_atomic


def write_sample(folder: Path, *, items: int = 60, people: int = 120, seed: int = 0) -> None:
    """Write `items.csv`, `clicks.csv` and the pictures in `photos/`: the same bytes for the same arguments.

    Raises:
        ConfigError: C303, one of them is there already.
    """
    for name in ("items.csv", "clicks.csv", "photos"):
        if (folder / name).exists():
            raise ConfigError(
                "C303", "a file of the sample is there already", where=str(folder / name),
                next_step="give another folder, or leave --sample out to use what is there",
            )  # fmt: skip
    shop = open_shop(items, people, dial=1, seed=seed)
    ids = [f"p{row:03d}" for row in range(items)]
    (folder / "photos").mkdir(parents=True)
    with zipfile.ZipFile(io.BytesIO(picture_zip(shop, ids, 128))) as archive:
        archive.extractall(folder / "photos")
    rows = [
        (item, shop.title(row), f"A {CATEGORIES[shop.category[row]]} for every day.", f"{item}.jpg",
         BRANDS[shop.brand[row]])
        for row, item in enumerate(ids)
    ]  # fmt: skip
    _write(folder / "items.csv", ("sku", "name", "description", "photo", "brand"), rows)
    clicks = (
        (f"c{person:03d}", ids[item], datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%d %H:%M:%S"))
        for person, item, second in zip(
            shop.people.tolist(), shop.chosen.tolist(), shop.seconds.tolist(), strict=True
        )
    )
    _write(folder / "clicks.csv", ("customer", "sku", "time"), clicks)


def _write(path: Path, header: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_atomic(path, text.getvalue().encode())
