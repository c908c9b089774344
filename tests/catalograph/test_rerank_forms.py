"""The reranker's other forms through the command line, and LambdaMART beside it."""

from __future__ import annotations

import importlib.util
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

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
