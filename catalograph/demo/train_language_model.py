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
import logging
import math
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from catalograph.demo.draw import ALL_TRAITS
from catalograph.demo.practice_lists import Example, lists_of
from catalograph.demo.shop import BRANDS, CATEGORIES, MODELS, open_shop
from rerank.prompts import LAYOUTS, PromptEncoder
from rerank.scorer import ListwiseScorer

logger = logging.getLogger(__name__)

FIRST_SEED = 1_000_000
"""Shops of pre-training have seeds from here on; the demo and the benchmarks stay below."""


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
    out: Path, *, peak: float, steps: int, seed: int, threads: int, width: int, layers: int, heads: int
) -> None:
    """Trains from easy lists to ones like a retriever's, and saves the model as fp16 safetensors."""
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    tokenizer = build_tokenizer()
    model = build_model(len(tokenizer), width=width, layers=layers, heads=heads)
    logger.info("%d parameters, %d tokens", sum(p.numel() for p in model.parameters()), len(tokenizer))
    encoder = PromptEncoder(tokenizer, LAYOUTS["compact"], max_candidates=30, item_tokens=32)
    letters = sorted(encoder.identifiers)
    scorer = ListwiseScorer(model, encoder)
    probe = torch.nn.Linear(width, 2)
    optimizer = torch.optim.AdamW(
        [*model.parameters(), *probe.parameters()], lr=1.0, weight_decay=0.01, betas=(0.9, 0.98)
    )
    seen: list[tuple[float, float, float]] = []
    step, shop_seed = 0, FIRST_SEED + seed * 100_000
    while (share := step / steps) < 1:
        rng = np.random.default_rng([shop_seed])
        # First to name a letter that is there; then to find the twin of what was chosen last among anything;
        # then long lists, likely items beside the truth, and some real choices.
        long = share > 0.6
        candidates, history = (int(rng.integers(8, 31)), 8) if long else (int(rng.integers(4, 9)), 3)
        if share < 0.1:
            candidates = 2
        hardness = 0.5 * long
        shop = open_shop(600, 640, dial=float(rng.uniform(0.3, 1) if long else 1), seed=shop_seed)
        shop_seed += 1
        batch: list[Example] = []
        for example in lists_of(shop, encoder, candidates, history, hardness, rng):
            batch.append(example)
            if len(batch) < (16 if long else 32):
                continue
            rate = peak * min(1, (step + 1) / 100) * max(0.02, math.cos(math.pi / 2 * share))
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss, rank, own, word = _loss(scorer, probe, batch, letters)
            seen.append((rank / math.log(max(candidates, 2)), own / math.log(max(candidates, 2)), word))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if step % 50 == 0:
                answer_loss, probe_loss, word_loss = np.mean(seen[-50:], axis=0)
                logger.info(
                    "step %d share %.3f K %d; over chance: answer %.3f, item probe %.3f; word probe %.3f",
                    step,
                    share,
                    candidates,
                    answer_loss,
                    probe_loss,
                    word_loss,
                )
            step, batch = step + 1, []
            if step % 500 == 0:
                _save(model, tokenizer, out)
    _save(model, tokenizer, out)


def _loss(
    scorer: ListwiseScorer, probe: torch.nn.Linear, batch: list[Example], letters: list[int]
) -> tuple[torch.Tensor, float, float, float]:
    """FIRST's joint loss, the answer scored against all letters, plus the losses of two probes that are
    thrown away.

    The answer is one signal for a whole list, and a small model would need very many of them to find the
    three hops to it together. So a probe on the second layer must tell of each word among the candidates
    whether the history says it too, and one below the top must tell at each identifier how well its item
    fits.
    """
    rows = [example.prompt.tokens + example.answer for example in batch]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    found = scorer.model.get_decoder()(
        input_ids=ids, attention_mask=mask, use_cache=False, output_hidden_states=True
    )
    inside, again = _said_again(batch, scorer.encoder, width)
    told = probe(found.hidden_states[2])[:, :, 1]
    word = (binary_cross_entropy_with_logits(told, again, reduction="none") * inside).sum() / inside.sum()
    marks = torch.tensor([_marks(example) for example in batch])
    fits = probe(found.hidden_states[-2])[:, :, 0].gather(1, marks)
    own = cross_entropy(fits, torch.tensor([example.truth for example in batch]))
    starts = [len(example.prompt.tokens) - 1 for example in batch]
    states = found.last_hidden_state
    spans = [states[row, start : start + len(batch[row].answer)] for row, start in enumerate(starts)]
    scores = torch.stack([span[0] for span in spans]) @ scorer.output_rows()[letters].T
    rank = cross_entropy(scores, torch.tensor([letters.index(example.answer[0]) for example in batch]))
    logits = torch.cat(spans) @ scorer.output_rows().T
    language = cross_entropy(logits, torch.tensor([token for example in batch for token in example.answer]))
    return 3 * word + own + rank + 0.3 * language, rank.item(), own.item(), word.item()


def _said_again(
    batch: list[Example], encoder: PromptEncoder, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which places of each prompt lie among the candidates, and which of their tokens the history holds, [B,
    L] each.
    """
    inside, again = torch.zeros(len(batch), width), torch.zeros(len(batch), width)
    for row, example in enumerate(batch):
        tokens, end = example.prompt.tokens, len(example.prompt.tokens)
        start = encoder.candidates_start(tokens)
        history = set(tokens[:start])
        inside[row, start:end] = 1
        again[row, start:end] = torch.tensor([float(token in history) for token in tokens[start:end]])
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
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train(
        chosen.out,
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
