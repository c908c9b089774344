"""The drawn shop: products whose pictures show what their titles do not say, and people who choose by both.

How a person u chooses at step t, among a shelf of items drawn at random (utility in units of the noise):

    utility(i) = appeal_i                                        drawn once per item, N(0, 0.5)
               + 1.5 [category_i liked by u] + 1.5 [category_i = what u is looking for at t]
               + dial * sum over colour, pattern, shape of
                     (0.8 [trait_i = lasting taste of u] + 2.0 [trait_i = mood of u at t])
               + Gumbel noise

What u is looking for changes between choices with probability 0.3 to another category u likes; each part of
the mood changes with probability 0.12, half of the time back to the lasting taste. So histories have an order
that matters, and the `dial` (0 to 1) says how strongly traits, which only the pictures show, drive the
choices.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from catalograph.demo.draw import COLOURS, PATTERNS, SHAPES, UNSEEN_STYLE, Traits, draw
from extract.store import write_atomic

CATEGORIES = ("mug", "lamp", "rug", "cushion", "poster", "backpack", "notebook", "scarf", "clock", "vase")
MODELS = (
    "classic",
    "compact",
    "everyday",
    "travel",
    "studio",
    "garden",
    "weekend",
    "family",
    "original",
    "slim",
)
BRANDS = (
    "Norda", "Velin", "Tarka", "Osmo", "Brisa", "Kelda", "Mirel", "Panto", "Quill", "Ronda",
    "Sorrel", "Umbra", "Wick", "Yarrow", "Zephyr", "Aldo", "Cava", "Dovra", "Elm", "Fjord",
)  # fmt: skip
GROUPS = (tuple(COLOURS), PATTERNS, SHAPES)
SHELF = 600
LIKED = 3
FIRST_SECOND = 1_700_000_000


@dataclass(frozen=True)
class Shop:
    """A shop and what happened in it; items and people are positions, which become ids on writing."""

    category: NDArray[np.int64]
    """[I] row in CATEGORIES."""
    model: NDArray[np.int64]
    """[I] row in MODELS."""
    brand: NDArray[np.int64]
    """[I] row in BRANDS."""
    traits: NDArray[np.int64]
    """[I, 3] rows in COLOURS, PATTERNS, SHAPES."""
    people: NDArray[np.int64]
    """[E] who chose."""
    chosen: NDArray[np.int64]
    """[E] which item."""
    seconds: NDArray[np.int64]
    """[E] when, Unix seconds; rising within a person."""
    utility_of_last: NDArray[np.float32]
    """[U, I] noiseless utility at each person's last choice, an oracle's ranking; empty for large shops."""
    seed: int

    def title(self, row: int) -> str:
        """What the shop calls an item: no trait is in it."""
        return f"{BRANDS[self.brand[row]]} {MODELS[self.model[row]]} {CATEGORIES[self.category[row]]}"

    def trait_names(self, row: int) -> Traits:
        """The truth about an item's picture."""
        return Traits(*(group[value] for group, value in zip(GROUPS, self.traits[row], strict=True)))


