"""The functions do what the verbs do, in the same folders, and import nothing heavy before it is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import catalograph
from catalograph import api
from extract.errors import CatalographError, ConfigError
from extract.features import FeatureTable
from recsys.candidates import Candidates


def plain(world: Any) -> dict[str, Any]:
    """The small shop without captions and reranker."""
    config: dict[str, Any] = world.config(caption=None, rerank=None)
    fake = {"engine": "fake", "buckets": 4}
    return config | {
        "features": {"title": {"template": "{title}", "embed": fake}},
        "retrievers": {"item_knn": {"model": "item_knn"}, "popularity": {"model": "popularity"}},
        "candidates": {"k": 10},
        "evaluate": {"ks": [5], "baselines": ["popularity"], "bootstrap": 100},
    }


def test_a_run_gives_paths_and_numbers_and_the_verbs_hash(world: Any, tmp_path: Path) -> None:
    made = catalograph.run(plain(world), tmp_path / "run")
    assert made.report is not None and made.report.is_file()
    assert made.lists == made.path("recommend", "test.parquet")
    assert set(made.metrics["popularity"]) >= {"ndcg@5", "recall@5"}
    assert Candidates.from_parquet(made.lists).items.shape == (world.people, 10)
    table = FeatureTable.load(made.path("embed", "title.safetensors"))
    assert len(table.ids) == world.items
    assert catalograph.content_hash(made.folder) == world.hash_of(made.folder)
    assert catalograph.verify(made.folder) == []
    again = catalograph.recommend(made.folder)
    assert again.folder == made.folder and all(stage["reused"] for stage in again.stages.values())
    assert catalograph.write_report(made.folder) == made.report


def test_features_alone_need_no_choices(world: Any, tmp_path: Path) -> None:
    config = plain(world)
    config = {"data": {k: v for k, v in config["data"].items() if k != "interactions"}} | {
        "features": config["features"]
    }
    made = catalograph.extract(config, tmp_path / "run")
    assert made.lists is None and made.metrics == {}
    written = catalograph.export(made.folder, tmp_path / "out")
    assert (tmp_path / "out" / "title.parquet") in written
    found = catalograph.probe(made.folder, "category")
    assert found["title"].n_items + found["title"].n_rare == world.items
    with pytest.raises(ConfigError, match="C004"):
        catalograph.recommend(config, tmp_path / "other")


def test_a_store_outlives_runs(world: Any, tmp_path: Path) -> None:
    config = plain(world)
    first = catalograph.update_store(config, tmp_path / "store")
    assert sum(row["ok"] for row in first["stages"].values()) == world.items
    made = catalograph.extract(config, tmp_path / "run", store=tmp_path / "store")
    alone = catalograph.extract(config, tmp_path / "alone")
    assert catalograph.content_hash(made.folder) == catalograph.content_hash(alone.folder)


def test_newcomers_and_comparison_take_run_folders(world: Any, tmp_path: Path) -> None:
    made = catalograph.evaluate(plain(world), tmp_path / "run")
    found = catalograph.compare([made.folder], [made.folder], listed="retrieved", other="popularity")
    mean = made.metrics["retrieved"]["ndcg@5"] - made.metrics["popularity"]["ndcg@5"]
    assert found["metrics"]["ndcg@5"]["difference"] == pytest.approx(mean)
    items = pq.read_table(world.data / "catalog.parquet")["product"].to_pylist()
    (tmp_path / "new.csv").write_text(f"person,product\nann,{items[0]}\nann,{items[1]}\n")
    lists = catalograph.recommend_newcomers(made.folder, tmp_path / "new.csv", tmp_path / "new.parquet")
    assert Candidates.from_parquet(lists).user_ids.tolist() == ["ann"]


def test_a_run_is_refreshed_in_a_new_folder(world: Any, tmp_path: Path) -> None:
    made = catalograph.recommend(plain(world), tmp_path / "run")
    again = catalograph.refresh(made.folder, tmp_path / "night")
    assert again.lists is not None and again.lists.parent.parent.parent == tmp_path / "night"
    assert len(Candidates.from_parquet(again.lists)) == world.people


def test_a_split_goes_to_recbole_and_comes_back_as_the_same_split(world: Any, tmp_path: Path) -> None:
    config = plain(world)
    made = catalograph.prepare(config, tmp_path / "run")
    written = catalograph.export_choices(made.folder, tmp_path / "out", "recbole")
    assert written[0].name == "shop.inter"
    columns = {"user": "user_id", "item": "item_id", "timestamp": "timestamp", "label": "split"}
    data = config["data"] | {
        "interactions": str(tmp_path / "out/shop.inter"), "interaction_columns": columns,
        "split": {"method": "label"},
    }  # fmt: skip
    again = catalograph.prepare(config | {"data": data}, tmp_path / "again")
    for part in ("train", "valid", "test"):
        a, b = (pq.read_table(run.path("prepare", f"{part}.parquet")) for run in (made, again))
        for name in a.column_names:
            assert a[name].to_pylist() == b[name].to_pylist(), name


def test_settings_go_over_a_file_a_mapping_and_a_configuration(world: Any, tmp_path: Path) -> None:
    config = api.load(plain(world), {"candidates.k": 7, "retrievers.item_knn.params": {"shrink": 2.5}})
    assert config.candidates.k == 7 and config.retrievers["item_knn"].params == {"shrink": 2.5}
    assert api.load(config, {"candidates.k": 8}).candidates.k == 8
    (tmp_path / "x.yaml").write_text(config.to_yaml())
    assert api.check_config(tmp_path / "x.yaml", {"threads": 2}).threads == 2
    with pytest.raises(ConfigError, match=r"candidates\.kk"):
        api.load(config, {"candidates.kk": 1})
    with pytest.raises(CatalographError):
        api.load(tmp_path / "none.yaml")


def test_every_name_is_a_function_and_no_module_takes_its_place() -> None:
    modules = {path.stem for path in Path(api.__file__).parent.iterdir()}
    for name in catalograph.__all__:
        assert callable(getattr(catalograph, name)), name
        assert name not in modules, f"catalograph.{name} is a module: import it and the function is gone"
    assert set(catalograph.__all__) <= set(dir(catalograph))
    with pytest.raises(AttributeError, match="no_such_verb"):
        _ = catalograph.no_such_verb


def test_importing_the_package_and_its_functions_loads_no_model_library() -> None:
    code = (
        "import sys, catalograph; light = set(sys.modules); catalograph.run\n"
        "heavy = {'torch', 'transformers', 'datasets', 'peft'}\n"
        "print(sorted(heavy & set(sys.modules)), sorted({'numpy', 'pydantic'} & light))"
    )
    root = Path(api.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "[] []"
