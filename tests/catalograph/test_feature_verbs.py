"""`export` and `probe` on the features of a finished run, through the command line."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from catalograph.cli import main
from extract.cards import read_card
from extract.features import FeatureTable

if TYPE_CHECKING:
    from conftest import Run, World

FAKE = {"engine": "fake", "buckets": 4}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, make_world: Callable[[Path], World]) -> World:
    world = make_world(tmp_path_factory.mktemp("verbs"))
    rows = pq.read_table(world.data / "catalog.parquet")
    np.save(world.data / "audio.npy", np.full((1, 2), 3, np.float32))
    (world.data / "ids.txt").write_text(rows["product"][0].as_py())
    return world


@pytest.fixture(scope="module")
def run(shop: World) -> Run:
    features = {
        "title": {"template": "A {title}", "embed": FAKE},
        "noise": {"pictures": FAKE},
        "audio": {"vectors": {"path": "audio.npy", "ids": "ids.txt", "model": "an audio encoder"}},
    }
    retrievers = {"popularity": {"model": "popularity"}}
    done = shop.run(
        "features", verb="extract", caption=None, rerank=None, features=features, retrievers=retrievers,
        candidates={}, evaluate={},
    )  # fmt: skip
    assert done.code == 0, done.err
    return done


def call(verb: str, run: Run, *arguments: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([verb, "--run-dir", str(run.folder), *arguments])
    return code, out.getvalue(), err.getvalue()


def table(run: Run, name: str) -> FeatureTable:
    return FeatureTable.load(run.folder / f"stages/30-embed/{name}.safetensors")


def test_the_embed_stage_writes_a_card_of_each_feature_that_verify_watches(run: Run) -> None:
    cards = {
        name: read_card((run.folder / f"stages/30-embed/{name}.md").read_text())
        for name in ("title", "noise", "audio")
    }
    for name, card in cards.items():
        assert card["sha256"] == table(run, name).content_hash()
        assert (card["rows"], card["quarantined"]) == (60, 0)
    assert (cards["title"]["made_from"], cards["title"]["template"]) == ("texts", "A {title}")
    assert (cards["title"]["missing"], cards["audio"]["missing"]) == (0, 59)
    assert (cards["audio"]["made_from"], cards["audio"]["model"]) == ("ready vectors", "an audio encoder")
    assert "template" not in cards["noise"]
    declared = json.loads((run.folder / "stages/30-embed/stage.json").read_text())["outputs"]
    assert {"title.md", "noise.md", "audio.md"} <= {row["path"] for row in declared}


@pytest.mark.parametrize("format", ["mmrec", "parquet", "dataset"])
def test_features_are_exported_with_their_cards(format: str, run: Run, tmp_path: Path) -> None:
    to = tmp_path / "out"
    code, out, err = call("export", run, "--to", str(to), "--format", format, "--json")
    assert code == 0, err
    assert sorted(path.name for path in to.iterdir()) == json.loads(out)["files"]
    ids = pq.read_table(to / "item_ids.parquet")["item_id"].to_pylist()
    card = read_card((to / "title.md").read_text())
    assert (card["template"], card["export"]["format"]) == ("A {title}", format)
    wanted = table(run, "title").aligned_to(ids)
    if format == "mmrec":
        assert np.array_equal(np.load(to / "title_feat.npy"), wanted.matrix)
    elif format == "parquet":
        assert pq.read_table(to / "title.parquet")["vector"].to_pylist() == wanted.matrix.tolist()
    else:
        import datasets

        assert datasets.load_from_disk(str(to / "title"))["vector"][:] == wanted.matrix.tolist()


def test_an_export_in_the_order_of_mmrecs_mapping_fills_the_gaps_as_asked(run: Run, tmp_path: Path) -> None:
    ids = table(run, "audio").ids
    one = ids[table(run, "audio").present.argmax()]
    (tmp_path / "i_id_mapping.csv").write_text(f"asin\titemID\n{one}\t1\nnew\t0\n")
    code, out, err = call(
        "export", run, "--to", str(tmp_path / "out"), "--format", "mmrec", "-f", "audio", "--missing", "mean",
        "--ids", str(tmp_path / "i_id_mapping.csv"), "--id-column", "asin", "--row-column", "itemID",
    )  # fmt: skip
    assert code == 0, err
    assert np.load(tmp_path / "out/audio_feat.npy").tolist() == [[3, 3], [3, 3]]
    assert (tmp_path / "out/audio_missing_rows.txt").read_text() == "0\n"
    assert out.splitlines()[-1] == str(tmp_path / "out/item_ids.parquet")
    assert not (tmp_path / "out/title_feat.npy").exists()


def test_a_title_knows_the_category_and_a_hash_of_pixels_does_not(run: Run) -> None:
    code, out, err = call(
        "probe", run, "-a", "category", "-f", "title", "-f", "noise", "--folds", "3", "--json"
    )
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    assert list(found) == ["title", "noise"]
    assert sum(found["title"]["classes"].values()) == found["title"]["n_items"] <= 60
    assert found["title"]["scores"]["logistic"]["gain_low"] > 0.2
    assert found["noise"]["scores"]["logistic"]["gain_low"] <= 0
    assert found["title"]["scores"]["logistic_permuted"]["gain_low"] <= 0


def test_a_person_reads_a_table_of_the_probe_with_its_baselines(run: Run) -> None:
    code, out, err = call("probe", run, "-a", "name", "-f", "title", "--separator", " ", "--folds", "2")
    assert code == 0, err
    for words in ("title predicts name", "naive bayes", "logistic", "majority", "logistic permuted", "95 %"):
        assert words in out
    assert "of rare classes" in out


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("export", "--to", "x", "--format", "parqet"), 2, "did you mean parquet"),
        (("export", "--to", "x", "--missing", "median"), 2, "unknown choice median"),
        (("export", "--to", "x", "-f", "tite"), 2, "did you mean title"),
        (("export", "--to", "x", "--ids", "none.txt"), 4, "U401"),
        (("probe", "-a", "categry"), 5, "did you mean `category`"),
        (("probe", "-a", "product"), 5, "nothing to tell apart"),
    ],
)
def test_wrong_names_are_told(
    arguments: tuple[str, ...],
    code: int,
    told: str,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    found = call(arguments[0], run, *arguments[1:])
    assert found[0] == code
    assert told in found[2]
    assert not (tmp_path / "x").exists()


def test_features_that_are_not_finished_or_changed_on_disk_are_refused(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    moved = type(run)(folder, 0, "", "")
    path = folder / "stages/30-embed/title.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    code, _, err = call("export", moved, "--to", str(tmp_path / "out"))
    assert (code, "D113" in err) == (5, True)
    (folder / "stages/30-embed/stage.json").unlink()
    code, _, err = call("probe", moved, "-a", "category")
    assert (code, "R107" in err) == (10, True)
    assert "catalograph extract" in err
