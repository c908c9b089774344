"""How much of a captioner's input is padding, where a picture's size decides how many tokens it has.

    python benchmarks/picture_batches.py [--data DIR] [--items 4000] [--batch-size 16] [--seed 0] [--quick]

The size rule is that of Qwen2.5-VL's image processor (blocks of 28 x 28 px, at most 1,280 of them). Pictures
are those of DIR; without it, sizes are drawn: shorter side 224 to 1000 px, ratio 3:4 to 16:9. Compared are
batches in id order, batches of the plan (longest first within a shard of 512), and the plan with a budget of
as many tokens as a batch of average pictures has. Padding is the share of tokens that stand for nothing.

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np
from PIL import Image

from extract.items import Item
from extract.picture_batches import BatchPlan
from extract.picture_fit import PictureFit
from extract.pictures import PictureSource

RULE = PictureFit(kind="pixels", size=(56 * 56, 28 * 28 * 1280), block=28)
SHARD = 512
PICTURES = (".jpg", ".jpeg", ".png", ".webp")


class Drawn(PictureSource):
    """A source of nothing but sizes."""

    def __init__(self, sizes: Sequence[tuple[int, int]]) -> None:
        self.sizes = sizes

    def size_hint(self, name: str) -> tuple[int, int]:
        """Width and height."""
        return self.sizes[int(name)]


def drawn(count: int, seed: int) -> Drawn:
    chance = np.random.default_rng(seed)
    short, ratio = chance.integers(224, 1001, count), chance.uniform(3 / 4, 16 / 9, count)
    return Drawn([(round(side * wide), int(side)) for side, wide in zip(short.tolist(), ratio.tolist())])


def batches(plan: BatchPlan, names: Sequence[str], planned: bool) -> Iterable[list[int]]:
    """Tokens of each picture, batch by batch."""
    for start in range(0, len(names), SHARD):
        pairs = [(Item(name, picture=name), "") for name in names[start : start + SHARD]]
        waiting: dict[str, tuple[Future[Image.Image], str]] = {}
        for item, text in plan.order(pairs) if planned else pairs:
            size = plan.pictures.size_hint(str(item.picture)) if plan.pictures else None
            if size is not None:
                waiting[item.item_id] = (Future(), text)
                waiting[item.item_id][0].set_result(Image.new("1", RULE.target(size)))
        while waiting:
            batch, _ = plan.next_batch(waiting)
            yield [RULE.tokens(image.size) for image, _ in batch.values()]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of pictures")
    parser.add_argument("--items", type=int, default=4000)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0, help="of the sizes")
    parser.add_argument("--quick", action="store_true", help="1,024 items")
    chosen = parser.parse_args(argv)
    count = min(chosen.items, 1024) if chosen.quick else chosen.items
    if chosen.data is None:
        source: PictureSource = drawn(count, chosen.seed)
        names = [str(number) for number in range(count)]
    else:
        source = PictureSource(chosen.data)
        names = sorted(path.name for path in chosen.data.iterdir() if path.suffix in PICTURES)[:count]
    plan = BatchPlan(source, lambda: RULE, chosen.batch_size)
    plain = list(batches(plan, names, planned=False))
    budget = round(chosen.batch_size * np.mean([tokens for batch in plain for tokens in batch]))
    ways = {
        "id order": plain,
        "plan": list(batches(plan, names, planned=True)),
        "plan with budget": list(
            batches(BatchPlan(source, lambda: RULE, 4 * chosen.batch_size, budget), names, planned=True)
        ),
    }
    report = {
        way: {
            "padding": round(1 - sum(map(sum, found)) / sum(max(batch) * len(batch) for batch in found), 4),
            "batches": len(found),
            "most_tokens": max(max(batch) * len(batch) for batch in found),
        }
        for way, found in ways.items()
    }
    print(json.dumps({"items": len(names), "budget": budget, **report, "seed": chosen.seed}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
