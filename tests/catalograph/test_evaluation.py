"""What the evaluation stage finds, through the command line, held against the lists it was made from."""

from __future__ import annotations

import importlib.util
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalograph.cli import main
from catalograph.side_by_side import compare_side_by_side, comparison_page
from recsys import Candidates, Interactions, judge
from recsys.beyond_accuracy import list_statistics
from recsys.groups import activity, judged_by_group, warmth
from recsys.nearest_index import search_index

if TYPE_CHECKING:
    from conftest import World

METRICS = ["ndcg", "precision", "map_mmrec"]


def retrieval_only(world: World, **evaluate: Any) -> dict[str, Any]:
    """Changes to the configuration that leave two closed-form retrievers and titles."""
    settings = {"ks": [5], "baselines": ["popularity"], "bootstrap": 100, "metrics": METRICS}
    return {
        "caption": None,
        "rerank": None,
        "features": {"title": world.config()["features"]["title"]},
        "retrievers": {"item_knn": {"model": "item_knn"}, "popularity": {"model": "popularity"}},
        "candidates": {"k": world.listed, "order_by": "item_knn"},
        "evaluate": {**settings, **evaluate},
    }


def test_groups_statistics_and_corrected_p_values_are_in_the_file_and_in_json(world: World) -> None:

    groups = ["activity", "warmth", "activity*warmth"]
    changes = retrieval_only(world, groups=groups, diversity="title")
    run = world.run("metrics", "--json", **changes)
    assert run.code == 0, run.err
    stages = run.folder / "stages"
    found = json.loads((stages / "80-evaluate/metrics.json").read_text())
    assert json.loads(run.out)["evaluation"] == found
    train, test = (Interactions.load(stages / f"10-prepare/{name}.parquet") for name in ("train", "test"))
    lists = Candidates.from_parquet(stages / "50-recommend/test.parquet")

    by_hand = list_statistics(lists, train, [5])[5]
    assert found["statistics"]["retrieved"]["coverage@5"] == by_hand.coverage
    assert 0 < found["statistics"]["retrieved"]["diversity@5"] < 2
    judged = judge(lists, test)
    assert found["oracle"]["precision@5"] == judged.oracle([5]).mean()["precision@5"]
    parts = judged_by_group(judged, [activity(train), warmth(train)], train.user_rows_of(judged.user_ids))
    crossed = found["groups"]["activity*warmth"]
    assert {name: entry["users"] for name, entry in crossed.items()} == {
        name: len(part.user_ids) for name, part in parts.items()
    }
    for name, part in parts.items():
        got = crossed[name]["lists"]["retrieved"]["ndcg@5"]
        assert got["mean"] == part.metrics([5]).mean()["ndcg@5"]
        assert got["low"] <= got["mean"] <= got["high"]
    assert all(row["p"] <= row["p_holm"] <= 1 for row in found["comparisons"])
    page = (run.folder / "report/index.html").read_text()
    for words in ("By activity and warmth", "What the lists are like", "coverage@5", "p = ", "best order"):
        assert words in page


