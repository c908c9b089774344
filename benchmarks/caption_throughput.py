"""Captions per second of `caption_items`, beside transformers' own pipeline, on the packaged captioner.

    python benchmarks/caption_throughput.py --data DIR [--pictures 20000] [--sample 4000] [--rounds 5]
        [--seed 0] [--threads 2] [--draw SECONDS] [--ways ours_torch ...] [--quick]

The pictures are JPEGs of 224 to 1000 px, quality 75 to 95, drawn by the shop's own drawer; one in eight is
drawn, the others are it and its mirror image written at another quality: other bytes and other pixels. They
are kept in DIR; --draw only draws, for so many seconds.

The pipeline ("image-text-to-text", the same model, float32) gets chats with the files' paths, as its
documentation shows; its batch size is the best of 1, 4, 16 and 64 on a sample, and it is measured once more
with two workers of its own. Rounds alternate: pipeline, ours, ours with `resizer: torch`, and that with
`reduced_jpeg`, each on the same sample of pictures; the samples of the rounds do not overlap while there are
enough; `--sample 20000` captions all in each. Ours writes into a fresh store, and starting its decoders is
part of its time. CPU time per item stands beside: the clock's ratios hold for a machine that does nothing
else. Captions are compared item by item. `--ways` measures some of ours only.

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from PIL import Image, ImageOps

from catalograph.demo.draw import ALL_TRAITS, UNSEEN_STYLE, draw
from catalograph.filling import model_folder
from extract import Catalog, Item, PictureSource, build_captioner, caption_prompt
from extract.caption import caption_items, caption_store
from extract.caption_shards import captions_of
from extract.engines import CaptionConfig

VARIANTS = 8
BATCH_SIZES = (1, 4, 16, 64)
PROMPT = "caption:"
VARIATIONS: dict[str, dict[str, Any]] = {
    "ours": {},
    "ours_torch": {"resizer": "torch"},
    "ours_torch_reduced_jpeg": {"resizer": "torch", "reduced_jpeg": True},
}
SEARCH = 256


def name_of(number: int) -> str:
    return f"{number:05d}.jpg"


def ensure_pictures(folder: Path, count: int, seed: int, seconds: float) -> int:
    """Draw and write what is missing of the first ``count`` pictures; how many there are at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    until, there = time.monotonic() + seconds, 0
    for first in range(0, count, VARIANTS):
        names = [folder / name_of(number) for number in range(first, min(first + VARIANTS, count))]
        if not all(name.exists() for name in names) and time.monotonic() < until:
            write_variants(names, np.random.default_rng([seed, first]))
        there += sum(name.exists() for name in names)
    return there


def write_variants(names: Sequence[Path], rng: np.random.Generator) -> None:
    side = int(rng.integers(224, 1001))
    master = Image.fromarray(draw(ALL_TRAITS[int(rng.integers(len(ALL_TRAITS)))], UNSEEN_STYLE, rng, side))
    qualities = rng.permutation(np.arange(75, 96))
    for turn, (name, quality) in enumerate(zip(names, qualities)):
        picture = ImageOps.mirror(master) if turn % 2 else master
        waiting = name.with_suffix(".tmp")
        picture.save(waiting, "JPEG", quality=int(quality))
        waiting.replace(name)


class Ours:
    """The product's stage, into a fresh store each time."""

    def __init__(self, pictures: Path, buckets: int, **options: Any) -> None:
        self.config = CaptionConfig(
            model=model_folder("demo:captioner"), prompt=PROMPT, dtype="float32", max_new_tokens=12,
            batch_size=64, buckets=buckets, **options,
        )  # fmt: skip
        self.pictures, self.captioner = PictureSource(pictures), build_captioner(self.config)

    def __call__(self, numbers: Sequence[int]) -> list[str]:
        items = [Item(name_of(number), picture=name_of(number)) for number in numbers]
        catalog, prompt = Catalog.from_items(items, self.pictures), caption_prompt(PROMPT)
        settings = {"batch_size": self.config.batch_size, "limits": self.config.limits, "prompt": prompt}
        with tempfile.TemporaryDirectory() as folder:
            store = caption_store(
                Path(folder) / "store", self.captioner, buckets=self.config.buckets, **settings
            )
            caption_items(catalog, self.captioner, store, decoders=None, **settings)
            written = captions_of(store)
        return [written.get(item.item_id, "") for item in items]


