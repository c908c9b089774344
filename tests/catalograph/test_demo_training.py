"""The scripts that made the demo's models: what they build is what the package holds, and they learn."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM, LlavaForConditionalGeneration

from catalograph.demo import train_captioner, train_language_model
from catalograph.demo.practice_lists import Lesson, lists_of
from catalograph.demo.shop import open_shop
from rerank.prompts import LAYOUTS, PromptEncoder
from rerank.scorer import ListwiseScorer

WEIGHTS = Path(train_captioner.__file__).parent / "weights"


def shapes(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def test_the_captioners_script_builds_the_network_that_the_package_holds() -> None:
    processor = train_captioner.build_processor()
    built = train_captioner.build_model(processor.tokenizer)
    packaged = LlavaForConditionalGeneration.from_pretrained(WEIGHTS / "captioner")
    assert shapes(built.state_dict()) == shapes(packaged.state_dict())
    assert 1_000_000 < sum(p.numel() for p in built.parameters()) < 2_000_000


def test_the_packaged_captioner_names_what_it_never_saw() -> None:
    model = LlavaForConditionalGeneration.from_pretrained(WEIGHTS / "captioner", dtype=torch.float32)
    found = train_captioner.accuracy(model, train_captioner.build_processor(), 150)
    # The weights' own record: colour 1.0, pattern 0.98, shape 0.99 of 3,000; 0.9 is five deviations below.
    assert all(found[name] > 0.9 for name in ("colour", "pattern", "shape"))


def test_the_language_models_script_builds_the_network_that_the_package_holds() -> None:
    held = load_file(WEIGHTS / "language_model" / "model.safetensors")
    tokens, width = held["model.embed_tokens.weight"].shape
    built = train_language_model.build_model(tokens, width=width, layers=4, heads=6)
    assert shapes({n: t for n, t in built.state_dict().items() if n != "lm_head.weight"}) == shapes(held)


def test_lessons_grow_from_short_lists_to_those_of_a_run() -> None:
    rng = np.random.default_rng(0)
    early, middle, late = (
        [train_language_model._lesson(share, rng) for _ in range(50)] for share in (0.1, 0.3, 0.9)
    )
    assert {lesson.candidates for lesson in early} == set(range(2, 9))
    assert max(lesson.candidates for lesson in middle) == 16 and min(x.candidates for x in middle) == 6
    assert max(lesson.candidates for lesson in late) == 30 and {x.history for x in late} == {(2, 10)}
    assert {lesson.history for lesson in early} == {(2, 4)}


def test_batches_are_full_or_dropped() -> None:
    assert list(train_language_model._batches(iter("abcdefg"), 3)) == [["a", "b", "c"], ["d", "e", "f"]]  # type: ignore[arg-type,comparison-overlap]


def test_what_is_still_unknown_is_one_before_and_none_after() -> None:
    worth = torch.tensor([[0.7, 0.2, 0.1, 0.0]])
    known = worth.clamp(min=1e-9).log()
    loss, share = train_language_model._unknown(known, worth)
    entropy = -(0.7 * np.log(0.7) + 0.2 * np.log(0.2) + 0.1 * np.log(0.1))
    assert loss.item() == pytest.approx(entropy, abs=1e-5) and share.item() == pytest.approx(0, abs=1e-5)
    # Equal scores for the three that are worth something, and none for the letter that is not shown.
    even = torch.tensor([[0.0, 0.0, 0.0, -1e9]])
    assert train_language_model._unknown(even, worth)[1].item() == pytest.approx(1, abs=1e-5)


def test_the_language_model_learns_the_lists_it_is_shown() -> None:
    torch.manual_seed(0)
    tokenizer = train_language_model.build_tokenizer()
    model = train_language_model.build_model(len(tokenizer), width=32, layers=3, heads=2)
    encoder = PromptEncoder(tokenizer, LAYOUTS["compact"], max_candidates=30, item_tokens=32)
    shop = open_shop(300, 8, dial=1.0, seed=4)
    rng = np.random.default_rng(1)
    (batch,) = train_language_model._batches(lists_of(shop, encoder, Lesson(4, (1, 3), 8), rng), 8)
    scorer = ListwiseScorer(model, encoder)
    probe = torch.nn.Linear(32, 1 + len(train_language_model.HORIZONS))
    optimizer = torch.optim.AdamW([*model.parameters(), *probe.parameters()], lr=3e-3)
    letters, losses = sorted(encoder.identifiers), []
    for _ in range(12):
        loss, *unknown = train_language_model._loss(scorer, probe, batch, letters)
        losses.append(loss.item())
        assert all(np.isfinite(unknown))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]


def test_a_training_of_the_language_model_leaves_a_model_that_another_goes_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_language_model, "_lesson", lambda share, rng: Lesson(2, (1, 2), 16))
    monkeypatch.setattr(train_language_model, "_long_lists", lambda rng: Lesson(2, (1, 2), 16))
    small = functools.partial(open_shop, 200, 16)
    monkeypatch.setattr(train_language_model, "open_shop", lambda items, users, **how: small(**how))
    threads = torch.get_num_threads()
    settings = {"peak": 1e-3, "seed": 0, "threads": threads, "width": 32, "layers": 3, "heads": 2}
    train_language_model.train(tmp_path / "first", None, steps=2, **settings)  # type: ignore[arg-type]
    train_language_model.train(tmp_path / "second", tmp_path / "first", steps=1, **settings)  # type: ignore[arg-type]
    first, second = (
        LlamaForCausalLM.from_pretrained(tmp_path / name, dtype=torch.float32).state_dict()
        for name in ("first", "second")
    )
    assert shapes(first) == shapes(second)
    # One step at a hundredth of the highest rate: it moved a little from where the first ended.
    moved = max((first[name] - second[name]).abs().max().item() for name in first)
    assert 0 < moved < 0.01