def test_groups_that_were_given_are_told_apart(world: World) -> None:
    chosen = retrieval_only(world, groups=["given"], given="groups.parquet")
    assert world.run("prepare", verb="prepare", **{**chosen, "evaluate": {}}).code == 0
    ids = Interactions.load(world.root / "run-prepare/stages/10-prepare/train.parquet").user_ids.tolist()

    pq.write_table(
        pa.table({"user_id": ids, "group": ["even", "odd"] * (len(ids) // 2)}), world.data / "groups.parquet"
    )
    run = world.run("given", "--json", verb="evaluate", **chosen)
    assert run.code == 0, run.err
    found = json.loads(run.out)["evaluation"]["groups"]["given"]
    assert {name: entry["users"] for name, entry in found.items()} == {"even": 40, "odd": 40}


@pytest.mark.parametrize(
    ("evaluate", "words"),
    [
        ({"groups": ["activty"]}, "no grouping"),
        ({"groups": ["given"]}, "needs a table"),
        ({"diversity": "titel"}, "title"),
    ],
)
def test_names_that_do_not_exist_are_refused(world: World, evaluate: dict[str, Any], words: str) -> None:
    run = world.run("bad", verb="prepare", **retrieval_only(world, **evaluate))
    assert run.code == 2 and words in run.err


def test_a_missing_table_of_groups_is_an_error_that_names_it(world: World) -> None:
    run = world.run("missing", **retrieval_only(world, groups=["given"], given="nowhere.csv"))
    assert run.code == 4 and "nowhere.csv" in run.err


def test_a_merged_order_is_kept_for_test_lists_and_named_in_the_report(world: World) -> None:
    chosen = retrieval_only(world)
    chosen["candidates"]["order_by"] = "merged"
    run = world.run("merged", "--json", **chosen)
    assert run.code == 0, run.err
    stages = run.folder / "stages"
    leader = json.loads((stages / "50-recommend/leader.json").read_text())
    assert leader["order_by"] == "merged" and sum(leader["weights"].values()) == pytest.approx(1)
    assert leader["ndcg@20"]["merged"] >= max(leader["ndcg@20"][n] for n in ("item_knn", "popularity"))
    lists = Candidates.from_parquet(stages / "50-recommend/test.parquet")
    assert set(lists.scores) == {"item_knn", "popularity"} and (lists.ranks["popularity"] > 0).all()
    # Blocks of one user, in the same folder: nothing is made again. In another: the same lists.
    assert world.again("merged", "--set", "candidates.memory_gib=1e-6").code == 0
    again = world.again("merged", "--set", "candidates.memory_gib=1e-6", folder=world.root / "small")
    assert again.code == 0 and world.hash_of(again.folder) == world.hash_of(run.folder)
    assert "in the order of merged" in (run.folder / "report/index.html").read_text()


def test_the_mmrec_protocol_leaves_validation_items_in_and_refits_nothing(world: World) -> None:
    chosen = retrieval_only(world)
    chosen["candidates"]["protocol"] = "mmrec"
    run = world.run("mmrec", **chosen)
    assert run.code == 0, run.err
    stages = run.folder / "stages"
    assert [path.name for path in (stages / "40-train").iterdir() if path.is_dir()] == ["select"]
    train, valid = (Interactions.load(stages / f"10-prepare/{name}.parquet") for name in ("train", "valid"))
    for name in ("test", "baseline-popularity"):
        lists = Candidates.from_parquet(stages / f"50-recommend/{name}.parquet")
        shown = {
            (u, i) for u, row in zip(lists.user_ids.tolist(), lists.items.tolist(), strict=True) for i in row
        }
        taken = {
            part: set(zip(p.user_ids[p.user_rows].tolist(), p.item_ids[p.item_rows].tolist(), strict=True))
            for part, p in (("train", train), ("valid", valid))
        }
        assert shown & taken["valid"] and not shown & taken["train"]
    assert "Protocol mmrec" in (run.folder / "report/index.html").read_text()


def test_the_mmrec_protocol_refuses_a_reranker(world: World) -> None:
    run = world.run("both", verb="prepare", candidates={"k": 20, "order_by": "lirdrec", "protocol": "mmrec"})
    assert run.code == 2 and "rerank needs strict" in run.err


def test_lists_keep_the_rules_and_vectors_are_written_on_request(world: World) -> None:
    shop = pq.read_table(world.data / "catalog.parquet")
    ids = shop["product"].to_pylist()
    pq.write_table(pa.table({"item_id": ids[:40]}), world.data / "allow.parquet")
    (world.data / "deny.csv").write_text("item_id\n" + "\n".join(ids[:5]) + "\n")
    kinds = [f"kind {n % 4}|all" if n % 2 else f"kind {n % 4}" for n in range(len(ids))]
    pq.write_table(shop.append_column("kind", pa.array(kinds)), world.data / "catalog.parquet")
    chosen = retrieval_only(world)
    chosen["data"] = world.config()["data"]
    chosen["data"]["catalog_columns"]["attributes"] = ["kind"]
    lightgcn = {"model": "lightgcn", "params": {"embedding_size": 4}, "train": {"epochs": 1}}
    chosen["retrievers"]["lightgcn"] = lightgcn
    chosen["candidates"] |= {"k": 8, "allow": "allow.parquet", "deny": "deny.csv", "embeddings": True}
    chosen["candidates"] |= {"cap_by": "kind", "cap": 3, "order_by": "merged"}
    run = world.run("rules", verb="recommend", **chosen)
    assert run.code == 0, run.err
    stage = run.folder / "stages/50-recommend"
    kind_of = dict(zip(ids, kinds, strict=True))
    for name in ("test", "valid", "baseline-popularity"):
        lists = Candidates.from_parquet(stage / f"{name}.parquet")
        for row in lists.items.tolist():
            listed = [item for item in row if item]
            assert listed and set(listed) <= set(ids[5:40])
            values = [value for item in listed for value in kind_of[item].split("|")]
            assert max(values.count(value) for value in set(values)) <= 3
    vectors = {
        side: pq.read_table(stage / f"embeddings/lightgcn-{side}s.parquet") for side in ("user", "item")
    }
    assert vectors["item"]["item_id"].to_pylist() == ids
    users, items = (np.array(vectors[side]["vector"].to_pylist()) for side in ("user", "item"))
    lists = Candidates.from_parquet(stage / "test.parquet")
    row = vectors["user"]["user_id"].to_pylist().index(lists.user_ids[0])
    own = [ids.index(item) for item in lists.items[0] if item]
    assert lists.scores["lightgcn"][0][: len(own)] == pytest.approx(users[row] @ items[own].T, rel=1e-4)


def test_an_index_is_written_beside_the_item_vectors_or_the_run_says_what_to_install(world: World) -> None:
    chosen = retrieval_only(world)
    lightgcn = {"model": "lightgcn", "params": {"embedding_size": 4}, "train": {"epochs": 1}}
    chosen["retrievers"]["lightgcn"] = lightgcn
    chosen["candidates"] |= {"index": True, "order_by": "lightgcn"}
    run = world.run("index", verb="recommend", **chosen)
    stage = run.folder / "stages/50-recommend/embeddings"
    if importlib.util.find_spec("usearch") is None:
        assert (run.code, stage.exists()) == (3, False)
        assert 'pip install "catalograph[ann]"' in run.err
        return
    assert run.code == 0, run.err
    users, items = (pq.read_table(stage / f"lightgcn-{side}s.parquet")["vector"] for side in ("user", "item"))
    users, items = np.float32(users.to_pylist()), np.float32(items.to_pylist())
    found = search_index(stage / "lightgcn-items.usearch", users, 5)
    best = np.sort(users @ items.T, axis=1)[:, :-6:-1]
    np.testing.assert_allclose(np.take_along_axis(users @ items.T, found, axis=1), best, rtol=1e-4)


def test_rules_that_leave_nothing_are_refused(world: World) -> None:
    (world.data / "allow.csv").write_text("item_id\nstranger\n")
    chosen = retrieval_only(world)
    chosen["candidates"]["allow"] = "allow.csv"
    run = world.run("nothing", verb="recommend", **chosen)
    assert run.code == 2 and "leave no item" in run.err


def test_newcomers_get_lists_of_a_finished_run_and_known_histories_known_lists(world: World) -> None:
    chosen = retrieval_only(world)
    lightgcn = {"model": "lightgcn", "params": {"embedding_size": 4}, "train": {"epochs": 1}}
    chosen["retrievers"]["lightgcn"] = lightgcn
    world.run("newcomers", verb="recommend", **chosen)
    folder, out = world.root / "run-newcomers", world.root / "lists" / "new.parquet"
    parts = [Interactions.load(folder / f"stages/10-prepare/{name}.parquet") for name in ("train", "valid")]
    known = parts[0].concat(parts[1])
    users = [f"twin of {user}" for user in known.user_ids[known.user_rows]] + ["nobody yet"]
    items = [*known.item_ids[known.item_rows].tolist(), known.item_ids[0]]
    pq.write_table(pa.table({"person": users, "product": items}), world.data / "new.parquet")
    options = ["--histories", str(world.data / "new.parquet"), "--out", str(out)]
    assert main(["newcomers", "--run-dir", str(folder), *options]) == 0
    got = Candidates.from_parquet(out)
    assert set(got.user_ids.tolist()) == set(users)
    old = Candidates.from_parquet(folder / "stages/50-recommend/test.parquet")
    place = {user: row for row, user in enumerate(got.user_ids.tolist())}
    for row, user in enumerate(old.user_ids.tolist()):
        twin = place[f"twin of {user}"]
        assert got.items[twin].tolist() == old.items[row].tolist()
        assert got.scores["item_knn"][twin] == pytest.approx(old.scores["item_knn"][row], nan_ok=True)
    assert np.isfinite(got.scores["lightgcn"][got.mask]).all()


def test_newcomers_need_a_finished_run(world: World) -> None:
    chosen = retrieval_only(world)
    run = world.run("early", verb="prepare", **chosen)
    path = str(world.data / "interactions.parquet")
    options = ["--histories", path, "--out", str(world.root / "new.parquet")]
    assert main(["newcomers", "--run-dir", str(run.folder), *options]) == 3


def test_runs_of_several_seeds_are_compared_over_seeds_and_users(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = []
    for seed in (0, 1, 2):
        chosen = retrieval_only(world)
        train = {"epochs": 2, "learning_rate": 0.05, "seed": seed}
        chosen["retrievers"]["lightgcn"] = {
            "model": "lightgcn",
            "params": {"embedding_size": 4},
            "train": train,
        }
        chosen["candidates"]["order_by"] = "lightgcn"
        run = world.run(f"seed-{seed}", verb="evaluate", **chosen)
        assert run.code == 0, run.err
        folders.append(run.folder)
    runs = [part for folder in folders for part in ("--run-dir", str(folder))]
    capsys.readouterr()
    against = ["--against", str(folders[0]), "--against-list", "popularity"]
    assert main(["compare", *runs, *against, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["seeds"] == [3, 1] and found["users"] == 80
    means = [
        json.loads((folder / "stages/80-evaluate/metrics.json").read_text())["lists"] for folder in folders
    ]
    row = found["metrics"]["ndcg@5"]
    values = [m["retrieved"]["ndcg@5"]["mean"] for m in means]
    assert row["mean"] == pytest.approx(np.mean(values)) and row["seed_deviation"] == pytest.approx(
        np.std(values, ddof=1)
    )
    assert row["difference"] == pytest.approx(row["mean"] - means[0]["popularity"]["ndcg@5"]["mean"])
    assert row["low"] <= row["difference"] <= row["high"] and row["p"] <= row["p_holm"]
    assert main(["compare", *runs, *against]) == 0
    assert "80 users, 3 against 1 seeds" in capsys.readouterr().out
    assert main(["compare", *runs, "--against", str(world.root)]) == 3
    assert main(["compare", *runs, "--against", str(folders[0]), "--list", "unheard"]) == 5


def test_runs_side_by_side_tell_paired_differences_and_the_settings_behind_them(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = []
    for name, k in (("narrow", 5), ("wide", 10)):
        chosen = retrieval_only(world)
        chosen["candidates"]["k"] = k
        folders.append(world.run(name, verb="evaluate", **chosen).folder)
    page = world.root / "pages" / "comparison.html"
    capsys.readouterr()
    assert main(["compare", *map(str, folders), "--page", str(page), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    one, two = (pq.read_table(f / "stages/80-evaluate/per_user.parquet") for f in folders)
    gaps = two["retrieved/ndcg@5"].to_numpy() - one["retrieved/ndcg@5"].to_numpy()
    row = found["runs"][1]["differences"]["ndcg@5"]
    assert row["difference"] == pytest.approx(gaps.mean()) and row["low"] <= row["difference"] <= row["high"]
    assert row["p"] <= row["p_holm"] <= 1 and "differences" not in found["runs"][0]
    assert [(r["run"], r["list"]) for r in found["runs"]] == [
        ("run-narrow", "retrieved"),
        ("run-wide", "retrieved"),
    ]
    assert found["settings"]["candidates.k"] == [5, 10] and found["same_split"]
    assert found["users"] == len(one) and found["environment"] == {}
    text = page.read_text()
    assert "<mark>10</mark>" in text and "run-wide over run-narrow" in text and "<script" not in text

    assert main(["compare", *map(str, folders), "--list", "popularity"]) == 0
    out = capsys.readouterr().out
    assert "Paired differences" in out and "candidates.k: 5 | 10" in out
    assert main(["compare", str(folders[0])]) == 5
    assert main(["compare", *map(str, folders), "--list", "unheard"]) == 5
    assert main(["compare", str(folders[0]), "--against", str(folders[1])]) == 2
    assert main(["compare"]) == 2


def test_users_that_one_run_lacks_are_left_out_and_another_split_is_told(world: World) -> None:
    folders = []
    for seed in (0, 1):
        chosen = retrieval_only(world)
        chosen["data"] = {**world.config()["data"], "split": {"method": "random", "seed": seed}}
        folders.append(world.run(f"split-{seed}", verb="evaluate", **chosen).folder)
    path = folders[1] / "stages/80-evaluate/per_user.parquet"
    table = pq.read_table(path)
    pq.write_table(table.slice(3), path)
    found = compare_side_by_side(folders)
    users = [set(pq.read_table(f / path.relative_to(folders[1]))["user_id"].to_pylist()) for f in folders]
    assert found["users"] == len(users[0] & users[1]) < len(users[0])
    assert not found["same_split"] and found["settings"]["data.split.seed"] == [0, 1]
    shown = comparison_page(found)
    assert shown.notice.startswith("These runs hold out different choices")
    assert any("The others are left out" in note for note in shown.notes)
