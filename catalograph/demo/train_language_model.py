"""Trains the demo's language model: a Llama of about half a million parameters that has read lists from
other shops.

    python -m catalograph.demo.train_language_model OUT_DIR

What a large model brings from its pre-training, that words match across sentences and that an answer
names one of the candidates, this one learns from shops drawn with other seeds, whose candidates are drawn
at random, not retrieved. It never sees the demo's shop: its people, its items, its lists. Deterministic
from its seed on one machine and thread count.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import math
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from catalograph.demo.draw import ALL_TRAITS
from catalograph.demo.practice_lists import Example, Lesson, lists_of
from catalograph.demo.shop import BRANDS, CATEGORIES, MODELS, open_shop
from rerank.prompts import LAYOUTS, PromptEncoder
from rerank.scorer import ListwiseScorer

logger = logging.getLogger(__name__)

FIRST_SEED = 1_000_000
"""Shops of pre-training have seeds from here on; the demo and the benchmarks stay below."""

HORIZONS = (1, 3, 10)
"""How many of the latest items of the history a word is looked for in."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE that knows the shop's words and some English."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1200,
        special_tokens=["<pad>", "<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = [
        f"{b} {m} {c}, {t.caption}"
        for b in BRANDS
        for m in MODELS
        for c in CATEGORIES
        for t in ALL_TRAITS[::97]
    ]
    words += [t.caption for t in ALL_TRAITS] * 20
    layout = LAYOUTS["compact"]
    words += [layout.opening + layout.between + layout.closing + layout.empty_history] * 1000
    english = " ".join(sorted(topics.values()))[:200_000].split("\n")
    bpe.train_from_iterator(words + english, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )


def build_model(vocabulary: int, *, width: int, layers: int, heads: int) -> LlamaForCausalLM:
    """The untrained model: token vectors large, layers' outputs small, so that what a token is reaches the
    top undrowned.
    """
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=width * 8 // 3 // 16 * 16,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            initializer_range=width**-0.5,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.5)
    for name, weight in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            torch.nn.init.normal_(weight, std=0.05)
    return model


