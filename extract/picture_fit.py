"""The size a model's image processor will give a picture, to be given where the picture is decoded.

Resizing costs about as much as decoding, and a resized picture is cheap to hand to another process. A
processor that gets the size it would have made resizes nothing, so its output is the same to the bit. Rules
exist for the two kinds of resizing that most families use; pictures of others are handed over in full size.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict

Pixels = NDArray[np.uint8]
"""[height, width, 3]"""
Resizer = Literal["pillow", "torch"]
TORCH_MODES = {Image.Resampling.BILINEAR: "bilinear", Image.Resampling.BICUBIC: "bicubic"}
"""The filters that torch has for bytes; others stay Pillow's."""

REDUCED_MARGIN = 2
"""A JPEG decoded at a fraction of its size stays at least this many times as large as the model's picture."""


class PictureFit(BaseModel):
    """A rule from a picture's size to the size its model takes, as transformers' PIL backend has it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["exact", "shortest", "pixels"]
    """exact: to one size; shortest: the shorter side to a length; pixels: by area, in whole blocks."""
    size: tuple[int, int]
    """exact: width, height; shortest: the length, 0; pixels: fewest and most pixels in all."""
    block: int = 1
    """pixels: both sides are multiples of this."""
    resample: int = 3
    """Pillow's number of the filter."""
    resizer: Resizer = "pillow"
    """Whose arithmetic resizes: torch's is three times as fast, and some values differ by 1 or 2 of 255."""
    reduced_jpeg: bool = False
    """Decode a JPEG at 1/2, 1/4 or 1/8 of its size where that is enough; changes pixels slightly."""

    def target(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height the model takes for a picture of this width and height."""
        width, height = size
        if self.kind == "exact":
            return self.size
        if self.kind == "shortest":
            short, long = self.size[0], int(self.size[0] * max(size) / min(size))
            return (short, long) if width <= height else (long, short)
        return self._by_area(width, height)

    def tokens(self, size: tuple[int, int]) -> int:
        """Blocks in the model's picture, which decide how long its input is; 1 where all are alike."""
        return math.prod(self.target(size)) // self.block**2 if self.kind == "pixels" else 1

    def applies(self, size: tuple[int, int]) -> bool:
        """Whether the processor leaves a picture alone that has the target's size."""
        target = self.target(size)
        return self.target(target) == target

    def fraction(self, size: tuple[int, int]) -> int:
        """1, 2, 4 or 8: the part of its sides at which a JPEG of this size may be decoded."""
        if not self.reduced_jpeg or not self.applies(size):
            return 1
        enough = [side * REDUCED_MARGIN for side in self.target(size)]
        whole = [part for part in (8, 4, 2) if all(a >= part * b for a, b in zip(size, enough))]
        return whole[0] if whole else 1

    def resize(self, picture: Image.Image | Pixels, full_size: tuple[int, int]) -> Image.Image:
        """An RGB picture in the size the model takes for ``full_size``; as it is where the rule fails."""
        if self.applies(full_size):
            mode = TORCH_MODES.get(Image.Resampling(self.resample)) if self.resizer == "torch" else None
            if mode is not None:
                return _resized_by_torch(_as_pixels(picture), self.target(full_size), mode)
            whole = _as_picture(picture)
            return whole.resize(self.target(full_size), Image.Resampling(self.resample))
        return _as_picture(picture)

    def _by_area(self, width: int, height: int) -> tuple[int, int]:
        fewest, most = self.size
        sides = (width, height)
        fitted = [round(side / self.block) * self.block for side in sides]
        if math.prod(fitted) > most:
            shrink = math.sqrt(width * height / most)
            fitted = [max(self.block, math.floor(side / shrink / self.block) * self.block) for side in sides]
        elif math.prod(fitted) < fewest:
            grow = math.sqrt(fewest / (width * height))
            fitted = [math.ceil(side * grow / self.block) * self.block for side in sides]
        return fitted[0], fitted[1]


def _as_picture(picture: Image.Image | Pixels) -> Image.Image:
    return picture if isinstance(picture, Image.Image) else Image.fromarray(picture)


def _as_pixels(picture: Image.Image | Pixels) -> Pixels:
    return np.array(picture) if isinstance(picture, Image.Image) else picture


def _resized_by_torch(picture: Pixels, size: tuple[int, int], mode: str) -> Image.Image:
    """What torchvision makes of a tensor of bytes: its resizing is this function of torch."""
    import torch  # only decoders that resize so should need it: it takes a second to load

    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(pixels, size[::-1], mode=mode, antialias=True)
    return Image.fromarray(resized[0].permute(1, 2, 0).contiguous().numpy())
