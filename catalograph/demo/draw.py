"""Draws one product picture from its visual traits, in one of several drawing styles.

A picture shows a silhouette (`shape`) filled with a `pattern` in a `colour`. Everything else (position, size,
angle, background, line quality, light, noise) belongs to the style and carries no information about the
traits. The captioner is trained on `TRAINING_STYLES` and the shop is drawn in `UNSEEN_STYLE`, which shares no
style with them.
"""

from __future__ import annotations

import itertools
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.floating[Any]]  # [height, width] or [height, width, 3], values 0 to 1

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (206, 38, 40),
    "orange": (240, 136, 24),
    "yellow": (240, 214, 48),
    "green": (46, 150, 66),
    "blue": (42, 88, 202),
    "purple": (128, 52, 168),
    "pink": (244, 128, 180),
    "grey": (128, 130, 134),
}
PATTERNS = ("plain", "striped", "dotted", "checked", "zigzag", "ringed")
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")


@dataclass(frozen=True, slots=True)
class Traits:
    """What a picture shows and no title says."""

    colour: str
    pattern: str
    shape: str

    @property
    def caption(self) -> str:
        """The sentence a perfect captioner writes."""
        return f"a {self.colour} {self.pattern} {self.shape}"


ALL_TRAITS = tuple(Traits(*combination) for combination in itertools.product(COLOURS, PATTERNS, SHAPES))


def is_held_out(traits: Traits) -> bool:
    """One trait combination in five never reaches the captioner's training."""
    return zlib.crc32(traits.caption.encode()) % 5 == 0


@dataclass(frozen=True, slots=True)
class Style:
    """How a picture is drawn. Lengths are in units of half the picture's width."""

    background: str = "flat"
    """`flat`, `gradient`, `dark` or `paper`."""
    outline: float = 0.0
    """Width of the outline, 0 for none."""
    light: float = 0.0
    """Strength of the shading from one side, 0 to 1."""
    grain: float = 0.0
    """Standard deviation of the pixel noise."""
    wobble: float = 0.0
    """How far a hand-drawn line strays."""
    hatch: float = 0.0
    """Strength of the pencil strokes over the silhouette, 0 to 1."""
    blocks: int = 1
    """Side of the square blocks of one value, in pixels."""
    second: str = "white"
    """The colour the pattern is drawn in: `white`, `dark` or `tint`."""


TRAINING_STYLES: dict[str, Style] = {
    "flat": Style(),
    "outlined": Style(outline=0.05),
    "shaded": Style(background="gradient", light=0.5),
    "photo": Style(background="gradient", light=0.35, grain=0.06, second="tint"),
    "poster": Style(background="dark", second="dark"),
    "sketch": Style(background="paper", outline=0.03, wobble=0.05, second="tint"),
    "pixel": Style(blocks=2, second="dark"),
    "stamp": Style(background="paper", grain=0.08, wobble=0.03, second="tint"),
    "night": Style(background="dark", light=0.3, grain=0.05, outline=0.03),
}
UNSEEN_STYLE = Style(
    background="paper", outline=0.025, light=0.15, grain=0.04, wobble=0.035, hatch=0.3, second="tint"
)


