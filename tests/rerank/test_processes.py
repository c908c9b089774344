"""One fine-tuning by one process and by two real ones."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from rerank.inputs import ItemVectors
from rerank.lists import RankingList
from rerank.settings import FineTuneConfig, RerankConfig, TokenConfig
from rerank.token import TokenScorer, build_token_scorer, load_trained, save_trained
from rerank.train import fine_tune

IDS = np.array([f"i{n}" for n in range(12)])
TOKEN = TokenConfig(width=16, feed_forward=16, layers=1, heads=2, dropout=0.2)
# Lists of four, seven tokens each: batches of 16 in passes of five lists, which do not come out even.
CONFIG = RerankConfig(
    form="token", token=TOKEN,
    finetune=FineTuneConfig(
        loss="listnet", epochs=2, batch_size=16, token_budget=35, average=0.9, learning_rate=1e-2,
        patience=9,
    ),
)  # fmt: skip


def lists(count: int, seed: int) -> list[RankingList]:
    rng = np.random.default_rng(seed)
    vectors = ItemVectors(
        IDS, np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32), {"x": slice(0, 4)},
        np.zeros(12, np.float32), np.zeros((12, 0)), np.zeros((12, 0)),
    )  # fmt: skip
    made = []
    for n in range(count):
        items = rng.permutation(12)[:7]
        relevance = (items[3:] == items[3:].min()).astype(np.float32)
        inputs = rng.normal(size=(4, 2)).astype(np.float32)
        shown = tuple(IDS[items[:3]]), tuple(IDS[items[3:]])
        made.append(RankingList(f"u{n}", *shown, np.arange(4), relevance, inputs, vectors))
    return made


def train(folder: Path, name: str) -> TokenScorer:
    scorer = build_token_scorer(CONFIG, lists(1, 0)[0], seed=0)
    history = fine_tune(scorer, lists(60, 1), lists(20, 2), {}, CONFIG.finetune, seed=3)
    if torch.distributed.is_initialized() and torch.distributed.get_rank():
        name += "-other"
    save_trained(scorer, folder / f"{name}.safetensors")
    (folder / f"{name}.json").write_text(json.dumps(asdict(history)))
    return scorer


def test_two_processes_have_the_losses_and_weights_of_one(tmp_path: Path) -> None:
    train(tmp_path, "one")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*torchrun, __file__, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    one, two, other = (
        json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two", "two-other")
    )
    assert len(one["steps"]) == 8
    assert [point["ndcg@10"] for point in two["evaluations"]] == pytest.approx([
        point["ndcg@10"] for point in one["evaluations"]
    ])
    for alone, shared in zip(one["steps"], two["steps"], strict=True):
        assert shared == pytest.approx(alone, rel=1e-5)
    assert other == two
    weights = []
    for name in ("one", "two", "two-other"):
        scorer = build_token_scorer(CONFIG, lists(1, 0)[0], seed=0)
        load_trained(scorer, tmp_path / f"{name}.safetensors")
        # The two that shift all scores alike have no gradient but rounding, which Adam makes steps of.
        moved = {n: p for n, p in scorer.model.named_parameters() if n not in {"head.bias", "fusion.4.bias"}}
        weights.append(torch.cat([p.detach().flatten() for p in moved.values()]))
    torch.testing.assert_close(weights[1], weights[0], rtol=0, atol=1e-5)
    assert torch.equal(weights[1], weights[2])


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(Path(sys.argv[1]), "two")
    torch.distributed.destroy_process_group()
