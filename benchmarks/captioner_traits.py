"""How often the packaged captioner names a trait rightly, on pictures of the unseen style.

    python benchmarks/captioner_traits.py [--pictures 1000] [--seed 0] [--quick]

Pictures go through the product's own road: drawn at the shop's size, written as JPEG, decoded, captioned by
`build_captioner`. Half show trait combinations that training held out. The last line is one JSON object; the
exit code is 1 if any trait is below 95 %.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time

import numpy as np
from PIL import Image

from catalograph.demo.draw import ALL_TRAITS, UNSEEN_STYLE, draw, is_held_out
from catalograph.filling import model_folder
from extract.engines import CaptionConfig, build_captioner
from extract.pictures import decode_picture


def main() -> None:
    """Draws, captions, counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    chosen = parser.parse_args()
    pictures = 300 if chosen.quick else chosen.pictures
    rng = np.random.default_rng([chosen.seed, 4711])
    known, unknown = ([t for t in ALL_TRAITS if is_held_out(t) is held_out] for held_out in (False, True))
    traits = [group[rng.integers(len(group))] for _ in range(pictures // 2) for group in (known, unknown)]
    captioner = build_captioner(
        CaptionConfig(
            model=model_folder("demo:captioner"), prompt="caption:", dtype="float32", max_new_tokens=12
        )
    )
    started, captions = time.perf_counter(), []
    for begin in range(0, len(traits), 64):
        images = [decode_picture(_jpeg(t, rng)) for t in traits[begin : begin + 64]]
        captions += captioner.caption(images, ["caption:"] * len(images))
    seconds = time.perf_counter() - started
    words = [set(caption.split()) for caption in captions]
    result: dict[str, object] = {"pictures": len(traits), "seconds": round(seconds, 1)}
    for name, kept in (("all", lambda t: True), ("unseen_combinations", is_held_out)):
        rows = [(t, w) for t, w in zip(traits, words, strict=True) if kept(t)]
        result[name] = {
            trait: round(float(np.mean([getattr(t, trait) in w for t, w in rows])), 4)
            for trait in ("colour", "pattern", "shape")
        }
    sys.stdout.write(json.dumps(result) + "\n")
    if min(result["all"].values()) < 0.95:
        raise SystemExit(1)


def _jpeg(traits, rng: np.random.Generator) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(draw(traits, UNSEEN_STYLE, rng, 128)).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
