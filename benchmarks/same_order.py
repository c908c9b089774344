"""The reranker's order against a plain transformers forward of the same weights and prompts.

    python benchmarks/same_order.py [--seed 0] [--quick]

Tiny models of Llama, Qwen 2, Qwen 3, Mistral (with a sliding window), Gemma 1 to 3 and Phi 3 are made from
their configurations with random weights. The plain way is one prompt at a time through the causal model, all
logits of the last position, the identifiers' taken out, stable sort. Ours are the same lists packed end to
end in several budgets and orders, padded instead of packed, with the history read once for several views of
a person (permutations), and in sliding windows over long lists, whose beginnings are remembered. Claims:
every logit within 1e-4 in float32, and the same order but for ties within 1e-4, everywhere; every family
above is packed, none falls back on padding.

The last line is one JSON object; exit 1 where a claim fails.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent))

from any_text import tokenizer_of

from rerank.inference import rank_lists, score_lists
from rerank.lists import RankingList, reshuffled
from rerank.prompts import LAYOUTS, PromptEncoder
from rerank.scorer import ListwiseScorer
from rerank.settings import InferenceConfig

TIE = 1e-4
WIDTH = {
    "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 4096, "pad_token_id": 0,
}  # fmt: skip
MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
FAMILIES: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", {}),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {"head_dim": 16, "tie_word_embeddings": True}),
    "mistral": ("MistralForCausalLM", "MistralConfig", {"sliding_window": 64}),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", {"head_dim": 16}),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", {"head_dim": 16, "sliding_window": 64}),
    "gemma3": (
        "Gemma3ForCausalLM", "Gemma3TextConfig", {"head_dim": 16, "sliding_window": 64, "layer_types": MIXED},
    ),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", {"eos_token_id": 2, "bos_token_id": 1}),
}  # fmt: skip


def model_of(family: str, vocabulary: int, seed: int) -> Any:
    """A tiny model with random weights and biases, norms included."""
    model, config, more = FAMILIES[family]
    torch.manual_seed(seed)
    made = getattr(transformers, model)(
        getattr(transformers, config)(vocab_size=vocabulary, **WIDTH, **more)
    ).eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return made


def texts_of(rng: np.random.Generator) -> dict[str, str]:
    """Items' texts, some of them empty."""
    words = [
        "red",
        "mug",
        "blue",
        "lamp",
        "green",
        "rug",
        "of",
        "the",
        "function",
        "object",
        "é",
        "[B]",
        "42",
    ]
    return {f"i{n}": " ".join(rng.choice(words, rng.integers(0, 12))) for n in range(80)}


def lists_of(rng: np.random.Generator, texts: Mapping[str, str], count: int, most: int) -> list[RankingList]:
    """Lists of 1 to `most` items with 0 to 12 items of history, the first of `most`."""
    lists = []
    for user in range(count):
        size = most if user == 0 else int(rng.integers(1, most + 1))
        shown = tuple(str(item) for item in rng.choice(list(texts), size, replace=False))
        history = tuple(str(item) for item in rng.choice(list(texts), rng.integers(0, 13)))
        lists.append(
            RankingList(f"u{user}", history, shown, rng.permutation(size), np.zeros(size, np.float32))
        )
    return lists


@torch.no_grad()
def plain_scores(
    model: Any, encoder: PromptEncoder, entry: RankingList, texts: Mapping[str, str]
) -> NDArray[Any]:
    """Identifier logits [K] in arriving order, by transformers alone."""
    items = [[encoder.item(texts[i]) for i in part] for part in (entry.history, entry.candidates)]
    prompt = encoder.encode(items[0], items[1], entry.query)
    logits = model(torch.tensor([prompt.tokens])).logits[0, -1]
    shown = logits[encoder.identifiers[: prompt.candidates]].numpy()
    arrived = np.empty_like(shown)
    arrived[entry.places] = shown
    return arrived


def same_order(ours: NDArray[Any], plain: NDArray[Any]) -> bool:
    """Whether sorting by `ours` sorts `plain` too, but for ties."""
    return bool((np.diff(plain[np.argsort(-ours, kind="stable")]) <= TIE).all())


