"""What a captioner's model takes for a batch: written by its processor, for equal parts once.

A processor turns pictures into numbers one by one and reads the instruction anew for each. Where all pictures
of a batch have the size the model takes, their numbers are one expression over the stacked bytes, and equal
instructions have equal tokens. Whether that is all a family's processor does is tried, not assumed: the first
batch of each size goes both ways, and the short way is left for that size where anything differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature
from transformers.image_processing_backends import PilBackend

PIXELS = "pixel_values"
TOLERANCE = 1e-5
"""Of normalised values, whose unit is a standard deviation: far below the 1/255 a pixel is known to."""


class PictureInputs:
    """Pictures and texts in, the model's inputs out; the short way where it is equal to the processor's own.

    Args:
        processor: of transformers, its tokenizer set up for batches.
    """

    def __init__(self, processor: Any) -> None:
        self._processor, self._images = processor, processor.image_processor
        self._short = isinstance(self._images, PilBackend) and bool(self._images.do_normalize)
        self._equal: dict[tuple[int, int], bool] = {}

    def __call__(
        self, images: Sequence[Image.Image], texts: Sequence[str], *, add_special_tokens: bool
    ) -> BatchFeature:
        """Inputs of N pictures and their texts, padded to the longest."""
        sizes = {image.size for image in images}
        if not self._short or len(sizes) > 1 or 2 * len(set(texts)) > len(texts):
            return self._whole(images, texts, add_special_tokens)
        (size,) = sizes
        if self._equal.get(size, True):
            assembled = self._assembled(images, texts, add_special_tokens)
        if size not in self._equal:
            self._equal[size] = _equal(self._whole(images, texts, add_special_tokens), assembled)
        # Never what was made for the trial: a caption must not depend on which batch came first.
        return assembled if self._equal[size] else self._whole(images, texts, add_special_tokens)

    def _whole(
        self, images: Sequence[Image.Image], texts: Sequence[str], add_special_tokens: bool
    ) -> BatchFeature:
        found: BatchFeature = self._processor(
            images=[[image] for image in images],
            text=list(texts),
            return_tensors="pt",
            padding=True,
            add_special_tokens=add_special_tokens,
        )
        return found

    def _assembled(
        self, images: Sequence[Image.Image], texts: Sequence[str], add_special_tokens: bool
    ) -> BatchFeature:
        different = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        first = [images[texts.index(text)] for text in different]
        parts = self._whole(first, list(different), add_special_tokens)
        rows = torch.tensor([different[text] for text in texts])
        repeated = {name: _repeated(part, rows) for name, part in parts.items() if name != PIXELS}
        return BatchFeature(repeated | {PIXELS: self._normalised(images)})

    def _normalised(self, images: Sequence[Image.Image]) -> Tensor:
        """Pixel values float32 [N, 3, height, width]."""
        values = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
        mean, deviation = (
            torch.tensor(getattr(self._images, name), dtype=torch.float32).reshape(-1, 1, 1)
            for name in ("image_mean", "image_std")
        )
        scale = self._images.rescale_factor if self._images.do_rescale else 1.0
        return values.float().mul_(scale).sub_(mean).div_(deviation).contiguous()


def _repeated(part: Any, rows: Tensor) -> Any:
    """A row for each picture; what has no row for each text comes back as it is, and fails the trial."""
    if not isinstance(part, Tensor) or part.ndim == 0 or len(part) != 1 + int(rows.max()):
        return part
    return part[rows]


def _equal(one: BatchFeature, other: BatchFeature) -> bool:
    return one.keys() == other.keys() and all(
        isinstance(one[name], Tensor)
        and one[name].shape == other[name].shape
        and torch.allclose(one[name].double(), other[name].double(), rtol=0, atol=TOLERANCE)
        for name in one
    )