def train(
    out: Path, start: Path | None, *, peak: float, steps: int, seed: int, threads: int, width: int,
    layers: int, heads: int,
) -> None:  # fmt: skip
    """Trains from short lists to ones like a run's, and saves the model as fp16 safetensors.

    Args:
        start: a folder this function wrote, to go on from with long lists only; None begins anew.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    tokenizer = build_tokenizer()
    if start is None:
        model = build_model(len(tokenizer), width=width, layers=layers, heads=heads)
    else:
        model = LlamaForCausalLM.from_pretrained(start, dtype=torch.float32)
    logger.info("%d parameters, %d tokens", sum(p.numel() for p in model.parameters()), len(tokenizer))
    encoder = PromptEncoder(tokenizer, LAYOUTS["compact"], max_candidates=30, item_tokens=32)
    letters = sorted(encoder.identifiers)
    scorer = ListwiseScorer(model, encoder)
    probe = torch.nn.Linear(model.config.hidden_size, 1 + len(HORIZONS))
    optimizer = torch.optim.AdamW(
        [*model.parameters(), *probe.parameters()], lr=1.0, weight_decay=0.01, betas=(0.9, 0.98)
    )
    seen: list[list[float]] = []
    step, shop_seed, clock = 0, FIRST_SEED + seed * 100_000, time.monotonic()
    while (share := step / steps) < 1:
        rng = np.random.default_rng([shop_seed])
        lesson = _long_lists(rng) if start else _lesson(share, rng)
        shop = open_shop(600, 640, dial=float(rng.uniform(0.3, 1)), seed=shop_seed)
        shop_seed += 1
        for batch in _batches(lists_of(shop, encoder, lesson, rng), lesson.batch):
            rate = peak * min(1, (step + 1) / 100) * max(0.02, math.cos(math.pi / 2 * share))
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss, *unknown = _loss(scorer, probe, batch, letters)
            seen.append(unknown)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if step % 50 == 0:
                seconds = (time.monotonic() - clock) / len(seen)
                logger.info(
                    "step %d (%.2f s each) K %d; of what is to be known, still unknown: "
                    "answer %.3f, items %.3f; words %.3f",
                    *(step, seconds, lesson.candidates, *np.mean(seen, axis=0)),
                )
                seen, clock = [], time.monotonic()
            step += 1
            if step % 500 == 0:
                _save(model, tokenizer, out)
    _save(model, tokenizer, out)


def _lesson(share: float, rng: np.random.Generator) -> Lesson:
    """What is practised at a share of the training: short lists first, in the end those of a run."""
    if share < 0.25:
        return Lesson(int(rng.integers(2, 9)), (2, 4), 32)
    if share < 0.5:
        return Lesson(int(rng.integers(6, 17)), (2, 10), 24)
    return _long_lists(rng, shortest=2)


def _long_lists(rng: np.random.Generator, *, shortest: int = 1) -> Lesson:
    """Lists as in a run; `shortest` is the length of the shortest history."""
    return Lesson(int(rng.integers(12, 31)), (shortest, 10), 16)


def _batches(examples: Iterable[Example], size: int) -> Iterator[list[Example]]:
    """Lists of exactly `size`; what is left over is dropped."""
    source = iter(examples)
    while len(batch := list(itertools.islice(source, size))) == size:
        yield batch


def _loss(
    scorer: ListwiseScorer, probe: torch.nn.Linear, batch: list[Example], letters: list[int]
) -> tuple[torch.Tensor, float, float, float]:
    """ListNet against what the candidates are worth, the answer scored against all letters, FIRST's language
    loss, and the losses of two probes that are thrown away.

    The answer is one signal for a whole list, and a small model would need very many of them to find the
    three hops to it together. So a probe on the second layer must tell of each word among the candidates how
    lately the history says it too, and one below the top must tell at each identifier what its item is worth.
    """
    rows = [example.prompt.tokens + example.answer for example in batch]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    found = scorer.model.get_decoder()(
        input_ids=ids, attention_mask=mask, use_cache=False, output_hidden_states=True
    )
    inside, again = _said_again(batch, scorer.encoder, width)
    told = probe(found.hidden_states[2])[:, :, 1:]
    word = (binary_cross_entropy_with_logits(told, again, reduction="none").mean(2) * inside).sum()
    word = word / inside.sum()
    worth = torch.tensor(np.stack([example.utility for example in batch])).softmax(1)
    marks = torch.tensor([_marks(example) for example in batch])
    own = _unknown(probe(found.hidden_states[-2])[:, :, 0].gather(1, marks), worth)
    starts = [len(example.prompt.tokens) - 1 for example in batch]
    states = found.last_hidden_state
    spans = [states[row, start : start + len(batch[row].answer)] for row, start in enumerate(starts)]
    scores = torch.stack([span[0] for span in spans]) @ scorer.output_rows()[letters].T
    places = torch.tensor([[letters.index(i) for i in example.identifiers] for example in batch])
    rank = _unknown(scores, torch.zeros_like(scores).scatter(1, places, worth))
    logits = torch.cat(spans) @ scorer.output_rows().T
    language = cross_entropy(logits, torch.tensor([token for example in batch for token in example.answer]))
    return 2 * word + own[0] + rank[0] + 0.1 * language, rank[1].item(), own[1].item(), word.item()


def _unknown(scores: torch.Tensor, worth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The cross-entropy of scores [B, K] against a distribution, and which share of the way from knowing
    nothing but the candidates to knowing all is still to go.
    """
    entropy = -(worth * worth.clamp(min=1e-9).log()).sum(1).mean()
    nothing = math.log(int((worth[0] > 0).sum()))
    loss = -(worth * scores.log_softmax(1)).sum(1).mean()
    return loss, (loss.detach() - entropy) / (nothing - entropy)


def _said_again(
    batch: list[Example], encoder: PromptEncoder, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which places of each prompt lie among the candidates [B, L], and for each horizon which share of the
    latest items of the history hold the token there [B, L, horizons].
    """
    inside, again = torch.zeros(len(batch), width), torch.zeros(len(batch), width, len(HORIZONS))
    for row, example in enumerate(batch):
        tokens = example.prompt.tokens
        start, end = encoder.candidates_start(tokens), len(tokens)
        inside[row, start:end] = 1
        sets = [set(item) for item in example.history]
        held = np.array([[token in item for item in sets] for token in tokens[start:end]], np.float32)
        for column, horizon in enumerate(HORIZONS):
            again[row, start:end, column] = torch.from_numpy(held[:, :horizon].mean(1))
    return inside, again


def _marks(example: Example) -> list[int]:
    """Where the identifiers stand in a prompt; searched from the end, because text may hold their letters."""
    tokens, end, places = example.prompt.tokens, len(example.prompt.tokens), []
    for identifier in reversed(example.identifiers):
        end = max(place for place in range(end) if tokens[place] == identifier)
        places.append(end)
    return places[::-1]


def _save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    model.half().save_pretrained(out)
    model.float()
    tokenizer.save_pretrained(out)


def main() -> None:
    """Reads the command line and trains."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--peak", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--start", type=Path, help="go on from this folder, with long lists only")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train(
        chosen.out,
        chosen.start,
        peak=chosen.peak,
        steps=chosen.steps,
        seed=chosen.seed,
        threads=chosen.threads,
        width=chosen.width,
        layers=chosen.layers,
        heads=chosen.heads,
    )


if __name__ == "__main__":
    main()