def plain_windows(
    score: Callable[[RankingList], NDArray[Any]], entry: RankingList, window: int, stride: int
) -> tuple[list[int], float]:
    """Order of a list by sliding windows, and the least gap between scores of one window."""
    order, gap = list(range(len(entry.candidates))), np.inf
    by_place = dict(zip(entry.places.tolist(), entry.candidates, strict=True))
    rank_shown = {place: n for n, place in enumerate(entry.places.tolist())}
    for start in [*range(len(order) - window, 0, -stride), 0]:
        part = sorted(order[start : start + window], key=rank_shown.__getitem__)
        shown = RankingList(
            entry.user_id, entry.history, tuple(by_place[p] for p in part), np.arange(window),
            np.zeros(window, np.float32),
        )  # fmt: skip
        scores = dict(zip(part, score(shown).tolist(), strict=True))
        gap = min(gap, float(np.diff(np.sort(list(scores.values()))).min()))
        order[start : start + window] = sorted(order[start : start + window], key=lambda p: -scores[p])
    return order, gap


def compare(family: str, seed: int, count: int) -> Iterator[tuple[str, float, bool]]:
    """(way, greatest difference of a logit, same order) of one family."""
    tokenizer = tokenizer_of("qwen" if family.startswith("qwen") else "llama", 400)
    rng = np.random.default_rng(seed)
    texts = texts_of(rng)
    lists = lists_of(rng, texts, count, 20)
    model = model_of(family, len(tokenizer), seed)
    encoder = PromptEncoder(tokenizer, LAYOUTS["recommend"], max_candidates=20, item_tokens=16)

    def plain(entry: RankingList) -> NDArray[Any]:
        return plain_scores(model, encoder, entry, texts)

    expected = [plain(entry) for entry in lists]
    views = [[entry, *(reshuffled(entry, seed=[n]) for n in (1, 2))] for entry in lists]
    means = [np.mean([plain(view) for view in group], axis=0) for group in views]
    long = [e for e in lists_of(rng, texts, max(2, count // 5), 45) if len(e.candidates) > 20]
    slid = [plain_windows(plain, entry, 20, 10) for entry in long]
    plain_model = ListwiseScorer(model, encoder)
    padded = score_lists(plain_model, lists, texts, token_budget=1500)
    yield from _judged("padded", padded, expected)
    packed = ListwiseScorer(model, encoder)
    packed.pack()
    yield "is packed", 0.0, packed.packs
    for budget in (1, 500, 2048, 100_000):
        found = score_lists(packed, lists, texts, token_budget=budget)
        yield from _judged(f"packed {budget}", found, expected)
    backwards = score_lists(packed, lists[::-1], texts, token_budget=700)[::-1]
    yield from _judged("packed backwards", backwards, expected)
    for budget in (300, 2048):
        found = score_lists(packed, lists, texts, permutations=3, token_budget=budget)
        yield from _judged(f"three orders {budget}", found, means)
    config = InferenceConfig(window=20, stride=10)
    for found, (order, gap) in zip(rank_lists(packed, long, texts, config), slid, strict=True):
        # A tie may send windows different ways.
        yield "windows", 0.0, gap < TIE or np.argsort(-found, kind="stable").tolist() == order


def _judged(
    way: str, found: Sequence[NDArray[Any]], plain: Sequence[NDArray[Any]]
) -> Iterator[tuple[str, float, bool]]:
    for ours, own in zip(found, plain, strict=True):
        yield way, float(np.abs(ours - own).max()), same_order(ours, own)


def measure(seed: int, count: int, families: Sequence[str] = tuple(FAMILIES)) -> dict[str, Any]:
    """The greatest difference by family, and how many lists or claims failed."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    found: dict[str, Any] = {}
    for family in families:
        rows = list(compare(family, seed, count))
        worst = max(difference for _, difference, _ in rows)
        wrong = sorted({way for way, difference, same in rows if not same or difference > TIE})
        found[family] = {"compared": len(rows), "logit_difference": worst, "wrong": wrong}
        print(f"{family}: {found[family]}", flush=True)
    return found


def main() -> int:
    """Prints the figures and says whether the claims hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="6 lists a family instead of 60")
    chosen = parser.parse_args()
    found = measure(chosen.seed, 6 if chosen.quick else 60)
    held = not any(row["wrong"] for row in found.values())
    print(json.dumps({"families": found, "seed": chosen.seed, "holds": held}))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
