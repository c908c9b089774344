"""Trackers: what they are told, that nothing leaves unasked, and that their failure costs nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest

from catalograph.trackers import SILENT, Told, need_trackers, tell_trackers
from extract.errors import MissingPrerequisite

TOLD = Told(
    name="baby",
    settings={"seed": 3, "rerank.model": "x"},
    curves={"loss/ease (a)": [(1, 0.5), (2, 0.25)]},
    metrics={"test/reranked/ndcg@10": 0.1},
)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SILENT, "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_MODE", "WANDB_PROJECT"):
        # Set first, so that what the code sets is taken back.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


class Writer:
    """What TensorBoard's writer was asked to write, by folder."""

    written: ClassVar[dict[str, list[tuple[Any, ...]]]] = {}

    def __init__(self, folder: str) -> None:
        self._own = self.written[folder] = []

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def add_scalar(self, *row: Any) -> None:
        self._own.append(row)

    def add_text(self, *row: Any) -> None:
        self._own.append(row)


def install(monkeypatch: pytest.MonkeyPatch, name: str, **names: Any) -> None:
    module = ModuleType(name)
    vars(module).update(names)
    monkeypatch.setitem(sys.modules, name, module)


def test_tensorboard_is_told_curves_with_their_steps_and_means(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, "torch.utils.tensorboard", SummaryWriter=Writer)
    assert tell_trackers(["tensorboard"], TOLD, tmp_path) == []
    rows = Writer.written[str(tmp_path / "tensorboard")]
    assert rows[:3] == [
        ("loss/ease (a)", 0.5, 1), ("loss/ease (a)", 0.25, 2), ("test/reranked/ndcg@10", 0.1, 0),
    ]  # fmt: skip
    assert "seed: 3" in rows[3][1]


class Context:
    """A block that returns an object."""

    def __init__(self, value: Any = None) -> None:
        self.value = value

    def __enter__(self) -> Any:
        return self.value

    def __exit__(self, *error: object) -> None:
        pass


def fake_mlflow(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    said: dict[str, Any] = {"metrics": [], "experiments": {}}
    install(
        monkeypatch,
        "mlflow",
        set_tracking_uri=lambda uri: said.update(uri=uri),
        get_experiment_by_name=lambda name: said["experiments"].get(name),
        create_experiment=lambda name, where: said["experiments"].update({
            name: SimpleNamespace(experiment_id="7", where=where)
        }),
        start_run=lambda experiment_id, run_name: said.update(run=(experiment_id, run_name)) or Context(),
        log_params=lambda params: said.update(params=params),
        log_metric=lambda name, value, step: said["metrics"].append((name, value, step)),
        log_metrics=lambda rows: said["metrics"].extend(rows.items()),
    )
    return said


def test_mlflow_writes_into_the_run_folder_and_takes_its_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = fake_mlflow(monkeypatch)
    assert tell_trackers(["mlflow"], TOLD, tmp_path) == []
    assert said["uri"] == f"sqlite:///{tmp_path / 'mlflow' / 'mlflow.db'}"
    assert said["experiments"]["catalograph"].where == (tmp_path / "mlflow" / "artifacts").as_uri()
    assert said["run"] == ("7", "baby") and said["params"] == {"seed": "3", "rerank.model": "x"}
    assert said["metrics"] == [
        ("loss/ease _a_", 0.5, 1), ("loss/ease _a_", 0.25, 2), ("test/reranked/ndcg_10", 0.1),
    ]  # fmt: skip


def test_mlflow_goes_to_a_server_only_where_the_environment_names_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = fake_mlflow(monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mine:5000")
    tell_trackers(["mlflow"], TOLD, tmp_path)
    assert said["uri"] == "http://mine:5000" and said["experiments"]["catalograph"].where is None


@pytest.mark.parametrize(("asked", "mode"), [(None, "offline"), ("online", "online")])
def test_wandb_stays_offline_unless_the_environment_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str | None, mode: str
) -> None:
    said: dict[str, Any] = {"rows": []}
    run = SimpleNamespace(define_metric=lambda name, step_metric: None, log=said["rows"].append, summary={})
    install(monkeypatch, "wandb", init=lambda **options: said.update(options) or Context(run))
    if asked:
        monkeypatch.setenv("WANDB_MODE", asked)
    assert tell_trackers(["wandb"], TOLD, tmp_path) == []
    assert said["mode"] == mode and said["dir"] == str(tmp_path / "wandb")
    assert said["rows"][1] == {"loss/ease (a)": 0.25, "loss/ease (a) step": 2}
    assert run.summary == {"test/reranked/ndcg@10": 0.1}


def test_telemetry_is_off_before_a_tracker_is_imported_and_what_was_set_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    monkeypatch.setenv("DO_NOT_TRACK", "mine")
    tell_trackers([], TOLD, tmp_path)
    assert {name: os.environ[name] for name in SILENT} == {**SILENT, "DO_NOT_TRACK": "mine"}


def test_a_tracker_that_fails_is_a_warning_and_the_others_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def down(uri: str) -> None:
        raise ConnectionError("no server")

    install(monkeypatch, "mlflow", set_tracking_uri=down)
    install(monkeypatch, "torch.utils.tensorboard", SummaryWriter=Writer)
    assert tell_trackers(["mlflow", "tensorboard"], TOLD, tmp_path) == ["mlflow"]
    assert "mlflow was not told: ConnectionError: no server" in caplog.text
    assert str(tmp_path / "tensorboard") in Writer.written


def test_a_tracker_that_is_not_installed_is_told_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingPrerequisite, match="wandb"):
        need_trackers(["wandb"])


def test_a_run_tells_its_own_metrics_and_its_results_do_not_depend_on_it(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, "torch.utils.tensorboard", SummaryWriter=Writer)
    done = world.run("told", rerank=None, caption=None, features={}, retrievers={
        "item_knn": {"model": "item_knn"}, "popularity": {"model": "popularity"},
    }, candidates={"k": 20, "order_by": "item_knn"}, evaluate={"ks": [10], "bootstrap": 200})  # fmt: skip
    assert done.code == 0, done.err
    before = world.hash_of(done.folder)
    again = world.again("told", "--set", "report_to=[tensorboard]", verb="report")
    assert again.code == 0, again.err
    told = {row[0]: row[1] for row in Writer.written[str(done.folder / "trackers" / "tensorboard")]}
    metrics = json.loads((done.folder / "stages/80-evaluate/metrics.json").read_text())["lists"]
    assert told["test/retrieved/ndcg@10"] == metrics["retrieved"]["ndcg@10"]["mean"]
    assert world.hash_of(done.folder) == before
