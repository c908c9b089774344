"""`refresh` and `run --from`: what of an earlier run still holds, through the command line."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from catalograph import refreshed_reading
from catalograph.cli import main
from recsys.candidates import Candidates
from recsys.interactions import Interactions

if TYPE_CHECKING:
    from conftest import Run, World

NEW = "brand-new"


def settings(world: World, *, rerank: bool = True, **candidates: Any) -> dict[str, Any]:
    """A run with one retriever of each frozen form."""
    config = world.config()
    names = ("item_knn", "popularity")
    return {
        "retrievers": {
            "content": {"model": "content_search", "features": ["title", "caption"]},
            "als": {"model": "als", "params": {"embedding_size": 4, "iterations": 3}},
            **{name: {"model": name} for name in names},
        },
        "candidates": {"k": 10, "order_by": "content", "sources": ["content", "als", *names], **candidates},
        "evaluate": {"ks": [10], "bootstrap": 200},
        "rerank": config["rerank"] if rerank else None,
    }


def refresh(world: World, name: str, come_from: Path, *arguments: str, code: int = 0) -> Run:
    run = world.again(
        "base", "--from", str(come_from), "--json", *arguments, verb="refresh", folder=world.root / name
    )
    assert run.code == code, run.err
    return run


def anew(run: Run) -> dict[str, int]:
    return {name: row["anew"] for name, row in json.loads(run.out)["stages"].items() if "anew" in row}


def lists(run: Run, name: str = "50-recommend/test") -> dict[str, list[str]]:
    found = Candidates.from_parquet(run.folder / f"stages/{name}.parquet")
    return {user: [i for i in row if i] for user, row in zip(found.user_ids.tolist(), found.items.tolist())}


def began(world: World, name: str, base: Run, **data: Any) -> Run:
    """A run of content search alone, from `base`, with other settings of `data`."""
    config = world.config(**settings(world, rerank=False, sources=["content"]))
    config["data"] |= data
    (world.root / f"{name}.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    run = world.again(name, "--from", str(base.folder))
    assert run.code == 0, run.err
    return run


def night(world: World, name: str, come_from: Path, folder: str, code: int = 0) -> Run:
    """A refresh of what `began`."""
    run = world.again(
        name, "--from", str(come_from), "--json", verb="refresh", folder=world.root / f"{name}-{folder}"
    )
    assert run.code == code, run.err
    return run


def part(run: Run, name: str) -> Interactions:
    return Interactions.load(run.folder / f"stages/10-prepare/{name}.parquet")


def pairs(found: Interactions) -> list[tuple[str, str]]:
    users, items = found.user_ids[found.user_rows], found.item_ids[found.item_rows]
    return sorted(zip(users.tolist(), items.tolist(), strict=True))


class Nights:
    """A world whose catalogue and choices change."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.catalog, self.choices = world.data / "catalog.parquet", world.data / "interactions.parquet"

    def edit(self, path: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
        table = pq.read_table(path)
        pq.write_table(pa.Table.from_pylist(change(table.to_pylist()), schema=table.schema), path)

    def one_item_renamed_one_new_one_gone(self) -> tuple[str, str]:
        """The ids of the renamed one and of the one that left."""
        rows = pq.read_table(self.catalog).to_pylist()
        renamed, gone = rows[3]["product"], rows[7]["product"]
        extra = {**rows[3], "product": NEW, "name": "a thing that nobody has seen"}
        rows[3]["name"] = "renamed altogether"
        self.edit(self.catalog, lambda _: [extra, *(row for row in rows if row["product"] != gone)])
        return str(renamed), str(gone)

    def chooses(self, person: str, item: str) -> None:
        self.edit(
            self.choices,
            lambda rows: [*rows, {**rows[-1], "person": person, "product": item, "time": 10**9}],
        )


@pytest.fixture(scope="module")
def base(
    tmp_path_factory: pytest.TempPathFactory, make_world: Callable[[Path], World]
) -> tuple[World, Run, Run]:
    """A run, and the first refresh from it, on the data of the same day."""
    world = make_world(tmp_path_factory.mktemp("refresh"))
    run = world.run("base", "--json", **settings(world))
    assert run.code == 0, run.err
    return world, run, refresh(world, "first", run.folder)


@pytest.fixture
def nights(base: tuple[World, Run, Run], tmp_path: Path) -> Any:
    """The data of that day, put back afterwards."""
    found = Nights(base[0])
    kept = {path: path.read_bytes() for path in (found.catalog, found.choices)}
    yield found
    for path, data in kept.items():
        path.write_bytes(data)


def test_the_first_refresh_gives_the_lists_of_its_run(base: tuple[World, Run, Run]) -> None:
    _, run, first = base
    assert lists(first) == lists(run)
    people = len(lists(run))
    assert anew(first) == {"recommend": people, "rerank": people}
    for part in ("train", "valid", "test"):
        ours, theirs = (
            Interactions.load(r.folder / f"stages/10-prepare/{part}.parquet") for r in (first, run)
        )
        assert sorted(zip(ours.user_rows, ours.item_rows)) == sorted(zip(theirs.user_rows, theirs.item_rows))


def test_a_quiet_night_reuses_every_stage(base: tuple[World, Run, Run]) -> None:
    world, _, first = base
    quiet = refresh(world, "quiet", first.folder)
    assert world.hash_of(quiet.folder) == world.hash_of(first.folder)
    rows = json.loads(quiet.out)["stages"]
    assert {name for name, row in rows.items() if row.get("from") == str(first.folder)} >= {
        "caption", "embed", "recommend", "rerank",
    }  # fmt: skip


def test_a_night_of_changes_equals_doing_everything_anew(
    base: tuple[World, Run, Run], nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, _, first = base
    renamed, gone = nights.one_item_renamed_one_new_one_gone()
    person = next(user for user in lists(first) if renamed not in lists(first)[user])
    nights.chooses(person, renamed)
    nights.chooses("somebody new", NEW)
    partly = refresh(world, "partly", first.folder)
    fully = refresh(world, "fully", first.folder, "--full")
    assert world.hash_of(partly.folder) == world.hash_of(fully.folder)
    now, people = lists(partly), len(lists(first))
    assert anew(fully) == {"recommend": people + 1, "rerank": people + 1}
    # Of the candidates: only who chose, and who had chosen an item that changed or left.
    assert 2 <= anew(partly)["recommend"] < people
    assert anew(partly)["rerank"] <= people
    assert gone not in {item for items in now.values() for item in items}
    assert NEW in {item for items in now.values() for item in items}
    assert renamed not in now[person]
    assert NEW not in now["somebody new"]
    # And the same again from the fully made one: its kept lists are as good.
    nights.chooses(person, NEW)
    one, other = (refresh(world, f"after-{r.folder.name}", r.folder) for r in (partly, fully))
    assert world.hash_of(one.folder) == world.hash_of(other.folder)
    assert anew(one)["recommend"] == 1
    assert json.loads((one.folder / "stages/10-prepare/gone.json").read_text()) == [gone]
    assert NEW not in lists(one)[person]


def test_the_language_model_reads_only_prompts_that_changed(
    base: tuple[World, Run, Run], nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, _, first = base
    read: list[str] = []
    original = refreshed_reading.rank_lists

    def watched(scorer: Any, entries: Any, *rest: Any, **more: Any) -> Any:
        read.extend(entry.user_id for entry in entries)
        return original(scorer, entries, *rest, **more)

    monkeypatch.setattr(refreshed_reading, "rank_lists", watched)
    before = lists(first)
    person = next(iter(before))
    nights.chooses(person, before[person][0])
    after = lists(refresh(world, "one-choice", first.folder))
    assert read == [person]
    assert {user for user in before if before[user] != after[user]} == {person}


@pytest.mark.parametrize(
    "candidates",
    [
        {"order_by": "merged"},
        {"order_by": "als"},
        {"order_by": "item_knn", "deny": "deny.csv"},
        {"order_by": "content", "cap_by": "product", "cap": 1},
    ],
    ids=lambda chosen: "-".join(map(str, chosen.values())),
)
def test_every_kind_of_order_is_refreshed_exactly(
    base: tuple[World, Run, Run], nights: Nights, candidates: dict[str, Any]
) -> None:
    world, run, _ = base
    name = f"order-{'-'.join(map(str, candidates.values()))}"
    config = world.config(**settings(world, rerank=False, **candidates))
    config["data"]["catalog_columns"]["attributes"] = ["product"]
    (world.data / "deny.csv").write_text("item_id\n" + lists(run)[next(iter(lists(run)))][0] + "\n")
    (world.root / f"{name}.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    began = world.again(name, "--from", str(run.folder))
    assert began.code == 0, began.err

    def again(folder: str, come_from: Path, *arguments: str) -> Run:
        made = world.again(
            name, "--from", str(come_from), "--json", *arguments, verb="refresh", folder=world.root / folder
        )
        assert made.code == 0, made.err
        return made

    first = again(f"{name}-first", began.folder)
    assert lists(first).keys() == lists(began).keys()
    nights.one_item_renamed_one_new_one_gone()
    nights.chooses(next(iter(lists(first))), NEW)
    partly, fully = (
        again(f"{name}-{n}", first.folder, *flags) for n, flags in (("a", ()), ("b", ("--full",)))
    )
    assert world.hash_of(partly.folder) == world.hash_of(fully.folder)


def test_a_refresh_killed_at_several_moments_ends_as_an_undisturbed_one(
    base: tuple[World, Run, Run], nights: Nights
) -> None:
    world, run, _ = base
    first = night(world, "kills", began(world, "kills", run).folder, "first")
    nights.one_item_renamed_one_new_one_gone()
    given = ("--from", str(first.folder))
    calm = world.again("kills", *given, verb="refresh", folder=world.root / "calm")
    assert calm.code == 0, calm.err
    folder = world.root / "killed"
    command = [sys.executable, "-m", "catalograph", "refresh", "-c", str(world.root / "kills.yaml")]
    command += ["--run-dir", str(folder), *given]
    for stage in ("10-prepare", "20-caption", "30-embed", "50-recommend"):
        child = subprocess.Popen(command, env=world.environment(), stderr=subprocess.DEVNULL)
        # As soon as the stage is begun, wherever in it that is.
        while child.poll() is None and not (folder / "stages" / stage / "parts.json").exists():
            time.sleep(0.001)
        child.kill()
        assert child.wait() == -signal.SIGKILL
    end = world.again("kills", *given, verb="refresh", folder=folder)
    assert end.code == 0, end.err
    assert world.hash_of(folder) == world.hash_of(calm.folder)


def test_a_run_from_another_reuses_what_still_holds_and_names_it(base: tuple[World, Run, Run]) -> None:
    world, run, _ = base
    other = world.root / "other.yaml"
    other.write_text((world.root / "base.yaml").read_text())
    wider = world.again("other", "--from", str(run.folder), "--set", "candidates.k=12", "--json")
    assert wider.code == 0, wider.err
    rows = json.loads(wider.out)["stages"]
    held = {name for name, row in rows.items() if row.get("from") == str(run.folder)}
    assert held == {"prepare", "caption", "embed", "train"}
    alone = world.again("other", "--set", "candidates.k=12", folder=world.root / "alone")
    assert world.hash_of(wider.folder) == world.hash_of(alone.folder)
    told = [line for line in wider.err.splitlines() if line.endswith(f": reused from {run.folder}")]
    assert {line.partition(":")[0] for line in told} == held


def test_a_damaged_stage_is_not_taken_over(base: tuple[World, Run, Run], tmp_path: Path) -> None:
    world, run, _ = base
    spoilt = tmp_path / "spoilt"
    shutil.copytree(run.folder, spoilt)
    path = spoilt / "stages/30-embed/title.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    again = world.again("base", "--from", str(spoilt), "--json", folder=tmp_path / "again")
    assert again.code == 0, again.err
    rows = json.loads(again.out)["stages"]
    assert "from" not in rows["embed"] and "from" in rows["caption"]
    assert world.hash_of(again.folder) == world.hash_of(run.folder)


def test_a_refresh_is_resumed_from_its_folder_and_leaves_its_origin_as_it_was(
    base: tuple[World, Run, Run], tmp_path: Path
) -> None:
    world, run, first = base
    before = sorted(path.relative_to(run.folder) for path in run.folder.rglob("*"))
    folder = tmp_path / "begun"
    shutil.copytree(first.folder, folder)
    shutil.rmtree(folder / "stages/70-rerank")
    (folder / "stages/50-recommend/stage.json").unlink()
    assert main(["runs", "resume", str(folder)]) == 0
    assert world.hash_of(folder) == world.hash_of(first.folder)
    assert sorted(path.relative_to(run.folder) for path in run.folder.rglob("*")) == before


def test_a_refresh_refuses_other_settings_other_verbs_and_its_own_folder(
    base: tuple[World, Run, Run],
) -> None:
    world, run, first = base
    other = refresh(world, "refused", run.folder, "--set", "candidates.k=7", code=10)
    assert json.loads(other.out)["error"]["code"] == "R109"
    assert "candidates.k" in other.err
    evaluated = world.again("base", "--json", verb="evaluate", folder=first.folder)
    assert json.loads(evaluated.out)["error"]["code"] == "R110"
    assert world.again("base", "--from", str(run.folder), verb="refresh", folder=run.folder).code == 2
    copy = world.root / "copy-of-first"
    shutil.copytree(first.folder, copy)
    swapped = world.again("base", "--from", str(copy), "--json", verb="refresh", folder=first.folder)
    assert json.loads(swapped.out)["error"]["code"] == "R110"
    both = ("--full", "--store", str(world.root / "store"))
    assert world.again("base", "--from", str(run.folder), *both, verb="refresh").code == 2
    forms = refresh(world, "forms", run.folder, "--set", "rerank.lambdamart={}", code=10)
    assert json.loads(forms.out)["error"]["code"] == "R109"


def test_histories_without_order_stay_without_order(base: tuple[World, Run, Run]) -> None:
    world, run, _ = base
    monday = began(world, "unordered", run, history_is_ordered=False)
    first = night(world, "unordered", monday.folder, "first")
    for name in ("train", "valid", "test"):
        assert not part(monday, name).ordered and not part(first, name).ordered
        assert pairs(part(first, name)) == pairs(part(monday, name))
    assert part(run, "train").ordered


def test_choices_that_a_label_split_left_out_stay_left_out(
    base: tuple[World, Run, Run], nights: Nights
) -> None:
    world, run, _ = base
    table = pq.read_table(nights.choices)
    labels = [("train", "test", "neither")[row % 3] for row in range(table.num_rows)]
    pq.write_table(table.append_column("set", pa.array(labels)), world.data / "labelled.parquet")
    monday = began(
        world,
        "labelled",
        run,
        interactions="labelled.parquet",
        interaction_columns={"user": "person", "item": "product", "timestamp": "time", "label": "set"},
        split={"method": "label"},
    )
    first = night(world, "labelled", monday.folder, "first")
    for name in ("train", "valid", "test"):
        assert len(part(monday, name)) > 0
        assert pairs(part(first, name)) == pairs(part(monday, name))
    summary = json.loads((first.folder / "stages/10-prepare/summary.json").read_text())
    assert summary["of_no_part"] == labels.count("neither")
    assert lists(first) == lists(monday)


def test_a_held_out_choice_is_held_out_again_when_its_item_comes_back(
    base: tuple[World, Run, Run], nights: Nights
) -> None:
    world, run, _ = base
    monday = began(world, "away", run)
    first = night(world, "away", monday.folder, "first")
    held = {name: pairs(part(monday, name))[0] for name in ("valid", "test")}
    items = {item for _, item in held.values()}
    whole = nights.catalog.read_bytes()
    nights.edit(nights.catalog, lambda rows: [row for row in rows if row["product"] not in items])
    without = night(world, "away", first.folder, "without")
    still = night(world, "away", without.folder, "still")
    nights.catalog.write_bytes(whole)
    back = night(world, "away", still.folder, "back")
    for name in ("train", "valid", "test"):
        assert not items & {item for _, item in pairs(part(still, name))}
        assert pairs(part(back, name)) == pairs(part(monday, name))
    assert lists(back) == lists(first)


@pytest.mark.parametrize(
    "name",
    [
        *(f"10-prepare/{name}.parquet" for name in ("train", "valid", "test", "held")),
        "10-prepare/gone.json",
        "50-recommend/leader.json",
    ],
)
def test_a_refresh_from_a_damaged_run_is_refused(
    base: tuple[World, Run, Run], tmp_path: Path, name: str
) -> None:
    world, _, first = base
    spoilt = tmp_path / "spoilt"
    shutil.copytree(first.folder, spoilt)
    path = spoilt / "stages" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    again = world.again("base", "--from", str(spoilt), "--json", verb="refresh", folder=tmp_path / "again")
    told = json.loads(again.out)["error"]
    assert (again.code, told["code"], told["where"]) == (5, "D113", str(path))
    assert not (tmp_path / "again").exists()
