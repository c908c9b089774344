"""The reranker's other forms through the command line, and LambdaMART beside it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml

from recsys.candidates import Candidates

if TYPE_CHECKING:
    from conftest import Run, World


def settings(world: World, **changes: Any) -> dict[str, Any]:
    rerank = world.config()["rerank"]
    token = {"features": ["title", "caption"], "choices": 4, "width": 16, "feed_forward": 16, "layers": 1}
    fine = rerank["finetune"] | {"loss": "listnet", "rank_weight": 1.0, "average": 0.5}
    return {"form": "token", "history": 5, "token": token, "finetune": fine, **changes}


def scores_of(run: Run) -> Candidates:
    return Candidates.from_parquet(run.folder / "stages" / "70-rerank" / "llm_only.parquet")


def test_soft_tokens_rank_every_candidate_and_rank_them_so_again(world: World) -> None:
    wide = world.config()["candidates"] | {"k": 55}
    run = world.run("token", "--json", candidates=wide, rerank=settings(world))
    assert run.code == 0, run.err
    ordered = scores_of(run)
    arrived = Candidates.from_parquet(run.folder / "stages" / "50-recommend" / "test.parquet")
    assert (np.sort(ordered.items, axis=1) == np.sort(arrived.items, axis=1)).all()
    assert np.isfinite(ordered.scores["reranker"][ordered.mask]).all()
    assert {"retrieved", "fused_without_llm", "llm_only", "reranked"} <= set(json.loads(run.out)["metrics"])
    again = world.again("token", "--json", folder=world.root / "token-again")
    assert again.code == 0, again.err
    assert world.hash_of(again.folder) == world.hash_of(run.folder)


def test_hybrid_reads_words_beside_the_soft_token(world: World) -> None:
    changes = {"form": "hybrid", "model": str(world.language_model), "item_tokens": 6}
    run = world.run("hybrid", "--json", rerank=settings(world, **changes))
    assert run.code == 0, run.err
    assert np.isfinite(scores_of(run).final[scores_of(run).mask]).all()


@pytest.mark.skipif(importlib.util.find_spec("lightgbm") is None, reason="needs the extra lambdamart")
def test_lambdamart_is_one_more_list_with_its_own_comparison(world: World) -> None:
    trees = {"leaves": [4], "min_leaf": [5], "trees": 10}
    run = world.run("trees", "--json", rerank=settings(world, lambdamart=trees))
    assert run.code == 0, run.err
    assert "lambdamart" in json.loads(run.out)["metrics"]
    found = json.loads((run.folder / "stages" / "80-evaluate" / "metrics.json").read_text())
    assert ("lambdamart", "reranked") in {(row["a"], row["b"]) for row in found["comparisons"]}


def test_words_in_windows_and_two_orders_move_no_item_further_than_allowed(world: World) -> None:
    reading = {"window": 8, "permutations": 2, "max_move": 3}
    rerank = world.config()["rerank"] | {"inference": reading}
    run = world.run("windows", "--json", rerank=rerank)
    assert run.code == 0, run.err
    stages = run.folder / "stages"
    arrived = Candidates.from_parquet(stages / "50-recommend" / "test.parquet")
    for name in ("llm_only", "reranked"):
        ordered = Candidates.from_parquet(stages / "70-rerank" / f"{name}.parquet")
        for before, after in zip(arrived.items, ordered.items, strict=True):
            places = {item: place for place, item in enumerate(before) if item}
            moves = [abs(places[item] - place) for place, item in enumerate(after) if item]
            assert max(moves) <= 3
    assert (ordered.items != arrived.items).any()
    measured = json.loads((stages / "80-evaluate" / "metrics.json").read_text())
    found, cost = measured["diagnosis"], measured["diagnosis"]["cost"]
    # 20 candidates in windows of 8 with stride 4 are four windows, each in two orders.
    assert cost["prompts"] == 8 * cost["lists"]
    assert cost["tokens"] > 20 * cost["prompts"]
    pairs = found["pairs"]["reranked"]
    assert pairs["pairs"] == sum(v for k, v in pairs.items() if k.startswith(("put", "stayed")))
    assert sum(row["users"] for row in found["by_place"]) <= measured["users"]
    page = (run.folder / "report" / "index.html").read_text()
    for title in ("What reranking changed", "place where the held-out item came in", "tokens in 8.0 prompts"):
        assert title in page


def test_two_processes_fine_tune_as_one_does(world: World) -> None:
    rerank = world.config()["rerank"]
    # Two or three passes a step, so that both processes have some.
    rerank["finetune"] |= {"token_budget": 600, "lora": {"rank": 2, "alpha": 4.0, "dropout": 0.1}}
    alone = world.run("shared", "--json", verb="finetune", rerank=rerank)
    assert alone.code == 0, alone.err
    folder = world.root / "shared-by-two"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    config = str(world.root / "shared.yaml")
    command = ["-m", "catalograph", "finetune", "-c", config, "--run-dir", str(folder), "--json"]
    done = subprocess.run(
        [*torchrun, *command], capture_output=True, text=True, timeout=180, check=False,
        env=world.environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["stages"]) >= {"recommend", "finetune"}
    one, two = (
        json.loads((place / "stages" / "60-finetune" / "history.json").read_text())
        for place in (alone.folder, folder)
    )
    assert two["evaluations"] == one["evaluations"]
    for own, shared in zip(one["steps"], two["steps"], strict=True):
        assert shared == pytest.approx(own, rel=1e-4)


def test_a_teachers_orders_are_learnt_and_named_in_the_model_card(world: World) -> None:
    first = world.run("untaught", "--json", verb="finetune")
    assert first.code == 0, first.err
    stages = first.folder / "stages"
    lists = Candidates.from_parquet(stages / "50-recommend" / "fold-0.parquet")
    lines = [
        json.dumps({"user_id": str(user), "items": [str(item) for item in items if item][::-1]})
        for user, items in zip(lists.user_ids, lists.items, strict=True)
    ]
    (world.data / "teacher.jsonl").write_text("\n".join(lines))
    rerank = world.config()["rerank"]
    rerank["finetune"] |= {"teacher": "teacher.jsonl"}
    run = world.run("taught", "--json", verb="finetune", rerank=rerank)
    assert run.code == 0, run.err
    cards = []
    for folder in (first.folder, run.folder):
        text = (folder / "stages" / "60-finetune" / "adapter" / "README.md").read_text()
        cards.append(yaml.safe_load(text.split("---")[1])["catalograph"])
        history = json.loads((folder / "stages" / "60-finetune" / "history.json").read_text())
        values = [point["ndcg@10"] for point in history["evaluations"]]
        assert cards[-1]["metrics"]["ndcg@10"] == {"before": values[0], "best": max(values)}
        assert cards[-1]["metrics"]["pair_accuracy"]["after"] == history["pair_accuracy"]["after"]
    assert "| labels | the orders of `teacher.jsonl` |" in text
    before, after = (card["hashes"] for card in cards)
    assert before["data"] != after["data"]
    assert before["prompt"] == after["prompt"]
    (world.data / "teacher.jsonl").write_text('{"user_id": "nobody", "items": ["nothing"]}')
    refused = world.run("untaught-by-all", "--json", verb="finetune", rerank=rerank)
    assert refused.code == 5
    assert "R307" in refused.err
    (world.data / "teacher.jsonl").unlink()
    missing = world.again("taught", "--json", verb="finetune")
    assert missing.code == 4
    assert "teacher.jsonl" in missing.err
