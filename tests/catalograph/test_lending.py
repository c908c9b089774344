"""What `run --from` takes over when only something far below, or beside, has changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from torch import nn

from catalograph.origin import _below
from catalograph.reranker_model import save_scorer
from recsys.interactions import Interactions
from rerank.settings import RerankConfig

if TYPE_CHECKING:
    from conftest import Run, World


@pytest.fixture
def small(tmp_path: Path, make_world: Callable[[Path], World]) -> tuple[World, Run]:
    world = make_world(tmp_path / "small")
    found = world.run(
        "base", "--json", caption=None, rerank=None, evaluate={"ks": [10], "bootstrap": 100},
        features={"title": {"template": "{title}", "embed": {"engine": "fake", "buckets": 4}}},
        retrievers={"content": {"model": "content_search", "features": ["title"]}},
        candidates={"k": 10, "order_by": "content", "sources": ["content"]},
    )  # fmt: skip
    assert found.code == 0, found.err
    return world, found


def lent(run: Run) -> set[str]:
    return {name for name, row in json.loads(run.out)["stages"].items() if "from" in row}


def test_metrics_of_other_held_out_choices_are_not_taken_over(small: tuple[World, Run]) -> None:
    world, run = small
    test = Interactions.load(run.folder / "stages/10-prepare/test.parquet")
    held = set(zip(test.user_ids[test.user_rows], test.item_ids[test.item_rows], strict=True))
    path = world.data / "interactions.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    items = [row["product"] for row in pq.read_table(world.data / "catalog.parquet").to_pylist()]
    had = {(row["person"], row["product"]) for row in rows}
    for row in rows:
        if (row["person"], row["product"]) in held:
            row["product"] = next(item for item in items if (row["person"], item) not in had)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    again = world.again("base", "--json", "--from", str(run.folder), folder=world.root / "from")
    alone = world.again("base", "--json", folder=world.root / "alone")
    assert world.hash_of(again.folder) == world.hash_of(alone.folder) != world.hash_of(run.folder)
    # Embedding reads no choices.
    assert lent(again) == {"embed"}


def test_another_device_takes_over_nothing_but_what_no_device_computes(small: tuple[World, Run]) -> None:
    world, run = small
    assert run.code == 0
    # "cpu" is what "auto" would choose here; as settings they differ, and a folder refuses the change too.
    again = world.again(
        "base", "--json", "--from", str(run.folder), "--set", "device=cpu", folder=world.root / "cpu"
    )
    assert again.code == 0, again.err
    assert lent(again) == {"prepare"}


def test_a_stage_stands_on_all_that_its_needs_stand_on() -> None:
    assert _below("embed") == {"caption"}
    assert _below("evaluate") == {"prepare", "caption", "embed", "train", "recommend", "finetune", "rerank"}


def test_an_adapter_is_not_written_through_the_link_of_another_run(tmp_path: Path) -> None:
    class Peft(nn.Module):
        """As peft does: it opens its files in place."""

        peft_config: ClassVar[dict[str, Any]] = {}

        def save_pretrained(self, folder: Path, **_: object) -> None:
            folder.mkdir(exist_ok=True)
            with (folder / "adapter_config.json").open("w") as file:
                file.write("new")

    class Scorer:
        model = Peft()

    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    theirs.mkdir()
    (theirs / "adapter_config.json").write_text("old")
    ours.mkdir()
    (ours / "adapter_config.json").hardlink_to(theirs / "adapter_config.json")
    save_scorer(Scorer(), ours, RerankConfig(model="m"))  # type: ignore[arg-type]
    assert (theirs / "adapter_config.json").read_text() == "old"
    assert (ours / "adapter_config.json").read_text() == "new"
