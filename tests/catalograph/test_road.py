"""The whole road on a small shop, through the command line and in real processes."""

from __future__ import annotations

import io
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalograph import retrieval
from catalograph.cli import main
from catalograph.demo.shop import open_shop
from catalograph.retrieval import Fit
from catalograph.road import Road
from recsys.candidates import Candidates
from recsys.interactions import Interactions

if TYPE_CHECKING:
    from conftest import Run, World

PEOPLE, LISTED = 80, 20
"""As in the fixtures: how many people, and candidates of each."""
NINE = ("prepare", "caption", "embed", "train", "recommend", "finetune", "rerank", "evaluate", "report")
LISTS = ("popularity", "titles_only", "retrieved", "fused_without_llm", "llm_only", "reranked", "gated")
ORDERS = ("fused_without_llm", "llm_only", "reranked")
Pairs = set[tuple[str, str]]
Shown = dict[str, list[str]]


@dataclass
class Finished:
    """A run that went through, and what each of its fits learned from."""

    world: World
    run: Run
    hash: str
    fits: dict[tuple[str, str], Pairs]

    @property
    def stages(self) -> dict[str, dict[str, Any]]:
        return dict(json.loads(self.run.out)["stages"])

    def file(self, name: str) -> Path:
        return self.run.folder / "stages" / name

    def part(self, name: str) -> Interactions:
        return Interactions.load(self.file(f"10-prepare/{name}.parquet"))

    def lists(self, name: str) -> Candidates:
        return Candidates.from_parquet(self.file(f"{name}.parquet"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, make_world: Callable[[Path], World]) -> Finished:
    world = make_world(tmp_path_factory.mktemp("road"))
    fits: dict[tuple[str, str], Pairs] = {}
    fit = retrieval._fit

    def watched(road: Road, job: Fit, folder: Path) -> None:
        fits[job.kind, job.name] = pairs(job.train)
        fit(road, job, folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "_fit", watched)
        run = world.run("golden", "--json")
    assert run.code == 0, run.err
    return Finished(world, run, world.hash_of(run.folder), fits)


@dataclass(frozen=True)
class Alone:
    """The same run undisturbed in a process of its own: its folder, what it printed, how long it took."""

    folder: Path
    code: int
    out: str
    err: str
    seconds: float


@pytest.fixture(scope="module")
def alone(finished: Finished) -> Alone:
    folder, started = finished.world.root / "run-alone", time.monotonic()
    process = finished.world.start("golden", folder)
    out, err = process.communicate()
    return Alone(folder, process.returncode, out, err, time.monotonic() - started)


def pairs(part: Interactions) -> Pairs:
    return set(
        zip(part.user_ids[part.user_rows].tolist(), part.item_ids[part.item_rows].tolist(), strict=True)
    )


def shown(lists: Candidates) -> Shown:
    """Item ids by user, best first."""
    rows = zip(lists.user_ids.tolist(), lists.items.tolist(), strict=True)
    return {user: [item for item in items if item] for user, items in rows}


def clicks_by_time(world: World) -> dict[str, list[str]]:
    """What everyone chose, oldest first, read from the file itself."""
    rows = pq.read_table(world.data / "interactions.parquet").to_pylist()
    chosen: dict[str, list[str]] = {}
    for row in sorted(rows, key=lambda row: (row["person"], row["time"])):
        chosen.setdefault(row["person"], []).append(row["product"])
    return chosen


def rewrite(path: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    pq.write_table(pa.Table.from_pylist(change(pq.read_table(path).to_pylist())), path)


# What a run leaves


def test_a_run_goes_through_all_nine_stages_in_order(finished: Finished) -> None:
    assert tuple(finished.stages) == NINE
    assert not any(stage["reused"] for stage in finished.stages.values())
    folders = sorted(path.name for path in finished.file("").iterdir())
    assert folders == [f"{number}0-{name}" for number, name in enumerate(NINE, start=1)]


def test_what_goes_in_comes_out_or_is_quarantined(finished: Finished) -> None:
    for name, stage in finished.stages.items():
        assert stage["in"] == stage["ok"] + stage["quarantined"], name
    clicks = len(open_shop(60, PEOPLE, dial=1, seed=3).chosen)
    counted = {name: stage["in"] for name, stage in finished.stages.items()}
    # 60 items captioned; title and caption of each embedded; four retrievers fitted twice, and the three
    # whose scores candidates carry once per fold more; a list for everyone.
    assert counted["prepare"] == clicks
    assert (counted["caption"], counted["embed"], counted["train"]) == (60, 120, 4 * 2 + 3 * 2)
    assert (counted["recommend"], counted["rerank"], counted["evaluate"]) == (PEOPLE, PEOPLE, PEOPLE)


def test_every_list_is_measured_by_every_metric(finished: Finished) -> None:
    metrics = json.loads(finished.run.out)["metrics"]
    assert tuple(metrics) == LISTS
    for name in LISTS:
        assert {"ndcg@10", "recall@20"} <= set(metrics[name])
        assert all(0 <= value <= 1 for value in metrics[name].values())


def test_recall_of_the_retrieved_lists_is_what_counting_gives(finished: Finished) -> None:
    truth = {user: items[-1] for user, items in clicks_by_time(finished.world).items()}
    for name, lists in (
        ("retrieved", "50-recommend/test"),
        ("popularity", "50-recommend/baseline-popularity"),
    ):
        rows = shown(finished.lists(lists))
        found = sum(truth[user] in items[:10] for user, items in rows.items()) / len(truth)
        assert json.loads(finished.run.out)["metrics"][name]["recall@10"] == pytest.approx(found)
        assert found > 0


def test_reranking_cannot_change_the_recall_of_whole_lists(finished: Finished) -> None:
    metrics = json.loads(finished.run.out)["metrics"]
    assert {metrics[name][f"recall@{LISTED}"] for name in ("retrieved", *ORDERS, "gated")} == {
        metrics["retrieved"][f"recall@{LISTED}"]
    }


def test_the_last_choice_of_everyone_is_the_test_and_the_one_before_it_validation(finished: Finished) -> None:
    chosen = clicks_by_time(finished.world)
    assert len(chosen) == PEOPLE
    assert pairs(finished.part("test")) == {(user, items[-1]) for user, items in chosen.items()}
    assert pairs(finished.part("valid")) == {(user, items[-2]) for user, items in chosen.items()}
    assert pairs(finished.part("train")) == {(u, i) for u, items in chosen.items() for i in items[:-2]}


@pytest.mark.parametrize("name", ORDERS)
def test_a_reordered_list_holds_the_same_items(name: str, finished: Finished) -> None:
    before, after = shown(finished.lists("50-recommend/test")), shown(finished.lists(f"70-rerank/{name}"))
    assert list(before) == list(after) and len(before) == PEOPLE
    assert all(sorted(before[user]) == sorted(after[user]) for user in before)
    assert any(before[user] != after[user] for user in before)


def test_scores_of_every_source_stay_with_their_item(finished: Finished) -> None:
    before, after = finished.lists("50-recommend/test"), finished.lists("70-rerank/reranked")
    assert set(before.scores) == {"lirdrec", "item_knn", "popularity"}
    assert set(after.scores) == {*before.scores, "reranker", "fused"}
    for name in before.scores:
        for row in range(PEOPLE):
            was = dict(zip(before.items[row].tolist(), before.scores[name][row].tolist(), strict=True))
            now = dict(zip(after.items[row].tolist(), after.scores[name][row].tolist(), strict=True))
            assert was == pytest.approx(now, nan_ok=True)


@pytest.mark.parametrize(
    "name", ["50-recommend/test", "50-recommend/baseline-popularity", "70-rerank/reranked"]
)
def test_no_candidate_is_an_item_of_train_or_validation(name: str, finished: Finished) -> None:
    chosen = clicks_by_time(finished.world)
    lists = shown(finished.lists(name))
    assert all(len(items) == LISTED for items in lists.values())
    assert not [user for user, items in lists.items() if set(items) & set(chosen[user][:-1])]


def test_validation_lists_leave_only_train_out(finished: Finished) -> None:
    chosen, lists = clicks_by_time(finished.world), shown(finished.lists("50-recommend/valid"))
    assert not [user for user, items in lists.items() if set(items) & set(chosen[user][:-2])]
    assert [user for user, items in lists.items() if chosen[user][-2] in items]


@pytest.mark.parametrize("fold", [0, 1])
def test_the_retrievers_of_a_fold_never_saw_what_is_held_out(fold: int, finished: Finished) -> None:
    # By hand: everybody's train choices are those before the last two; fold 0 holds out the last of them,
    # fold 1 the one before it, and only what came earlier is learned from.
    train = {user: items[:-2] for user, items in clicks_by_time(finished.world).items()}
    held_out = {(user, items[-1 - fold]) for user, items in train.items()}
    earlier = {(user, item) for user, items in train.items() for item in items[: -1 - fold]}
    for name in ("lirdrec", "item_knn", "popularity"):
        assert finished.fits[f"fold-{fold}", name] == earlier
        assert not finished.fits[f"fold-{fold}", name] & held_out
    lists = finished.lists(f"50-recommend/fold-{fold}")
    counts = Counter(item for _, item in earlier)
    for items, scores in zip(lists.items.tolist(), lists.scores["popularity"].tolist(), strict=True):
        assert scores == [counts[item] for item in items]
    rows = shown(lists)
    assert not {(user, item) for user, items in rows.items() for item in items} & earlier
    assert {(user, item) for user, items in rows.items() for item in items} & held_out


def test_final_models_learn_from_train_and_validation_and_never_from_test(finished: Finished) -> None:
    chosen = clicks_by_time(finished.world)
    for name in ("lirdrec", "titles_only", "item_knn", "popularity"):
        assert finished.fits["select", name] == {(u, i) for u, items in chosen.items() for i in items[:-2]}
        assert finished.fits["final", name] == {(u, i) for u, items in chosen.items() for i in items[:-1]}


class Page(HTMLParser):
    """What a browser would load, and the words in their order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        loading = ("src", "href", "srcset", "data", "poster", "action", "background", "xlink:href")
        self.loaded += [value or "" for name, value in attrs if name in loading]
        self.loaded += [found for _, value in attrs for found in re.findall(r"url\(([^)]*)\)", value or "")]

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.words.append(data.strip())


def test_the_report_is_one_page_that_loads_nothing_and_says_its_notice_first(finished: Finished) -> None:
    path = Path(json.loads(finished.run.out)["report"])
    assert path == finished.run.folder / "report" / "index.html"
    text = path.read_text()
    page = Page(text)
    assert [value for value in page.loaded if not value.startswith(("#", "data:"))] == []
    assert sum(value.startswith("data:image/") for value in page.loaded) > 20
    assert "@import" not in text and not re.search(r"(src|href)\s*=\s*[\"']?\s*https?:", text)
    assert page.words.index(finished.world.notice) < page.words.index("Metrics")


def test_the_report_shows_captions_lists_and_what_moved(finished: Finished) -> None:
    page = Page((finished.run.folder / "report" / "index.html").read_text())
    captions = pq.read_table(finished.file("20-caption/captions.parquet"))["caption"].to_pylist()
    assert set(captions) & set(page.words)
    assert page.words.count("Before reranking") == page.words.count("After reranking") == 4
    assert set(LISTS) <= set(page.words)


def test_the_report_says_what_became_of_every_user_why_items_moved_and_where_it_comes_from(
    finished: Finished,
) -> None:
    page = Page((finished.run.folder / "report" / "index.html").read_text())
    words = " ".join(page.words)
    users = json.loads(finished.run.out)["evaluation"]["users"]
    ends = (r"among the first \d+", r"at places \d+ to \d+", r"not among the \d+ candidates")
    counts = [re.search(rf"{end} (\d+) [\d.]+\s?%", words) for end in ends]
    assert all(counts) and sum(int(found[1]) for found in counts if found) == users
    assert "Delivered lists, ndcg@" in words and "Reranking over the retrieved order" in words
    assert all(f"results of {stage}" in page.words for stage in NINE[:-1])
    assert {"captioner", "language model", "input interactions.parquet"} <= set(page.words)
    assert "torch 2." in words


# The same run again, elsewhere, and otherwise


def test_json_is_one_object_and_nothing_else_on_stdout(alone: Alone) -> None:
    assert alone.code == 0, alone.err
    assert alone.out.count("\n") == 1
    result = json.loads(alone.out)
    assert set(result) == {"run_dir", "stages", "metrics", "evaluation", "lists", "report"}
    assert tuple(result["stages"]) == NINE and tuple(result["metrics"]) == LISTS
    assert all(stage["seconds"] >= 0 for stage in result["stages"].values())
    assert Path(result["report"]).is_file()


def test_two_runs_in_two_folders_and_two_processes_have_one_hash(finished: Finished, alone: Alone) -> None:
    assert alone.folder != finished.run.folder
    assert finished.world.hash_of(alone.folder) == finished.hash


def test_the_same_folder_again_reuses_every_stage_and_imports_no_torch(finished: Finished) -> None:
    code = (
        "import sys; from catalograph.cli import main; code = main(sys.argv[1:]);"
        "print('torch' in sys.modules, 'transformers' in sys.modules); sys.exit(code)"
    )
    config, folder = finished.world.root / "golden.yaml", finished.run.folder
    command = [sys.executable, "-c", code, "run", "-c", str(config), "--run-dir", str(folder), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=finished.world.environment())
    assert done.returncode == 0, done.stderr
    result, imported = done.stdout.splitlines()
    assert imported == "False False"
    stages = json.loads(result)["stages"]
    assert tuple(stages) == NINE and all(stage["reused"] for stage in stages.values())
    assert json.loads(result)["metrics"] == json.loads(finished.run.out)["metrics"]
    assert finished.world.hash_of(folder) == finished.hash


def test_a_changed_setting_is_refused_by_name(finished: Finished) -> None:
    run = finished.world.again("golden", "--set", "candidates.k=10")
    assert run.code == 10 and run.out == ""
    assert f"candidates.k: {LISTED} before, 10 now" in run.err
    assert finished.world.hash_of(run.folder) == finished.hash


def test_another_language_model_of_the_same_name_is_refused(finished: Finished) -> None:
    extra = finished.world.language_model / "extra.json"
    extra.write_text("{}")
    try:
        run = finished.world.again("golden")
    finally:
        extra.unlink()
    assert run.code == 10 and "stage 60-finetune" in run.err and "model:" in run.err
    assert finished.world.again("golden").code == 0


def test_a_changed_input_is_refused_by_name(world: World) -> None:
    assert world.run("inputs", verb="prepare").code == 0
    rewrite(world.data / "interactions.parquet", lambda rows: rows[1:])
    run = world.run("inputs", verb="prepare")
    assert run.code == 10 and "interactions:" in run.err and "stage 10-prepare" in run.err


def test_a_report_can_be_written_again_with_other_settings(finished: Finished) -> None:
    page = finished.run.folder / "report" / "index.html"
    assert finished.world.again("golden", "--set", "report.title=Seen anew", verb="report").code == 0
    assert "Seen anew" in page.read_text()
    page.write_text("spoilt")
    assert finished.world.again("golden", verb="report").code == 0
    assert "A small shop" in page.read_text()
    assert finished.world.hash_of(finished.run.folder) == finished.hash


@pytest.mark.parametrize(
    "damaged",
    ["40-train/final/lirdrec/model.safetensors", "50-recommend/test.parquet", "60-finetune/fusion.json"],
)
@pytest.mark.parametrize("how", ["gone", "cut"])
def test_a_damaged_stage_is_done_again_and_ends_the_same(
    damaged: str, how: str, finished: Finished, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished.run.folder, folder)
    path = folder / "stages" / damaged
    path.unlink() if how == "gone" else path.write_bytes(path.read_bytes()[:-1])
    run = finished.world.again("golden", "--json", folder=folder)
    assert run.code == 0, run.err
    stages = json.loads(run.out)["stages"]
    assert [name for name, stage in stages.items() if not stage["reused"]] == [damaged.split("/")[0][3:]]
    assert finished.world.hash_of(folder) == finished.hash
    assert main(["verify", "--run-dir", str(folder)]) == 0


def test_a_run_killed_at_three_moments_ends_with_the_same_hash(finished: Finished, alone: Alone) -> None:
    chance, kills, folders = random.Random(11), 0, [finished.world.root / "run-killed-1"]
    while kills < 3 and len(folders) < 9:
        process = finished.world.start("golden", folders[-1])
        try:
            process.wait(chance.uniform(0.1, 0.95) * alone.seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode == -signal.SIGKILL:
            kills += 1
        else:
            assert process.returncode == 0
            folders.append(finished.world.root / f"run-killed-{len(folders) + 1}")
    assert kills == 3
    for folder in folders:
        assert finished.world.again("golden", folder=folder).code == 0
        assert main(["verify", "--run-dir", str(folder)]) == 0
        assert finished.world.hash_of(folder) == finished.hash


# Parts left out


def test_without_captions_titles_carry_the_road(finished: Finished) -> None:
    config = finished.world.config()
    titles = config["retrievers"]["titles_only"]
    changes: dict[str, Any] = {
        "caption": None,
        "features": {"title": config["features"]["title"]},
        "retrievers": {"lirdrec": titles, "popularity": {"model": "popularity"}},
        "candidates": {"k": 8},
        "rerank": {**config["rerank"], "item": "{title}"},
        "evaluate": {"ks": [5]},
    }
    run = finished.world.run("titles", "--json", **changes)
    assert run.code == 0, run.err
    result = json.loads(run.out)
    assert tuple(result["stages"]) == tuple(name for name in NINE if name != "caption")
    assert result["stages"]["embed"]["in"] == 60
    assert tuple(result["metrics"]) == ("retrieved", *ORDERS, "gated")
    assert Path(result["report"]).is_file()


def test_a_template_that_needs_captions_is_refused_without_them(finished: Finished) -> None:
    run = finished.world.run("uncaptioned", caption=None)
    assert run.code == 2 and run.out == ""
    assert "features.caption.template" in run.err and "captions are off" in run.err


def test_without_a_reranker_the_candidates_are_the_recommendations(finished: Finished) -> None:
    run = finished.world.run("unranked", "--json", rerank=None)
    assert run.code == 0, run.err
    result = json.loads(run.out)
    assert tuple(result["stages"]) == tuple(name for name in NINE if name not in {"finetune", "rerank"})
    assert result["stages"]["train"]["in"] == 4 * 2
    golden = json.loads(finished.run.out)["metrics"]
    assert result["metrics"] == {name: golden[name] for name in ("popularity", "titles_only", "retrieved")}
    assert "Recommended" in Page(Path(result["report"]).read_text()).words


def test_one_verb_runs_what_it_needs_and_no_more(finished: Finished) -> None:
    run = finished.world.run("partly", "--json", verb="extract")
    assert run.code == 0 and list(json.loads(run.out)["stages"]) == ["caption", "embed"]
    assert json.loads(run.out)["metrics"] == {} and json.loads(run.out)["report"] is None


# Bad input


def captions_in(folder: Path) -> dict[str, str]:
    rows = pq.read_table(folder / "stages/20-caption/captions.parquet").to_pylist()
    return {row["item_id"]: row["caption"] for row in rows}


def spoil_pictures(archive: Path, missing: str, broken: str) -> None:
    """Takes one picture away and cuts another in half."""
    with zipfile.ZipFile(archive) as old:
        files = {name: old.read(name) for name in old.namelist()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as new:
        for name, data in files.items():
            if name != missing:
                new.writestr(name, data[: len(data) // 2] if name == broken else data)
    archive.write_bytes(buffer.getvalue())


def test_a_missing_and_a_broken_picture_are_quarantined_and_their_items_stay(
    world: World, finished: Finished
) -> None:
    spoilt = ["p000003", "p000007"]
    spoil_pictures(world.data / "pictures.zip", missing="p000003.jpg", broken="p000007.jpg")
    # Two of sixty are more than the limit of one in a hundred; what was done by then is kept.
    stopped = world.run("spoilt", verb="extract", rerank=None)
    assert stopped.code == 8 and "2 of 60 items were quarantined" in stopped.err
    run = world.run("spoilt", "--json", rerank=None, max_bad=0.05)
    assert run.code == 7, run.err
    stages = json.loads(run.out)["stages"]
    counts = [[stages[name][key] for key in ("in", "ok", "absent", "quarantined")] for name in NINE[1:3]]
    assert counts == [[60, 58, 0, 2], [120, 120, 2, 0]]
    bad = pq.read_table(run.folder / "stages/20-caption/quarantine.parquet").to_pylist()
    assert [(row["item_id"], row["stage"]) for row in bad] == [(item, "caption") for item in spoilt]
    assert [row["reason"] for row in bad] == ["missing", "broken"]
    left = captions_in(finished.run.folder)
    assert captions_in(run.folder) == {item: text for item, text in left.items() if item not in spoilt}
    lists = shown(Candidates.from_parquet(run.folder / "stages/50-recommend/test.parquet"))
    assert set(spoilt) <= {item for items in lists.values() for item in items}
    page = Page((run.folder / "report/index.html").read_text())
    assert {"Quarantine", *spoilt} <= set(page.words)
    # A finished run with quarantined items stays a partial success.
    assert world.run("spoilt", rerank=None, max_bad=0.05).code == 7


def test_a_doubled_item_id_stops_the_run_and_names_both_rows(world: World) -> None:
    rewrite(world.data / "catalog.parquet", lambda rows: [*rows, rows[4]])
    run = world.run("doubled")
    assert run.code == 5 and run.out == ""
    assert "error[D101]" in run.err and "'p000004' in rows 5, 61" in run.err


def stray_click(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*rows, {"person": "u000000", "product": "p999999", "time": 1}]


def test_a_click_on_an_item_the_catalogue_lacks_stops_the_run(world: World) -> None:
    rewrite(world.data / "interactions.parquet", stray_click)
    run = world.run("stray")
    assert run.code == 5 and "error[D202]" in run.err and "p999999" in run.err


def test_such_clicks_are_counted_where_they_are_to_be_dropped(world: World, finished: Finished) -> None:
    rewrite(world.data / "interactions.parquet", stray_click)
    data = {**world.config()["data"], "unknown_items": "drop"}
    run = world.run("dropped", "--json", verb="prepare", data=data)
    assert run.code == 0, run.err
    known = finished.stages["prepare"]["in"]
    counts = json.loads(run.out)["stages"]["prepare"]
    assert (counts["in"], counts["ok"], counts["quarantined"]) == (known + 1, known, 1)
    summary = json.loads((run.folder / "stages/10-prepare/summary.json").read_text())
    assert (summary["unknown_items"], summary["first_unknown"]) == (1, ["p999999"])
    for name in ("train", "valid", "test"):
        part = Interactions.load(run.folder / f"stages/10-prepare/{name}.parquet")
        assert pairs(part) == pairs(finished.part(name))


def test_an_empty_split_stops_the_run_and_is_named(world: World) -> None:
    def two_each(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        seen: Counter[str] = Counter()
        kept = []
        for row in rows:
            seen[row["person"]] += 1
            kept += [row] if seen[row["person"]] <= 2 else []
        return kept

    rewrite(world.data / "interactions.parquet", two_each)
    run = world.run("short")
    assert run.code == 5 and "error[D206]" in run.err and "split is empty" in run.err
    assert f"train {2 * PEOPLE}, valid 0, test 0" in run.err


def test_an_unknown_key_is_refused_with_the_nearest_one(world: World) -> None:
    rerank = world.config()["rerank"]
    run = world.run("unknown", rerank={**rerank, "finetune": {**rerank["finetune"], "epoch": 2}})
    assert run.code == 2 and not run.folder.exists()
    assert "rerank.finetune.epoch" in run.err and "did you mean rerank.finetune.epochs?" in run.err


def test_an_error_is_one_json_object_too(world: World) -> None:
    rewrite(world.data / "catalog.parquet", lambda rows: [*rows, rows[0]])
    run = world.run("doubled", "--json")
    assert run.out.count("\n") == 1
    error = json.loads(run.out)
    assert (error["exit_code"], error["error"]["code"]) == (5, "D101")
