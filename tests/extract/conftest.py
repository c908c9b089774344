"""Small pictures and catalogues, drawn on the spot."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from extract import Catalog, Item, PictureSource


def drawn(seed: int, size: tuple[int, int] = (24, 24)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def picture_bytes():
    return lambda seed=0, kind="PNG", size=(24, 24): encoded(drawn(seed, size), kind)


@pytest.fixture
def shop(tmp_path: Path):
    """A maker of catalogues: n items, each with its own picture, every third without one."""

    def make(n: int = 12, *, every_third_absent: bool = False) -> Catalog:
        folder = tmp_path / "pictures"
        folder.mkdir(exist_ok=True)
        items = []
        for number in range(n):
            name = f"{number}.png"
            (folder / name).write_bytes(encoded(drawn(number)))
            absent = every_third_absent and number % 3 == 0
            items.append(Item(f"item-{number}", f"title {number}", picture=None if absent else name))
        return Catalog.from_items(items, PictureSource(folder))

    return make