def open_shop(items: int, people: int, *, dial: float, seed: int, choices: tuple[int, int] = (9, 17)) -> Shop:
    """Makes a shop of `items` items and lets `people` people choose in it.

    Args:
        dial: how strongly the traits that only pictures show drive the choices, 0 to 1.
        choices: least and largest number of choices of a person.
    """
    rng = np.random.default_rng([seed, items, people])
    category = rng.integers(len(CATEGORIES), size=items)
    traits = np.stack([rng.integers(len(group), size=items) for group in GROUPS], axis=1)
    appeal = rng.normal(0, 0.5, items).astype(np.float32)
    model, brand = rng.integers(len(MODELS), size=items), rng.integers(len(BRANDS), size=items)

    liked = np.argsort(rng.random((people, len(CATEGORIES))), axis=1)[:, :LIKED]
    taste = np.stack([rng.integers(len(group), size=people) for group in GROUPS], axis=1)
    mood = np.stack([rng.integers(len(group), size=people) for group in GROUPS], axis=1)
    wanted = liked[:, 0].copy()
    length = rng.integers(choices[0], choices[1] + 1, size=people)
    clock = FIRST_SECOND + rng.integers(0, 90 * 86_400, size=people)

    who, what, when = [], [], []
    taken = np.zeros((people, int(length.max())), np.int64) - 1
    last = np.zeros((people, items) if people * items <= 20_000_000 else (0, 0), np.float32)
    for step in range(int(length.max())):
        _change_mind(rng, wanted, liked, mood, taste)
        active = np.flatnonzero(step < length)
        for block in np.array_split(active, max(1, len(active) * SHELF // 4_000_000)):
            shelf = rng.integers(items, size=(len(block), min(SHELF, items)))
            noiseless = _utility(block, shelf, category, traits, appeal, liked, wanted, taste, mood, dial)
            seen = (shelf[:, :, None] == taken[block][:, None, :step]).any(axis=2)
            noisy = np.where(seen, -np.inf, noiseless + rng.gumbel(size=shelf.shape))
            picked = shelf[np.arange(len(block)), noisy.argmax(axis=1)]
            taken[block, step] = picked
            who.append(block)
            what.append(picked)
            when.append(clock[block])
        if len(last):
            ending = np.flatnonzero(step == length - 1)
            every = np.broadcast_to(np.arange(items), (len(ending), items))
            last[ending] = _utility(ending, every, category, traits, appeal, liked, wanted, taste, mood, dial)
        clock = clock + rng.integers(600, 3 * 86_400, size=people)
    order = np.lexsort((np.concatenate(when), np.concatenate(who)))
    return Shop(
        category, model, brand, traits, np.concatenate(who)[order], np.concatenate(what)[order],
        np.concatenate(when)[order], last, seed,
    )  # fmt: skip


def _change_mind(
    rng: np.random.Generator,
    wanted: NDArray[np.int64],
    liked: NDArray[np.int64],
    mood: NDArray[np.int64],
    taste: NDArray[np.int64],
) -> None:
    people = len(wanted)
    moved = rng.random(people) < 0.3
    wanted[moved] = liked[moved, rng.integers(LIKED, size=int(moved.sum()))]
    for column, group in enumerate(GROUPS):
        moved = rng.random(people) < 0.12
        fresh = rng.integers(len(group), size=people)
        back = rng.random(people) < 0.5
        mood[moved, column] = np.where(back, taste[:, column], fresh)[moved]


def _utility(
    block: NDArray[np.int64],
    shelf: NDArray[np.int64],
    category: NDArray[np.int64],
    traits: NDArray[np.int64],
    appeal: NDArray[np.float32],
    liked: NDArray[np.int64],
    wanted: NDArray[np.int64],
    taste: NDArray[np.int64],
    mood: NDArray[np.int64],
    dial: float,
) -> NDArray[np.float32]:
    """The formula of the module's docstring without its noise, [people in block, items on shelf]."""
    kind = category[shelf]
    utility: NDArray[np.float32] = appeal[shelf] + 1.5 * (kind[:, :, None] == liked[block][:, None, :]).any(
        axis=2
    )
    utility += 1.5 * (kind == wanted[block][:, None])
    for column in range(len(GROUPS)):
        shown = traits[shelf, column]
        utility += dial * (
            0.8 * (shown == taste[block, column][:, None]) + 2.0 * (shown == mood[block, column][:, None])
        )
    return utility.astype(np.float32)


def write_shop(shop: Shop, folder: Path, *, picture_size: int = 128) -> None:
    """Writes `catalog.parquet`, `pictures.zip`, `interactions.parquet`: the same bytes for the same shop."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = range(len(shop.category))
    ids = [f"p{row:06d}" for row in rows]
    catalog = {
        "product": ids,
        "name": [shop.title(row) for row in rows],
        "photo": [f"{item}.jpg" for item in ids],
        "category": [CATEGORIES[kind] for kind in shop.category],
        "brand": [BRANDS[brand] for brand in shop.brand],
    }
    clicks = {
        "person": [f"u{row:06d}" for row in shop.people],
        "product": [ids[row] for row in shop.chosen],
        "time": pa.array(shop.seconds, pa.int64()),
    }
    for name, columns in (("catalog.parquet", catalog), ("interactions.parquet", clicks)):
        buffer = io.BytesIO()
        pq.write_table(pa.table(columns), buffer)
        write_atomic(folder / name, buffer.getvalue())
    truth = {
        item: [shop.trait_names(row).caption, *map(int, shop.traits[row])]
        for row, item in zip(rows, ids, strict=True)
    }
    write_atomic(folder / "truth.json", json.dumps(truth).encode())
    write_atomic(folder / "pictures.zip", picture_zip(shop, ids, picture_size))


def picture_zip(shop: Shop, ids: list[str], size: int) -> bytes:
    """One JPEG of `size` pixels a side for each item, stored under ID.jpg."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for row, item in enumerate(ids):
            rng = np.random.default_rng([shop.seed, row])
            encoded = io.BytesIO()
            Image.fromarray(draw(shop.trait_names(row), UNSEEN_STYLE, rng, size)).save(
                encoded, "JPEG", quality=88
            )
            archive.writestr(zipfile.ZipInfo(f"{item}.jpg"), encoded.getvalue())
    return buffer.getvalue()