def draw(traits: Traits, style: Style, rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """Draws `traits` in `style`.

    Returns:
        RGB pixels, uint8 [size, size, 3].
    """
    axis = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    x, y = np.meshgrid(axis, -axis)
    pixel = 2.0 / size
    background = _background(style, x, y, rng)
    if style.wobble:
        x, y = x + style.wobble * _blotches(size, rng), y + style.wobble * _blotches(size, rng)
    scale = rng.uniform(0.72, 0.98)
    x, y = (x - rng.uniform(-0.12, 0.12)) / scale, (y - rng.uniform(-0.12, 0.12)) / scale
    x, y = _rotated(x, y, rng.uniform(-0.3, 0.3))
    distance = _SHAPES[traits.shape](x, y) * scale
    base = np.array(COLOURS[traits.colour], np.float32) / 255 + rng.normal(0, 0.025, 3).astype(np.float32)
    second = _second_colour(base, style)
    inked = _PATTERNS[traits.pattern](x, y, rng)[..., None]
    fill = base + inked * (second - base)
    if style.hatch:
        strokes = 0.5 + 0.5 * np.sin(
            9 * np.pi * (x * rng.uniform(0.7, 1.3) + y * rng.uniform(1.5, 2.5)) + 4 * _blotches(size, rng)
        )
        fill = fill + style.hatch * (strokes * strokes)[..., None] * (0.93 - fill)
    if style.light:
        direction = rng.uniform(0, 2 * np.pi)
        fill = fill * (1 + style.light * 0.6 * (x * np.cos(direction) + y * np.sin(direction)))[..., None]
    picture = _blend(background, fill, _coverage(distance, pixel))
    if style.outline:
        picture = _blend(picture, np.float32(0.12), _coverage(np.abs(distance) - style.outline, pixel))
    if style.grain:
        picture = picture + rng.normal(0, style.grain, (size, size, 1)).astype(np.float32)
    if style.blocks > 1:
        block = max(1, round(style.blocks * size / 64))
        picture = picture[::block, ::block].repeat(block, 0).repeat(block, 1)[:size, :size]
    return (np.clip(picture, 0, 1) * 255).astype(np.uint8)


def _coverage(distance: Image, pixel: float) -> Image:
    """The share of each pixel that lies inside the curve `distance` < 0, which is what smooths its edge."""
    share: Image = np.clip(0.5 - distance / pixel, 0, 1).astype(np.float32)[..., None]
    return share


def _blend(below: Image, above: Image | np.float32, share: Image) -> Image:
    return below + share * (above - below)


def _rotated(x: Image, y: Image, angle: float) -> tuple[Image, Image]:
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return c * x - s * y, s * x + c * y


def _blotches(size: int, rng: np.random.Generator) -> Image:
    """Smooth random field with values around -1 to 1: the straying of a hand."""
    axis = np.linspace(0, 2 * np.pi, size, dtype=np.float32)
    field = np.zeros((size, size), np.float32)
    for frequency in (1, 2, 3):
        a, b = rng.uniform(0, 2 * np.pi, 2)
        c, d = rng.integers(-1, 2, 2) + rng.uniform(-0.4, 0.4, 2)
        wave = np.sin(frequency * (axis[None, :] + c * axis[:, None]) + a) + np.sin(
            frequency * (axis[:, None] + d * axis[None, :]) + b
        )
        field += wave.astype(np.float32) / (2 * frequency)
    return field


def _background(style: Style, x: Image, y: Image, rng: np.random.Generator) -> Image:
    if style.background == "dark":
        colour = rng.uniform(0.05, 0.2, 3)
    elif style.background == "paper":
        colour = np.array([0.95, 0.92, 0.86]) + rng.normal(0, 0.02, 3)
    else:
        colour = rng.uniform(0.78, 1.0) + rng.normal(0, 0.03, 3)
    picture: Image = np.broadcast_to(colour.astype(np.float32), (*x.shape, 3))
    if style.background == "gradient":
        direction = rng.uniform(0, 2 * np.pi)
        picture = picture * (1 - 0.2 * (x * np.cos(direction) + y * np.sin(direction) + 0.6))[..., None]
    return picture


def _second_colour(base: Image, style: Style) -> Image:
    if style.second == "dark":
        return base * np.float32(0.35)
    return base + np.float32(0.9 if style.second == "white" else 0.72) * (1 - base)


def _heart(x: Image, y: Image) -> Image:
    side = 0.82
    u, v = _rotated(x, y + 0.12, np.pi / 4)
    square = np.maximum(np.abs(u), np.abs(v)) - side / 2
    lobes = np.minimum(np.hypot(u, v - side / 2), np.hypot(u + side / 2, v)) - side / 2
    inside: Image = np.minimum(square, lobes)
    return inside


def _star(x: Image, y: Image) -> Image:
    turn = np.arctan2(x, y) * (5 / (2 * np.pi))
    spike = 2 * np.abs(turn - np.round(turn))
    inside: Image = (np.hypot(x, y) - (0.95 - 0.55 * spike)) * np.float32(0.6)
    return inside


def _cross(x: Image, y: Image) -> Image:
    x, y = np.abs(x), np.abs(y)
    inside: Image = np.minimum(np.maximum(x - 0.29, y - 0.84), np.maximum(x - 0.84, y - 0.29))
    return inside


_SHAPES = {
    "circle": lambda x, y: np.hypot(x, y) - 0.82,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) - 0.7,
    "triangle": lambda x, y: np.maximum(np.abs(x) * 0.866 + (y - 0.12) * 0.5, -(y - 0.12)) - 0.5,
    "star": _star,
    "heart": _heart,
    "cross": _cross,
}


def _striped(x: Image, y: Image, rng: np.random.Generator) -> Image:
    u, _ = _rotated(x, y, rng.uniform(0, np.pi))
    return _sharp(np.sin(np.pi * rng.uniform(3.4, 4.8) * u + rng.uniform(0, 6)))


def _dotted(x: Image, y: Image, rng: np.random.Generator) -> Image:
    per_unit = rng.uniform(2.0, 2.7)
    u, v = _rotated(x * per_unit, y * per_unit, rng.uniform(0, np.pi))
    u, v = u + rng.uniform(), v + rng.uniform()
    return _sharp((0.3 - np.hypot(u - np.round(u), v - np.round(v))) * 4)


def _checked(x: Image, y: Image, rng: np.random.Generator) -> Image:
    frequency = np.pi * rng.uniform(2.0, 2.8)
    u, v = _rotated(x, y, rng.uniform(-0.4, 0.4))
    return _sharp(np.sin(frequency * u + rng.uniform(0, 6)) * np.sin(frequency * v + rng.uniform(0, 6)) * 2)


def _zigzag(x: Image, y: Image, rng: np.random.Generator) -> Image:
    u, v = _rotated(x, y, rng.uniform(0, np.pi))
    teeth = np.abs(((u * rng.uniform(1.5, 2.0) + rng.uniform()) % 1) - 0.5)
    return _sharp(np.sin(np.pi * rng.uniform(3.2, 4.2) * (v + 0.9 * teeth) + rng.uniform(0, 6)))


def _ringed(x: Image, y: Image, rng: np.random.Generator) -> Image:
    return _sharp(np.sin(np.pi * rng.uniform(3.4, 4.6) * np.hypot(x, y) + rng.uniform(0, 6)))


def _sharp(field: Image) -> Image:
    sharp: Image = np.clip(0.5 + 3 * field, 0, 1).astype(np.float32)
    return sharp


_PATTERNS = {
    "plain": lambda x, y, rng: np.zeros_like(x),
    "striped": _striped,
    "dotted": _dotted,
    "checked": _checked,
    "zigzag": _zigzag,
    "ringed": _ringed,
}