class Pipeline:
    """transformers' pipeline, as documented: chats with paths, a batch size, new text only."""

    def __init__(self, pictures: Path) -> None:
        self.pictures = pictures
        self.pipe = transformers.pipeline(
            "image-text-to-text", model=model_folder("demo:captioner"), dtype=torch.float32, device="cpu"
        )
        self.batch_size, self.workers = 1, 0

    def __call__(self, numbers: Sequence[int]) -> list[str]:
        chats = [
            [{"role": "user", "content": [
                {"type": "image", "url": str(self.pictures / name_of(number))},
                {"type": "text", "text": PROMPT},
            ]}]
            for number in numbers
        ]  # fmt: skip
        found = self.pipe(
            text=chats, batch_size=self.batch_size, num_workers=self.workers, max_new_tokens=12,
            return_full_text=False,
        )  # fmt: skip
        return [" ".join(answer[0]["generated_text"].split()) for answer in found]

    def search(self, numbers: Sequence[int]) -> dict[int, float]:
        """Items per second by batch size; keeps the best."""
        rates = {}
        for self.batch_size in BATCH_SIZES:
            rates[self.batch_size] = timed(self, numbers).rate
        self.batch_size = max(rates, key=rates.__getitem__)
        return {size: round(rate, 1) for size, rate in rates.items()}


class Timing(NamedTuple):
    """What one round took."""

    rate: float
    """Items per second."""
    cpu_ms: float
    """CPU time per item, in milliseconds, of this process and those it started and ended."""
    captions: list[str]


def timed(work: Callable[[Sequence[int]], list[str]], numbers: Sequence[int]) -> Timing:
    began, cpu = time.perf_counter(), cpu_seconds()
    captions = work(numbers)
    spent = cpu_seconds() - cpu
    return Timing(len(numbers) / (time.perf_counter() - began), 1000 * spent / len(numbers), captions)


def cpu_seconds() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(part.ru_utime + part.ru_stime for part in used)


def measure(folder: Path, there: int, chosen: argparse.Namespace) -> dict[str, Any]:
    """Search, rounds, comparison."""
    order = np.random.default_rng([chosen.seed, 99]).permutation(there)
    samples = [
        sorted(np.take(order, range(turn * chosen.sample, (turn + 1) * chosen.sample), mode="wrap").tolist())
        for turn in range(chosen.rounds)
    ]
    peer, buckets = Pipeline(folder), max(1, chosen.sample // 512)
    runs: dict[str, Callable[[Sequence[int]], list[str]]] = {"pipeline": peer} | {
        name: Ours(folder, buckets, **VARIATIONS[name]) for name in chosen.ways
    }
    for work in runs.values():
        work(samples[0][:16])
    by_batch_size = peer.search(samples[0][:SEARCH])
    rates: dict[str, list[float]] = {name: [] for name in runs}
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    equal = dict.fromkeys(runs, 0)
    ratios: dict[str, list[float]] = {name: [] for name in runs}
    for sample in samples:
        expected: list[str] = []
        for name, work in runs.items():
            found = timed(work, sample)
            expected = expected or found.captions
            rates[name].append(found.rate)
            cpu[name].append(found.cpu_ms)
            ratios[name].append(found.rate / rates["pipeline"][-1])
            equal[name] += sum(a == b for a, b in zip(found.captions, expected, strict=True))
    peer.workers = 2
    with_workers = timed(peer, samples[0][: 2 * SEARCH]).rate
    peer.workers = 0
    total = sum(map(len, samples))
    result: dict[str, Any] = {
        "items_per_second": {name: round(statistics.median(found), 1) for name, found in rates.items()},
        "cpu_ms_per_item": {name: round(statistics.median(found), 2) for name, found in cpu.items()},
        "ratio": {name: round(statistics.median(found), 2) for name, found in ratios.items()},
        "ratios": {name: [round(ratio, 2) for ratio in found] for name, found in ratios.items()},
        "different_captions": {name: total - count for name, count in equal.items()},
        "compared": total,
        "pipeline_by_batch_size": by_batch_size,
        "pipeline_with_two_workers": round(with_workers, 1),
        "threads": chosen.threads, "pictures": there, "sample": len(samples[0]), "seed": chosen.seed,
    }  # fmt: skip
    return result


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the drawn pictures")
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--sample", type=int, default=4000, help="pictures per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the drawings and samples")
    parser.add_argument("--threads", type=int, default=2, help="of torch, for all alike")
    parser.add_argument("--draw", type=float, default=0, help="only draw, for so many seconds")
    parser.add_argument(
        "--ways", nargs="+", choices=VARIATIONS, default=[*VARIATIONS], help="ours to measure"
    )
    parser.add_argument("--quick", action="store_true", help="64 pictures, 2 rounds")
    chosen = parser.parse_args(argv)
    if chosen.quick:
        chosen.pictures, chosen.sample, chosen.rounds = 64, 64, 2
    pictures = chosen.data / "pictures"
    there = ensure_pictures(pictures, chosen.pictures, chosen.seed, chosen.draw or float("inf"))
    if chosen.draw:
        print(json.dumps({"pictures": there}))
        return 0
    torch.set_num_threads(chosen.threads)
    transformers.logging.set_verbosity_error()
    print(json.dumps(measure(pictures, there, chosen)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
