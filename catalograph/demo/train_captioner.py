"""Trains the demo's captioner: a LLaVA of about one million parameters, from scratch, on pictures drawn on
the fly.

    python -m catalograph.demo.train_captioner OUT_DIR

It sees the training styles and four fifths of the trait combinations only. Deterministic from its seed on
one machine and thread count; about 40 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import multiprocessing
from collections.abc import Iterator
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from catalograph.demo.draw import ALL_TRAITS, TRAINING_STYLES, UNSEEN_STYLE, Traits, draw, is_held_out

logger = logging.getLogger(__name__)

PICTURE = 64
PROMPT = "caption:"
CHAT_TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
)
KNOWN_TRAITS = tuple(t for t in ALL_TRAITS if not is_held_out(t))
UNKNOWN_TRAITS = tuple(t for t in ALL_TRAITS if is_held_out(t))


def build_processor() -> LlavaProcessor:
    """The captioner's processor: a byte-level BPE over the captions' words and a 64-pixel CLIP image
    processor.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<bos>", "<eos>", "<image>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([f"{PROMPT} {t.caption}" for t in ALL_TRAITS], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        padding_side="left",
        extra_special_tokens={"image_token": "<image>"},
    )
    pictures = CLIPImageProcessorPil(
        size={"shortest_edge": PICTURE},
        crop_size={"height": PICTURE, "width": PICTURE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return LlavaProcessor(
        pictures,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def build_model(
    tokenizer: Any, *, width: int = 128, vision_layers: int = 5, text_layers: int = 2
) -> LlavaForConditionalGeneration:
    """The untrained captioner."""
    vision = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=vision_layers,
        num_attention_heads=4,
        image_size=PICTURE,
        patch_size=8,
        projection_dim=width,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=text_layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.image_token_id,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    return LlavaForConditionalGeneration(config)


def _drawn_batch(job: tuple[int, int]) -> tuple[np.ndarray, list[Traits]]:
    seed, size = job
    rng = np.random.default_rng(seed)
    styles = list(TRAINING_STYLES.values())
    traits = [KNOWN_TRAITS[i] for i in rng.integers(len(KNOWN_TRAITS), size=size)]
    return np.stack([draw(t, styles[rng.integers(len(styles))], rng, PICTURE) for t in traits]), traits


def _drawn_ahead(
    pool: Pool, jobs: list[tuple[int, int]], most: int = 64
) -> Iterator[tuple[np.ndarray, list[Traits]]]:
    """Batches in order, at most `most` of them drawn ahead: a pool left to itself would draw all at once."""
    for start in range(0, len(jobs), most):
        yield from pool.imap(_drawn_batch, jobs[start : start + most], chunksize=4)


def _as_tensor(pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def train(out: Path, *, steps: int, batch: int, seed: int, threads: int) -> None:
    """Trains the captioner and saves it with its processor as fp16 safetensors."""
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    processor = build_processor()
    tokenizer = processor.tokenizer
    model = build_model(tokenizer).train()
    logger.info("%d parameters", sum(p.numel() for p in model.parameters()))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min(1, (s + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * s / steps)))
    )
    prefix = tokenizer(PROMPT)["input_ids"]
    image_ids = [tokenizer.image_token_id] * (PICTURE // 8) ** 2
    targets = {t: tokenizer(" " + t.caption)["input_ids"] + [tokenizer.eos_token_id] for t in ALL_TRAITS}
    width = max(map(len, targets.values()))
    jobs = [(seed * 1_000_003 + step, batch) for step in range(steps)]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for step, (pictures, traits) in enumerate(_drawn_ahead(pool, jobs)):
            rows = [image_ids + prefix + targets[t] + [0] * (width - len(targets[t])) for t in traits]
            ids = torch.tensor(rows)
            labels = ids.clone()
            labels[:, : len(image_ids) + len(prefix)] = -100
            labels[labels == 0] = -100
            loss = model(
                input_ids=ids,
                attention_mask=(ids != 0).long(),
                pixel_values=_as_tensor(pictures),
                labels=labels,
            ).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if step % 100 == 99 or step == 0:
                logger.info(
                    "step %d loss %.4f unseen style %s",
                    step + 1,
                    loss.item(),
                    accuracy(model, processor, 300),
                )
                model.train()
            if step % 500 == 499 or step == steps - 1:
                model.half().save_pretrained(out)
                processor.save_pretrained(out)
                model.float()
    (out / "accuracy.json").write_text(json.dumps(accuracy(model, processor, 3000), indent=1))


@torch.no_grad()
def accuracy(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, pictures: int, seed: int = 10_007
) -> dict[str, float]:
    """Share of right words per trait on the unseen style and the unseen trait combinations."""
    rng = np.random.default_rng(seed)
    traits = [UNKNOWN_TRAITS[i] for i in rng.integers(len(UNKNOWN_TRAITS), size=pictures)]
    model.eval()
    captions: list[str] = []
    for start in range(0, pictures, 150):
        drawn = np.stack([draw(t, UNSEEN_STYLE, rng, PICTURE) for t in traits[start : start + 150]])
        tokenizer = processor.tokenizer
        row = [tokenizer.image_token_id] * (PICTURE // 8) ** 2 + tokenizer(PROMPT)["input_ids"]
        ids = torch.tensor([row] * len(drawn))
        written = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=_as_tensor(drawn),
            max_new_tokens=12,
            do_sample=False,
        )
        captions += tokenizer.batch_decode(written[:, ids.shape[1] :], skip_special_tokens=True)
    words = [set(c.split()) for c in captions]
    return {
        name: float(np.mean([getattr(t, name) in w for t, w in zip(traits, words, strict=True)]))
        for name in ("colour", "pattern", "shape")
    }


def main() -> None:
    """Reads the command line and trains."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train(
        arguments.out,
        steps=arguments.steps,
        batch=arguments.batch,
        seed=arguments.seed,
        threads=arguments.threads,
    )


if __name__ == "__main__":
    main()
