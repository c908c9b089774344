"""The gate through the command line: what it decides on, what it delivers, and that off is off."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from catalograph.config import RunConfig
from catalograph.progress import Progress
from catalograph.rerank_lists import first_times, validation_lists
from catalograph.stages import finished_road
from recsys.candidates import Candidates
from recsys.interactions import Interactions

if TYPE_CHECKING:
    from conftest import World


def rerank_of(world: World, **gate: Any) -> dict[str, Any]:
    """Soft tokens, a gate, and few enough validation lists that half are less than `validation_lists`."""
    rerank = world.config()["rerank"]
    token = {"features": ["title"], "choices": 4, "width": 16, "feed_forward": 16, "layers": 1}
    fine = rerank["finetune"] | {"loss": "listnet", "rank_weight": 1.0, "validation_lists": 500}
    return {"form": "token", "history": 5, "token": token, "finetune": fine, "gate": gate}


def test_a_gate_that_is_open_delivers_the_reranked_lists_and_one_that_is_closed_the_retrieved(
    world: World,
) -> None:
    run = world.run("gate", "--json", rerank=rerank_of(world, least_lists=2))
    assert run.code == 0, run.err
    stages = run.folder / "stages"
    record = json.loads((stages / "60-finetune" / "gate.json").read_text())
    assert sum(row["lists"] for row in record["decisions"]) == record["lists"] > 0
    assert {row["group"] for row in record["decisions"]} <= {"few choices", "some choices", "many choices"}
    for row in record["decisions"]:
        assert row["chosen"] == "retrieved" or row["bounds"][row["chosen"]]["low"] > 0
    found = json.loads(run.out)["evaluation"]
    assert found["diagnosis"]["gate"] == record
    assert ("retrieved", "gated") in {(row["a"], row["b"]) for row in found["comparisons"]}
    assert "The gate: ndcg@20" in (run.folder / "report" / "index.html").read_text()
    parts = {row["part"]: row for row in found["diagnosis"]["gain_parts"]["parts"]}
    assert list(parts) == [
        "fusion", "reranker beyond fusion", "list context", "of others: histories",
        "of others: vectors of title",
    ]  # fmt: skip
    assert all(row["low"] <= row["gain"] <= row["high"] for row in parts.values())
    assert parts["of others: vectors of title"]["low"] < parts["of others: vectors of title"]["high"]
    again = world.again("gate", "--json", folder=world.root / "gate-again")
    assert again.code == 0 and world.hash_of(again.folder) == world.hash_of(run.folder)

    # Decisions put in by hand: one group is reordered, the others are not.
    labels = np.array(["few choices", "some choices", "many choices"])
    chosen = {"few choices": "reranked", "some choices": "fused_without_llm", "many choices": "retrieved"}
    config = RunConfig.model_validate(world.config(rerank=rerank_of(world, least_lists=2)))
    from catalograph.gating import gated_lists, groups_of

    with finished_road(config, run.folder, ["rerank"], Progress()) as road:
        record["decisions"] = [
            {"group": str(group), "lists": 9, "retrieved": 0.1, "bounds": {}, "chosen": chosen[str(group)]}
            for group in labels
        ]
        (stages / "60-finetune" / "gate.json").write_text(json.dumps(record))
        names = ("reranked", "fused_without_llm")
        orders = {name: Candidates.from_parquet(stages / "70-rerank" / f"{name}.parquet") for name in names}
        orders["retrieved"] = Candidates.from_parquet(stages / "50-recommend" / "test.parquet")
        delivered = gated_lists(road, orders["retrieved"], orders)
        groups = groups_of(road, delivered.user_ids)
    assert set(groups.tolist()) == set(labels.tolist())
    for row, group in enumerate(groups.tolist()):
        assert delivered.items[row].tolist() == orders[chosen[group]].items[row].tolist()


def test_without_a_gate_nothing_of_it_is_written(world: World) -> None:
    off = world.config()["rerank"] | {"gate": None}
    run = world.run("off", "--json", rerank=off)
    assert run.code == 0, run.err
    assert not list(run.folder.glob("stages/*/gate*"))
    found = json.loads(run.out)
    assert "gated" not in found["metrics"] and "gate" not in found["evaluation"]["diagnosis"]
    # The other lists are what they are with a gate, where there are validation lists enough for both.
    on = world.run("on", "--json", rerank=world.config()["rerank"])
    read = json.loads((on.folder / "stages/60-finetune/gain_parts.json").read_text())["parts"]
    assert [row["part"] for row in read][2:] == [
        "list context", "of others: histories", "of others: texts", "of others: captions"
    ]  # fmt: skip
    for name in ("reranked", "llm_only", "fused_without_llm"):
        path = f"stages/70-rerank/{name}.parquet"
        assert (run.folder / path).read_bytes() == (on.folder / path).read_bytes()


def test_under_a_split_by_time_no_choice_of_the_gates_time_is_fitted_on(world: World) -> None:
    data = world.config()["data"] | {
        "split": {"method": "global_time", "valid_share": 0.2, "test_share": 0.2},
        "history_is_ordered": True,
    }
    chosen = {"data": data, "rerank": rerank_of(world)}
    run = world.run("time", verb="recommend", **chosen)
    assert run.code == 0, run.err
    with finished_road(
        RunConfig.model_validate(world.config(**chosen)), run.folder, ["recommend"], Progress()
    ) as road:
        (fitted, lists), (judged, asked) = validation_lists(road)
        valid = road.part("valid")
    assert len(fitted) and len(judged) and not set(fitted.user_ids) & set(judged.user_ids)
    assert isinstance(valid, Interactions) and valid.timestamps is not None
    when = {
        (str(user), str(item)): int(time)
        for user, item, time in zip(
            valid.user_ids[valid.user_rows], valid.item_ids[valid.item_rows], valid.timestamps, strict=True
        )
    }
    of_lists = [
        [when[e.user_id, e.candidates[place]] for place in np.flatnonzero(e.relevance)]
        for part in (lists, asked)
        for e in part
    ]
    first = first_times(valid)[valid.user_rows_of(judged.user_ids)]
    latest = max(time for times in of_lists[: len(lists)] for time in times)
    assert all(of_lists) and latest < first.min()


def test_a_gate_by_given_groups_needs_their_table(world: World) -> None:
    run = world.run("bad", verb="prepare", rerank=rerank_of(world, groups="given"))
    assert run.code == 2 and "evaluate.given" in run.err


@pytest.mark.parametrize("least", [1, 0])
def test_a_gate_cannot_decide_on_one_list(world: World, least: int) -> None:
    run = world.run("few", verb="prepare", rerank=rerank_of(world, least_lists=least))
    assert run.code == 2 and "least_lists" in run.err
