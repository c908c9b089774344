"""The embedded default: a drawn shop, the models that ship with it, and the configuration that runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from extract.errors import RunFolderError
from extract.store import write_atomic

if TYPE_CHECKING:
    from catalograph.config import RunConfig


def prepare_demo(
    folder: Path, *, seed: int = 0, items: int = 1000, users: int = 1500, hidden: float = 1.0
) -> RunConfig:
    """Draws the shop into `folder`/shop, unless it is there, and returns the configuration that runs on it.

    Args:
        folder: the run folder.
        seed: of the shop and of the run.
        items: items in the shop.
        users: people who choose in it.
        hidden: the dial, how strongly traits that only the pictures show drive choices, 0 to 1.

    Raises:
        RunFolderError: R106, the folder holds another shop.
    """
    from catalograph.config_file import load_config

    wanted = {"seed": seed, "items": items, "users": users, "hidden": hidden}
    marker = folder / "shop" / "shop.json"
    if not marker.is_file():
        from catalograph.demo.shop import open_shop, write_shop

        write_shop(open_shop(items, users, dial=hidden, seed=seed), folder / "shop")
        write_atomic(marker, json.dumps(wanted).encode())
    found = json.loads(marker.read_text())
    if found != wanted:
        changed = [
            f"{key}: {found.get(key)} before, {wanted[key]} now"
            for key in wanted
            if found.get(key) != wanted[key]
        ]
        raise RunFolderError(
            "R106", "the folder holds the run of another shop", where=str(folder), why="; ".join(changed),
            next_step="use another --run-dir",
        )  # fmt: skip
    return load_config(packaged_config("demo"), [f"data.root={folder.absolute() / 'shop'}", f"seed={seed}"])


def packaged_config(name: str) -> Path:
    """The file of a configuration that ships with the product, from a wheel or from a checkout."""
    here = Path(__file__).parents[1]
    packaged = here / "configs" / f"{name}.yaml"
    return packaged if packaged.is_file() else here.parent / "configs" / f"{name}.yaml"
