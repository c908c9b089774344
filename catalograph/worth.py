"""Is captioning worth its price here? Captions for a sample of the catalogue, and a retriever trained with
them, without them, and with what should do as well if they say nothing new: the captions of other items,
noise, a constant, and what the retriever's other features foretell of the captions.

The sample is a catalogue of its own: its items, and the choices of them. A fifth of the items is made cold,
so that one training tells what captions do for items with and without choices. All is judged on test choices
of the sample, over all its items; epochs are chosen on its validation part. The answer is

    yes        captions are surely better than each of the others, and by `least_gain` or more
    no         the gain over one of them is surely below `least_gain`
    undecided  anything else: take more items, or more seeds

where sure means the 95 % interval over users and seeds. A second feature of any content can help, because it
gives the model more width and tells items of equal texts apart; so no captions at all is not the only bar.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from catalograph.config import RetrieverConfig, RunConfig
from catalograph.estimating import Sample, estimate
from catalograph.filling import fill_captions, fill_feature
from catalograph.orders import users_of
from catalograph.problems import unknown_name
from catalograph.progress import Progress
from catalograph.workplace import Workplace
from extract.caption_shards import caption_table
from extract.disk import atomic_file, fingerprint, write_atomic
from extract.embed import save_embedded
from extract.errors import ConfigError
from extract.features import FeatureTable
from extract.vectors import import_vectors
from recsys.candidates import retrieve
from recsys.filters import FilterConfig, filter_interactions
from recsys.groups import judged_by_group, popularity, warmth
from recsys.interactions import Interactions, interactions_from, read_interactions
from recsys.knock_outs import KNOCK_OUTS, foretold
from recsys.metrics import judge
from recsys.significance import bootstrap_seeds
from recsys.split import Split, split_interactions

SECONDS = 10.0
"""What is measured to say what the whole catalogue costs."""
WITH, WITHOUT, FORETOLD = "captions", "no captions", "foretold"
Values = dict[str, NDArray[np.float64]]
"""By stratum, one value per user with a test choice there."""


@dataclass(frozen=True)
class Trial:
    """What is compared: the retriever, its features on the sample, and which of them hold captions."""

    retriever: RetrieverConfig
    split: Split
    features: Mapping[str, FeatureTable]
    captioned: tuple[str, ...]
    folder: Path

    def arms(self) -> list[str]:
        """Names of what is trained; a retriever of captions alone cannot do without."""
        others = [WITHOUT, FORETOLD] if len(self.captioned) < len(self.features) else []
        return [WITH, *others, *KNOCK_OUTS]


def worth(
    config: RunConfig, folder: Path, price: float | None, progress: Progress, seconds: float = SECONDS
) -> dict[str, Any]:
    """The answer, the gains by stratum with their intervals, and what the whole catalogue costs.

    Args:
        config: of the run; its section `worth` says how much is tried.
        folder: where captions, vectors and measured trainings are kept, so that the same command goes on.
        price: of an hour of this machine; None leaves money out.
        progress: told how far it is.
        seconds: to measure each stage for.

    Raises:
        ConfigError: C208, no retriever reads captions.
    """
    work = Workplace(config, progress)
    work.use_threads()
    name = _retriever(config)
    ids, split = _sampled(work)
    trial = _trial(work, config.retrievers[name], ids, split, folder)
    measured: dict[str, list[Values]] = {}
    with progress.task("worth", len(trial.arms()) * config.worth.seeds) as task:
        for arm in trial.arms():
            for number in range(config.worth.seeds):
                measured.setdefault(arm, []).append(_measured(trial, arm, config.worth.seed + number))
                task()
    strata = {stratum: gains(measured, stratum, config.worth.least_gain) for stratum in measured[WITH][0]}
    wanted = {feature: config.features[feature] for feature in trial.captioned}
    cost = estimate(config.model_copy(update={"features": wanted}), seconds, price, progress)
    result = {
        "answer": strata["all"]["answer"],
        "retriever": name,
        "metric": trial.retriever.train.metric,
        "least_gain": config.worth.least_gain,
        "sample": {
            "items": len(ids), "users": split.train.n_users, "seeds": config.worth.seeds,
            "train": len(split.train), "valid": len(split.valid), "test": len(split.test),
        },
        "strata": strata,
        "whole_catalogue": {k: cost[k] for k in ("items", "hours", "memory_bytes", "disk_bytes", "cost")},
    }  # fmt: skip
    write_atomic(folder / "worth.json", json.dumps(result, indent=1).encode())
    return result


def _retriever(config: RunConfig) -> str:
    asked = config.worth.retriever
    if asked is not None and asked not in config.retrievers:
        raise ConfigError("C003", f"worth.retriever: {unknown_name('retriever', asked, config.retrievers)}")
    for name in [asked] if asked is not None else config.retrievers:
        if any(config.features[f].reads_captions for f in config.retrievers[name].features):
            return name
    raise ConfigError(
        "C208",
        "no retriever reads a feature with captions, so their worth cannot be tried",
        where="worth.retriever" if asked else "retrievers",
        next_step="add a caption section, a feature with {caption}, and a retriever that reads it",
    )


def _sampled(work: Workplace) -> tuple[list[str], Split]:
    """The ids of the sampled items, and the split of the choices of them by users with at least three."""
    data, settings = work.config.data, work.config.worth
    whole, _ = read_interactions(
        data.interactions_path, data.interaction_columns, work.catalog.ids, data.unknown_items
    )
    whole, _ = filter_interactions(whole, data.filter)
    rows = stratified(whole, settings.items, settings.seed)
    ids = whole.item_ids[rows].tolist()
    part = whole.take(np.isin(whole.item_rows, rows))
    columns = {name: getattr(part, name) for name in ("timestamps", "weights", "labels")}
    small = interactions_from(
        part.user_ids[part.user_rows].tolist(), part.item_ids[part.item_rows].tolist(), ids, **columns
    )
    small, _ = filter_interactions(small, FilterConfig(min_user=3, repeat=False))
    cold = {"cold_share": settings.cold_share, "cold_by": "random", "seed": settings.seed}
    return ids, split_interactions(small, data.split.model_copy(update=cold))


def stratified(whole: Interactions, size: int, seed: int) -> NDArray[np.int64]:
    """Rows of `size` chosen items: equally many popular, middle and rare ones, as far as there are."""
    chosen = np.bincount(whole.item_rows, minlength=whole.n_items) > 0
    labels, rng = popularity(whole), np.random.default_rng([seed, 3])
    strata = [rng.permutation(np.flatnonzero((labels.labels == name) & chosen)) for name in labels.order]
    picked: list[NDArray[np.int64]] = []
    # The smallest stratum first: what it lacks goes to the others.
    for left, stratum in zip(range(len(strata), 0, -1), sorted(strata, key=len), strict=True):
        share = (size - sum(map(len, picked))) // left
        picked.append(stratum[:share])
    return np.sort(np.concatenate(picked))


def _trial(work: Workplace, retriever: RetrieverConfig, ids: list[str], split: Split, folder: Path) -> Trial:
    """Captions the sample's pictures and embeds its texts, unless that was done."""
    rows = pc.index_in(pc.cast(ids, "string"), value_set=work.catalog.id_column.combine_chunks())
    sample = Sample(work, np.asarray(rows.to_numpy(zero_copy_only=False)), folder / "store")
    captions = caption_table(fill_captions(sample)[0])
    features: dict[str, FeatureTable] = {}
    for name in retriever.features:
        settings = work.config.features[name]
        if settings.vectors is not None:
            features[name] = import_vectors(ids, settings.vectors, work.config.data.root or Path()).table
            continue
        path = folder / f"{name}.safetensors"
        save_embedded(fill_feature(sample, name, captions)[0], path)
        features[name] = FeatureTable.load(path)
    captioned = tuple(n for n in retriever.features if work.config.features[n].reads_captions)
    return Trial(retriever, split, features, captioned, folder)


