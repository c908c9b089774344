"""`prepare` and `validate` on interactions of every kind, through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from catalograph.cli import main

if TYPE_CHECKING:
    from conftest import World


def saved_as(world: World, kind: str) -> str:
    """The shop's interactions in another file, whose name it returns."""
    rows: pa.Table = pq.read_table(world.data / "interactions.parquet")
    name, path = f"clicks.{kind}", world.data / f"clicks.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows.to_pylist()))
    elif kind == "inter":
        types = {"person": "token", "product": "token", "time": "float"}
        lines = ["\t".join(f"{column}:{types[column]}" for column in rows.column_names)]
        lines += ["\t".join(map(str, row.values())) for row in rows.to_pylist()]
        path.write_text("\n".join(lines) + "\n")
    else:
        datasets.Dataset(rows).save_to_disk(str(path))
    return name


def prepared(world: World, name: str, **data: Any) -> tuple[str, dict[str, Any], Path]:
    """The content hash of a run of `prepare`, its summary, and its folder."""
    run = world.run(name, verb="prepare", data={**world.config()["data"], **data})
    assert run.code == 0, run.err
    summary = json.loads((run.folder / "stages/10-prepare/summary.json").read_text())
    return world.hash_of(run.folder), summary, run.folder


@pytest.mark.parametrize("kind", ["jsonl", "inter", "dataset"])
def test_every_kind_of_file_is_valid_and_gives_the_same_run(world: World, kind: str) -> None:
    plain = prepared(world, "plain")[0]
    name = saved_as(world, kind)
    assert prepared(world, kind, interactions=name)[0] == plain
    assert main(["validate", "-c", str(world.root / f"{kind}.yaml")]) == 0


def test_a_memory_limit_changes_no_result_and_may_change_itself(world: World) -> None:
    filtered = {"filter": {"min_user": 9, "min_item": 11}}
    plain, summary, folder = prepared(world, "limited", **filtered)
    assert summary["filtered"]["rounds"] > 1 and summary["filtered"]["interactions"] > 0
    limited = {**world.config()["data"], **filtered, "memory_gib": 0.25}
    again = world.run("limited", "--json", verb="prepare", data=limited)
    assert again.code == 0 and json.loads(again.out)["stages"]["prepare"]["reused"], again.err
    assert prepared(world, "fresh", **filtered, memory_gib=0.25)[0] == plain
    assert sorted(path.name for path in (folder / "stages/10-prepare").iterdir()) == [
        "parts.json", "stage.json", "summary.json", "test.parquet", "train.parquet", "valid.parquet",
    ]  # fmt: skip


def test_cold_items_are_tested_by_models_that_never_saw_them(world: World) -> None:
    split = {"method": "leave_last_out", "cold_share": 0.2, "cold_by": "random"}
    _, summary, _ = prepared(world, "cold", split=split)
    assert summary["leakage"]["test"]["item_without_train"] > 0
    assert summary["leakage"]["valid"]["item_without_train"] == 0
    run = world.run(
        "cold", "--json", verb="evaluate", caption=None, rerank=None,
        data={**world.config()["data"], "split": split},
        features={"title": world.config()["features"]["title"]},
        retrievers={
            "content": {"model": "content_search", "features": ["title"]},
            "popularity": {"model": "popularity"},
        },
        candidates={"k": 20, "order_by": "content"},
        evaluate={"ks": [20], "baselines": ["popularity"], "bootstrap": 100},
    )  # fmt: skip
    assert run.code == 10, "the folder of the first configuration is kept from another one"
    run = world.again("cold", "--json", verb="evaluate", folder=world.root / "second")
    assert run.code == 0, run.err
    cold = json.loads(run.out)["evaluation"]["groups"]["warmth"]["cold items"]
    assert cold["users"] > 0 and cold["lists"]["retrieved"]["recall@20"]["mean"] > 0
    assert cold["lists"]["popularity"]["recall@20"]["mean"] == 0


def test_a_wrong_column_of_an_atomic_file_is_told_before_anything_runs(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = {"user": "person", "item": "produkt", "timestamp": "time"}
    data = {
        **world.config()["data"],
        "interactions": saved_as(world, "inter"),
        "interaction_columns": columns,
    }
    path = world.root / "typo.yaml"
    path.write_text(yaml.safe_dump(world.config(data=data)))
    assert main(["validate", "-c", str(path)]) == 5
    assert "did you mean product?" in capsys.readouterr().err
