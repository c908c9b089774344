"""A tiny shop (12 items, 4 users, the public fake engine), the ways to spoil it, and what a case is."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from picture_traps import drawn

Spoil = Callable[[Path], None]
DOCUMENTED = {0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 130, 143}
"""Exit codes that the guide names; 1 is an internal error."""


@dataclass(frozen=True)
class Case:
    """One hostile input: the row of the table it belongs to, what to spoil, and the answer that is right."""

    row: str
    name: str
    verb: str
    spoil: Spoil
    code: int
    says: str
    """Part of what the command prints."""
    more: tuple[str, ...] = ()
    """Arguments beside the configuration and the run folder; a search has these alone."""
    check: Callable[[Path], str] = field(default=lambda folder: "")
    """What is wrong with what the command left, or nothing."""
    first: str = ""
    """A verb that is run before the spoiling, and must succeed."""
    heavy: bool = False
    """Loads torch."""


CONFIG: dict[str, Any] = {
    "data": {
        "catalog": "items.csv",
        "interactions": "clicks.csv",
        "pictures": "pictures",
        "catalog_columns": {"picture": "photo", "attributes": ["brand"]},
    },
    "caption": {"engine": "fake", "prompt": "titled", "buckets": 2, "decoders": 1},
    "features": {"words": {"template": "{title}", "embed": {"engine": "fake", "buckets": 2}}},
    "retrievers": {"popularity": {"model": "popularity"}},
    "candidates": {"k": 3},
    "evaluate": {"ks": [2], "bootstrap": 100},
    "max_bad": 0.6,
}
ITEMS = [
    {"item_id": f"i{n}", "title": f"mug {n}", "photo": f"{n}.png", "brand": "b" if n % 2 else "c"}
    for n in range(12)
]
CLICKS = [(f"u{u}", f"i{(u + 2 * n) % 12}") for u in range(4) for n in range(6)]


def write_shop(folder: Path) -> None:
    """The shop before it is spoilt."""
    (folder / "pictures").mkdir(parents=True)
    for n in range(12):
        drawn(np.random.default_rng(n), 24).save(folder / "pictures" / f"{n}.png")
    write_items(folder, ITEMS)
    write_clicks(folder, CLICKS)
    configure(folder)


def configure(folder: Path, **sections: Any) -> None:
    """Write the configuration with some sections merged into it; None takes one out."""
    config = json.loads(json.dumps(CONFIG))
    for name, value in sections.items():
        config[name] = {**config[name], **value} if isinstance(value, dict) and config.get(name) else value
    (folder / "run.yaml").write_text(yaml.safe_dump({k: v for k, v in config.items() if v is not None}))


def write_items(folder: Path, rows: list[dict[str, str]], name: str = "items.csv") -> None:
    text = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    (folder / name).write_text("\n".join(text) + "\n", encoding="utf-8")


def write_clicks(folder: Path, rows: list[tuple[str, str]], name: str = "clicks.csv") -> None:
    (folder / name).write_text("user_id,item_id\n" + "".join(f"{u},{i}\n" for u, i in rows), encoding="utf-8")


def with_items(change: Callable[[list[dict[str, str]]], list[dict[str, str]]]) -> Spoil:
    return lambda folder: write_items(folder, change([dict(row) for row in ITEMS]))


def file(file_name: str, content: bytes, **sections: Any) -> Spoil:
    """One file of these bytes, and a configuration that reads it."""

    def spoil(folder: Path) -> None:
        (folder / file_name).parent.mkdir(parents=True, exist_ok=True)
        (folder / file_name).write_bytes(content)
        configure(folder, **sections)

    return spoil


def catalog(name: str) -> dict[str, Any]:
    return {"data": {"catalog": name}}


def clicks(name: str, **more: Any) -> dict[str, Any]:
    return {"data": {"interactions": name, **more}}


class Bomb:
    """Makes a file where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/catalograph-pickle-ran",)


def no_code_ran(folder: Path) -> str:
    found = [
        p for p in (Path("/tmp/catalograph-pickle-ran"), Path("/tmp/catalograph-template-ran")) if p.exists()
    ]
    for path in found:
        path.unlink()
    return f"code ran: {found}" if found else ""
