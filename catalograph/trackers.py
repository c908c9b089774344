"""Hands a run's own metrics on to trackers that are installed: TensorBoard, MLflow, Weights & Biases.

The files of the run folder are the truth; a tracker gets a copy of the curves and means that the report
shows, with the redacted configuration, and nothing of any user or item. Copies are written below `trackers/`
of the run folder. What leaves this machine is what the user's own environment asks for, by
MLFLOW_TRACKING_URI or WANDB_MODE=online.
"""

from __future__ import annotations

import importlib
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extract.faults import describe, not_installed

logger = logging.getLogger(__name__)

SILENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_SILENT": "true",
    "WANDB_DISABLE_GIT": "true",
    "WANDB_DISABLE_CODE": "true",
    "WANDB__DISABLE_META": "true",
    "WANDB__DISABLE_STATS": "true",
}
"""Environment of the trackers: no word on their use, the machine or the code; what the user has set stays."""


@dataclass(frozen=True)
class Told:
    """What a tracker is told of a run.

    Attributes:
        name: of the run.
        settings: dotted key to value, redacted.
        curves: by name, points of (step, value).
        metrics: the last word: by list and metric.
    """

    name: str
    settings: Mapping[str, Any]
    curves: Mapping[str, Sequence[tuple[float, float]]]
    metrics: Mapping[str, float]


def need_trackers(names: Sequence[str]) -> None:
    """Raises MissingPrerequisite M301 where one of them is not installed; to be asked before the work."""
    _silence()
    for name in names:
        try:
            importlib.import_module(_MODULES[name])
        except ImportError as error:
            raise not_installed(error, name) from error


def tell_trackers(names: Sequence[str], told: Told, folder: Path) -> list[str]:
    """Tells each tracker; returns those that failed, which is logged and stops nothing.

    Args:
        folder: of the copies; a tracker that was told before starts anew there.
    """
    _silence()
    failed = []
    for name in names:
        own = folder / name
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir(parents=True)
        try:
            TRACKERS[name](told, own)
        except Exception as error:
            # A tracker's server that is down must not cost a run its end.
            logger.warning("%s was not told: %s", name, describe(error))
            failed.append(name)
    return failed


def _tensorboard(told: Told, folder: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for name, points in told.curves.items():
            for step, value in points:
                writer.add_scalar(name, value, int(step))
        for name, value in told.metrics.items():
            writer.add_scalar(name, value, 0)
        lines = "\n".join(f"    {key}: {value}" for key, value in told.settings.items())
        writer.add_text("configuration", lines, 0)


def _mlflow(told: Told, folder: Path) -> None:
    import mlflow

    mlflow.set_tracking_uri(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}")
    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "catalograph")
    if mlflow.get_experiment_by_name(experiment) is None:
        elsewhere = "MLFLOW_TRACKING_URI" in os.environ
        mlflow.create_experiment(experiment, None if elsewhere else (folder / "artifacts").as_uri())
    with mlflow.start_run(
        experiment_id=mlflow.get_experiment_by_name(experiment).experiment_id, run_name=told.name
    ):
        mlflow.log_params({_plain(key): str(value)[:500] for key, value in told.settings.items()})
        for name, points in told.curves.items():
            for step, value in points:
                mlflow.log_metric(_plain(name), value, step=int(step))
        mlflow.log_metrics({_plain(name): value for name, value in told.metrics.items()})


def _wandb(told: Told, folder: Path) -> None:
    import wandb

    with wandb.init(
        project=os.environ.get("WANDB_PROJECT", "catalograph"), name=told.name, dir=str(folder),
        config=dict(told.settings), mode=os.environ.get("WANDB_MODE", "offline"),
    ) as run:  # fmt: skip
        for name, points in told.curves.items():
            # Curves have steps of their own, and W&B's one step may only rise.
            run.define_metric(name, step_metric=f"{name} step")
            for step, value in points:
                run.log({name: value, f"{name} step": step})
        run.summary.update(dict(told.metrics))


TRACKERS: dict[str, Callable[[Told, Path], None]] = {
    "tensorboard": _tensorboard,
    "mlflow": _mlflow,
    "wandb": _wandb,
}
_MODULES = {"tensorboard": "torch.utils.tensorboard", "mlflow": "mlflow", "wandb": "wandb"}


def _silence() -> None:
    for name, value in SILENT.items():
        os.environ.setdefault(name, value)


def _plain(name: str) -> str:
    """A name as MLflow takes it: letters, digits, and _ - . / : and blanks."""
    return "".join(c if c.isalnum() or c in "_-./: " else "_" for c in name)
