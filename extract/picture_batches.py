"""Which pictures a model gets together: the longest first, up to a number of pictures or of their tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from PIL import Image

from extract.decoding import FitOf
from extract.faults import Failure
from extract.items import Item
from extract.pictures import BadPicture, PictureSource

Pairs = Sequence[tuple[Item, str]]
"""Items, each with the text that goes with its picture."""
Waiting = dict[str, tuple[Future[Image.Image], str]]
"""By the hash of an input: the picture to be, and its text."""


@dataclass(frozen=True)
class BatchPlan:
    """How pictures come together in batches: a function of the shard, so resumed runs make the same ones."""

    pictures: PictureSource | None
    fit: FitOf
    batch_size: int
    budget: int | None = None
    """Most picture tokens of a batch, each picture counted as long as the longest."""

    def order(self, pairs: Pairs) -> Pairs:
        """The longest first, as headers tell, where sizes differ: a batch is padded to its longest."""
        fit = self.fit()
        if fit is None or fit.kind != "pixels" or self.pictures is None:
            return pairs
        sizes = [self.pictures.size_hint(item.picture) if item.picture else None for item, _ in pairs]
        tokens = [0 if size is None else fit.tokens(size) for size in sizes]
        return [pairs[row] for row in sorted(range(len(pairs)), key=lambda row: -tokens[row])]

    def next_batch(self, waiting: Waiting) -> tuple[dict[str, tuple[Image.Image, str]], dict[str, Failure]]:
        """Take pictures and texts off the front of a queue until a batch is full; and the ones refused."""
        fit, budget = self.fit(), math.inf if self.budget is None else self.budget
        batch: dict[str, tuple[Image.Image, str]] = {}
        refused: dict[str, Failure] = {}
        longest = 0
        while waiting and len(batch) < self.batch_size:
            key = next(iter(waiting))
            future, text = waiting[key]
            try:
                picture = future.result()
            except BadPicture as bad:
                refused[key] = Failure(bad.reason, bad.detail)
            else:
                longest = max(longest, 1 if fit is None else fit.tokens(picture.size))
                if batch and longest * (len(batch) + 1) > budget:
                    break
                batch[key] = (picture, text)
            del waiting[key]
        return batch, refused
