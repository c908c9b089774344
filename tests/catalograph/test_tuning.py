"""Search of a retriever's settings, through the command line."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from catalograph.config import RetrieverConfig
from catalograph.tuning import changed
from extract.errors import ConfigError
from recsys.models import build_model
from recsys.settings import TrainConfig
from recsys.train import fit

if TYPE_CHECKING:
    from conftest import Run, World

SPACE = {
    "item_knn": {"params.shrink": {"low": 0.0, "high": 100.0}, "params.neighbours": {"low": 2, "high": 30}}
}


def changes(world: World, trials: int, **tune: Any) -> dict[str, Any]:
    """A configuration with two retrievers, one of which has something to search."""
    training = {"epochs": 4, "evaluate_every": 1, "batch_size": 64, "metric": "ndcg@10"}
    return {
        "caption": None,
        "rerank": None,
        "features": {},
        "retrievers": {
            "item_knn": {"model": "item_knn", "train": {"metric": "ndcg@10"}},
            "bpr_mf": {"model": "bpr_mf", "params": {"embedding_size": 4}, "train": training},
            "popularity": {"model": "popularity"},
        },
        "candidates": {"k": world.listed},
        "evaluate": {"ks": [5], "bootstrap": 100},
        "tune": {"trials": trials, "space": SPACE, **tune},
    }


def tune(world: World, name: str, trials: int, *arguments: str, **more: Any) -> Run:
    pytest.importorskip("optuna")
    return world.run(name, "--json", *arguments, verb="tune", **changes(world, trials, **more))


def test_the_best_try_is_what_a_fit_of_its_settings_reaches_and_never_below_the_present(world: World) -> None:
    run = tune(world, "search", 8, "-r", "item_knn")
    assert run.code == 0, run.err
    (found,) = json.loads(run.out).values()
    kept = json.loads((run.folder / "tune/item_knn.json").read_text())
    values = [row["value"] for row in kept["all"]]
    assert len(values) == found["tries"] == 8
    # The configured settings, item_knn's defaults, are outside the ranges and are judged beside the tries.
    assert found["best"] == max([found["present"], *values])
    from recsys import Interactions

    train, valid = (
        Interactions.load(run.folder / f"stages/10-prepare/{name}.parquet") for name in ("train", "valid")
    )
    params = {key.removeprefix("params."): value for key, value in found["settings"].items()}
    model = build_model("item_knn", params, train)
    assert fit(model, train, valid, TrainConfig(metric="ndcg@10")).best_metric == found["best"]


def test_a_search_in_two_calls_ends_as_one(world: World) -> None:
    whole = tune(world, "whole", 7, "-r", "bpr_mf")
    first = tune(world, "parts", 3, "-r", "bpr_mf")
    assert json.loads(first.out)["bpr_mf"]["tries"] == 3
    second = tune(world, "parts", 7, "-r", "bpr_mf")
    assert second.code == 0, second.err
    assert json.loads(second.out) == json.loads(whole.out)
    logs = []
    for run in (whole, second):
        rows = json.loads((run.folder / "tune/bpr_mf.json").read_text())["all"]
        logs.append([{k: v for k, v in row.items() if k != "seconds"} for row in rows])
    assert logs[0] == logs[1]
    # The settings of the configuration are in the ranges, so they are the first try.
    assert logs[0][0]["settings"] == {"params.reg": 0.001, "train.learning_rate": 0.001}


def test_a_try_that_died_is_made_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    optuna = pytest.importorskip("optuna")
    whole = tune(world, "whole", 4, "-r", "item_knn")

    told = optuna.study.Study.tell
    calls = []

    def dies(self: Any, *arguments: Any, **more: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return told(self, *arguments, **more)

    monkeypatch.setattr(optuna.study.Study, "tell", dies)
    assert tune(world, "killed", 4, "-r", "item_knn").code == 130
    monkeypatch.undo()
    again = tune(world, "killed", 4, "-r", "item_knn")
    assert json.loads(again.out) == json.loads(whole.out)
    states = [row["state"] for row in json.loads((again.folder / "tune/item_knn.json").read_text())["all"]]
    assert sorted(states) == ["complete"] * 4 + ["fail"]


def test_a_run_folder_is_not_changed_by_a_search(world: World) -> None:
    tune(world, "search", 1, "-r", "item_knn")
    folder = world.root / "run-search"
    before = world.hash_of(folder)
    assert tune(world, "search", 2, "-r", "item_knn", minutes=5).code == 0
    assert world.hash_of(folder) == before


def test_fits_that_take_too_long_are_not_chosen(world: World) -> None:
    run = tune(world, "slow", 2, "-r", "item_knn", max_seconds=1e-9)
    (found,) = json.loads(run.out).values()
    assert found["settings"] == {} and found["best"] == found["present"] and found["tries"] == 2


def test_what_cannot_be_searched_is_told(world: World) -> None:
    pytest.importorskip("optuna")
    for name, arguments, space, told in (
        ("none", ["-r", "popularity"], {}, "error[C207]: there is nothing to search of popularity"),
        ("typo", ["-r", "item_kn"], {}, "did you mean item_knn?"),
        ("key", [], {"item_knn": {"params.l2": {"low": 1, "high": 2}}}, "unknown key params.l2"),
        ("stranger", [], {"ease": {}}, "unknown retriever ease"),
    ):
        config = changes(world, 1) | {"tune": {"space": space}}
        run = world.run(name, *arguments, verb="tune", **config)
        assert run.code == 2 and told in run.err, run.err


def test_without_optuna_the_extra_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    run = world.run("bare", verb="tune", **changes(world, 1))
    assert run.code == 3 and "catalograph[tune]" in run.err and not run.folder.exists()


def test_settings_that_a_model_refuses_are_told() -> None:
    retriever = RetrieverConfig(model="ease", params={"l2": 5.0})
    assert changed(retriever, {"params.l2": 7.0, "train.epochs": 3}).train.epochs == 3
    with pytest.raises(ConfigError, match="settings that are none"):
        changed(retriever, {"params.l2": -1.0})