def _measured(trial: Trial, arm: str, seed: int) -> Values:
    """The metric per user and stratum of one training; kept, so that a killed trial goes on."""
    features = _features(trial, arm, seed)
    parts = {
        "retriever": trial.retriever.model_dump(mode="json"),
        "features": {name: table.content_hash() for name, table in features.items()},
        "split": [part.content_hash() for part in (trial.split.train, trial.split.valid, trial.split.test)],
        "seed": seed,
    }
    path = trial.folder / "trainings" / f"{fingerprint(**parts)[:24]}.npz"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        found = _train(trial, features, seed)
        with atomic_file(path) as file:
            np.savez(file, **found)  # type: ignore[arg-type]
    with np.load(path, allow_pickle=False) as kept:
        return {name: kept[name] for name in kept.files}


def _features(trial: Trial, arm: str, seed: int) -> dict[str, FeatureTable]:
    free = {name: table for name, table in trial.features.items() if name not in trial.captioned}
    captions = {name: trial.features[name] for name in trial.captioned}
    if arm == WITHOUT:
        return free
    if arm == FORETOLD:
        return free | {name: foretold(t, list(free.values()), seed) for name, t in captions.items()}
    if arm != WITH:
        captions = {name: KNOCK_OUTS[arm](table, seed) for name, table in captions.items()}
    return free | captions


def _train(trial: Trial, features: Mapping[str, FeatureTable], seed: int) -> Values:
    from recsys.models import build_model
    from recsys.train import fit

    split, retriever = trial.split, trial.retriever
    params = {k: v for k, v in retriever.params.items() if k not in {"knn_weights", "weights"}}
    model = build_model(retriever.model, params, split.train, features, seed=seed)
    fit(model, split.train, split.valid, retriever.train.model_copy(update={"seed": seed}))
    seen = split.train.concat(split.valid)
    k = int(retriever.train.metric.partition("@")[2])
    judged = judge(retrieve({"model": model}, seen, users_of(split.test), k), split.test)
    warm, popular = warmth(split.train), popularity(split.train)
    parts = {"all": judged}
    rows = split.train.user_rows_of(judged.user_ids)
    parts |= judged_by_group(judged, [warm], rows)
    parts |= {
        name: part
        for name, part in judged_by_group(judged, [warm, popular], rows).items()
        if name.startswith(warm.order[0])
    }
    metric = retriever.train.metric
    return {name: part.metrics((k,)).per_user[metric] for name, part in parts.items()}


def gains(measured: Mapping[str, list[Values]], stratum: str, least: float) -> dict[str, Any]:
    """Means of every arm, the gain of captions over each other with its interval, and the answer there."""
    values = {arm: np.stack([run[stratum] for run in runs]) for arm, runs in measured.items()}
    over = {arm: bootstrap_seeds(values[WITH], v) for arm, v in values.items() if arm != WITH}
    margin = least * float(values[WITHOUT if WITHOUT in values else "constant"].mean())
    if all(gain.low > 0 and gain.estimate >= margin for gain in over.values()):
        answer = "yes"
    elif any(gain.high < margin for gain in over.values()):
        answer = "no"
    else:
        answer = "undecided"
    return {
        "users": values[WITH].shape[1],
        "answer": answer,
        "means": {arm: float(v.mean()) for arm, v in values.items()},
        "gain_over": {arm: {"gain": g.estimate, "low": g.low, "high": g.high} for arm, g in over.items()},
        "least_gain": margin,
    }
