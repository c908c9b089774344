"""Search for a retriever's settings: tries are fitted on train, judged on validation, and survive a kill.

Tree-structured Parzen estimators (Bergstra et al., NeurIPS 2011), through optuna. The settings of the
configuration are the first try, so what is found is never worse on validation. Tries that can no longer
become the best are stopped by the median of the others (trained models). Test is not opened.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from catalograph.config import RetrieverConfig, RunConfig
from catalograph.extraction import feature_tables
from catalograph.problems import unknown_name
from catalograph.progress import Progress
from catalograph.road import Road
from catalograph.stages import finished_road, run_stages
from extract.errors import ConfigError, TrainingDiverged
from extract.faults import not_installed
from extract.features import FeatureTable
from extract.store import fingerprint, write_atomic
from recsys.interactions import Interactions
from recsys.search_space import SPACES, Range
from recsys.settings import SETTINGS, TrainConfig

INPUTS = ("prepare", "embed")
"""Stages whose results a try reads."""


def tune(config: RunConfig, folder: Path, names: tuple[str, ...], progress: Progress) -> dict[str, Any]:
    """By retriever: the metric, its value with the present settings and with the best found, those settings
    as keys of the configuration, and how many tries there were. `tune/NAME.json` in the run folder holds all
    of them.

    Args:
        config: of the run; its section `tune` says how long.
        folder: of the run; what was tried there before counts.
        names: retrievers; empty: all that have something to search.
        progress: told how far it is.

    Raises:
        ConfigError: C003, an unknown retriever; C207, an unknown key, nothing to search, no validation split.
        MissingPrerequisite: M301, optuna is not installed.
    """
    chosen = names or tuple(n for n, r in config.retrievers.items() if _space(config, n, r))
    if unknown := [name for name in chosen if name not in config.retrievers]:
        raise ConfigError("C003", unknown_name("retriever", unknown[0], config.retrievers))
    spaces = {name: _space(config, name, config.retrievers[name]) for name in chosen}
    if nothing := [name for name in chosen if not spaces[name]] or ([] if chosen else ["any retriever"]):
        raise ConfigError(
            "C207", f"there is nothing to search of {nothing[0]}", next_step="give its ranges in tune.space"
        )
    _optuna()
    run_stages(config, folder, INPUTS, progress)
    with finished_road(config, folder, INPUTS, progress) as road:
        if not len(road.part("valid")):
            raise ConfigError(
                "C207", "there is no validation split to judge by", next_step="give data.split.valid_share"
            )
        road.use_threads()
        return {name: _search(road, name, spaces[name]) for name in chosen}


def _space(config: RunConfig, name: str, retriever: RetrieverConfig) -> Mapping[str, Range]:
    space = config.tune.space.get(name) or SPACES.get(retriever.model, {})
    known = [
        *(f"params.{key}" for key in SETTINGS[retriever.model].model_fields),
        *(f"train.{key}" for key in TrainConfig.model_fields if key not in {"metric", "seed"}),
    ]
    if unknown := [key for key in space if key not in known]:
        raise ConfigError("C207", f"tune.space.{name}: {unknown_name('key', unknown[0], known)}")
    if retriever.model == "graph_filter" and not retriever.features:
        # There is no graph of features to weigh.
        return {k: r for k, r in space.items() if k not in {"params.content_weight", "params.neighbours"}}
    return space


@dataclass(frozen=True)
class _Inputs:
    """What every try of a retriever learns from, read once."""

    retriever: RetrieverConfig
    train: Interactions
    valid: Interactions
    features: Mapping[str, FeatureTable]


def _inputs(road: Road, name: str) -> _Inputs:
    retriever, tables = road.config.retrievers[name], feature_tables(road)
    features = {feature: tables[feature] for feature in retriever.features}
    return _Inputs(retriever, road.part("train"), road.part("valid"), features)


def _search(road: Road, name: str, space: Mapping[str, Range]) -> dict[str, Any]:
    optuna = _optuna()
    budget, inputs = road.config.tune, _inputs(road, name)
    retriever = inputs.retriever
    folder = road.run.path / "tune"
    folder.mkdir(exist_ok=True)
    # Tries are comparable if the data, the ranges and all that is not searched are equal.
    about = {
        "prepare": road.hash_of("prepare"),
        "embed": road.hash_of("embed"),
        "retriever": retriever.model_dump(mode="json"),
        "ranges": {key: r.model_dump(mode="json") for key, r in space.items()},
        "seed": budget.seed,
    }
    backend = optuna.storages.journal.JournalFileBackend(str(folder / f"{name}.log"))
    study = optuna.create_study(
        storage=optuna.storages.JournalStorage(backend), study_name=fingerprint(**about),
        direction="maximize", pruner=optuna.pruners.MedianPruner(n_startup_trials=5), load_if_exists=True,
    )  # fmt: skip
    complete, running = optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.RUNNING
    # A try that was under way when the process died never ends.
    for trial in study.get_trials(states=(running,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    present = {key: _present(retriever, key) for key in space}
    inside = all(r.holds(present[key]) for key, r in space.items())
    if not inside and "present" not in study.user_attrs:
        study.set_user_attr("present", _try(inputs, {}, lambda epoch, value: False)[0])
    until = time.monotonic() + 60 * budget.minutes if budget.minutes else float("inf")
    with road.progress.task(f"tune/{name}", budget.trials) as task:
        while time.monotonic() < until:
            done = study.get_trials(states=(complete, optuna.trial.TrialState.PRUNED))
            task.reach(len(done))
            if len(done) >= budget.trials:
                break
            # Drawn anew for each try, so that a search that was killed goes on as if it had not been.
            study.sampler = optuna.samplers.TPESampler(seed=budget.seed + 7919 * len(done))
            if not done and inside:
                study.enqueue_trial(present)
            _one(study, inputs, space, budget.max_seconds)
    best = [t for t in study.get_trials(states=(complete,)) if _affordable(t.user_attrs, budget.max_seconds)]
    return _result(folder / f"{name}.json", retriever, study, best, present if inside else None)


def _one(study: Any, inputs: _Inputs, space: Mapping[str, Range], most: float | None) -> None:
    """Draw settings, fit, and tell the study."""
    optuna = _optuna()
    trial = study.ask({key: _distribution(r) for key, r in space.items()})

    def hopeless(epoch: int, value: float) -> bool:
        trial.report(value, epoch)
        return bool(trial.should_prune())

    value, seconds = _try(inputs, trial.params, hopeless)
    trial.set_user_attr("seconds", round(seconds, 3))
    if most is not None:
        trial.set_constraint("seconds", seconds - most)
    if value is None:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    else:
        study.tell(trial, value)


def _try(
    inputs: _Inputs, changes: Mapping[str, Any], hopeless: Callable[[int, float], bool]
) -> tuple[float | None, float]:
    """The best validation metric of one fit, None where it was given up, and its seconds.

    A fit that diverges is worth 0: the search must learn to keep away from there.
    """
    from recsys.models import build_model
    from recsys.train import EpochRecord, fit

    retriever, began = changed(inputs.retriever, changes), time.monotonic()
    model = build_model(
        retriever.model, retriever.params, inputs.train, inputs.features, seed=retriever.train.seed
    )

    def watch(record: EpochRecord) -> None:
        if record.metric is not None and hopeless(record.epoch, record.metric):
            raise _GivenUp

    try:
        value = fit(model, inputs.train, inputs.valid, retriever.train, progress=watch).best_metric
    except _GivenUp:
        value = None
    except TrainingDiverged:
        value = 0.0
    return value, time.monotonic() - began


class _GivenUp(Exception):
    pass


def changed(retriever: RetrieverConfig, changes: Mapping[str, Any]) -> RetrieverConfig:
    """A retriever with some keys, such as `params.l2`, at other values; ConfigError C207 if they are none."""
    parts: dict[str, dict[str, Any]] = {
        "params": dict(retriever.params),
        "train": retriever.train.model_dump(),
    }
    for key, value in changes.items():
        part, _, field = key.partition(".")
        parts[part][field] = value
    try:
        SETTINGS[retriever.model].model_validate(parts["params"])
        return retriever.model_copy(
            update={"params": parts["params"], "train": TrainConfig.model_validate(parts["train"])}
        )
    except ValidationError as problem:
        why = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in problem.errors())
        raise ConfigError("C207", "tune.space leads to settings that are none", why=why) from problem


def _present(retriever: RetrieverConfig, key: str) -> Any:
    part, _, field = key.partition(".")
    given = (
        SETTINGS[retriever.model].model_validate(retriever.params) if part == "params" else retriever.train
    )
    return getattr(given, field)


def _result(
    path: Path, retriever: RetrieverConfig, study: Any, best: list[Any], present: Mapping[str, Any] | None
) -> dict[str, Any]:
    tries = [
        {
            "number": t.number,
            "state": t.state.name.lower(),
            "value": t.value,
            "settings": t.params,
            **t.user_attrs,
        }
        for t in study.get_trials()
    ]
    top = max(best, key=lambda t: (t.value, -t.number), default=None)
    now = study.user_attrs.get("present")
    if present is not None:
        now = next((t["value"] for t in tries if t["settings"] == present and t["value"] is not None), None)
    if top is not None and now is not None and top.value <= now:
        top = None
    found = {
        "metric": retriever.train.metric,
        "present": now,
        "best": now if top is None else top.value,
        "settings": {} if top is None else dict(top.params),
        "tries": sum(t["state"] in {"complete", "pruned"} for t in tries),
        "given_up": sum(t["state"] == "pruned" for t in tries),
    }
    write_atomic(path, json.dumps({**found, "all": tries}, indent=1).encode())
    return found


def _affordable(attributes: Mapping[str, Any], most: float | None) -> bool:
    return most is None or attributes["seconds"] <= most


def _distribution(r: Range) -> Any:
    kinds = _optuna().distributions
    if r.values:
        return kinds.CategoricalDistribution(r.values)
    whole = isinstance(r.low, int) and isinstance(r.high, int)
    return (kinds.IntDistribution if whole else kinds.FloatDistribution)(r.low, r.high, log=r.log)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise not_installed(error, '"catalograph[tune]"') from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
