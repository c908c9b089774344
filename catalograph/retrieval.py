"""The retrieval stages: prepare and split the interactions, fit the retrievers, hand over candidates.

Three kinds of fits share one file layout under `40-train`: `select/` learns from train and stops on
validation; `final/` learns from train and validation for as many epochs as `select` found best; `fold-N/`
learns from all folds but one, for the reranker's training lists.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalograph.config import RunConfig
from catalograph.extraction import feature_tables
from catalograph.integrity import read_json
from catalograph.orders import SELECTION, choose_order, rule_parts, users_of, write_embeddings
from catalograph.road import Counts, Finished, Road
from extract.features import FeatureTable
from extract.store import hash_file, write_atomic
from recsys.interactions import Interactions
from recsys.plan import Plan
from recsys.prepare import prepare_interactions
from recsys.split import Fold, out_of_fold

if TYPE_CHECKING:
    from recsys.ranking import Recommender

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Fit:
    """One model to fit: under which name, on what, and with which epochs."""

    kind: str
    name: str
    train: Interactions
    valid: Interactions | None
    epochs: int | None


def prepare_parts(road: Road) -> dict[str, Any]:
    """What the split is made from."""
    data = road.config.data
    return {
        "interactions": road.run.input_hash(data.interactions_path),
        "catalog": road.catalog_parts(),
        "columns": data.interaction_columns.model_dump(mode="json"),
        "filter": data.filter.model_dump(mode="json"),
        "split": data.split.model_dump(mode="json"),
        "unknown_items": data.unknown_items,
        "history_is_ordered": data.history_is_ordered,
    }


def prepare(road: Road) -> Counts:
    """Writes `train.parquet`, `valid.parquet`, `test.parquet` and `summary.json`."""
    data = road.config.data
    plan = Plan(
        data.interactions_path, data.interaction_columns, road.catalog.ids, data.unknown_items, data.filter,
        data.split, data.history_is_ordered is not False,
    )  # fmt: skip
    prepared = prepare_interactions(
        plan,
        lambda name: road.path("prepare", f"{name}.parquet"),
        scratch=road.path("prepare", "summary.json").parent,
        memory_gib=data.memory_gib,
    )
    summary = json.dumps(prepared.summary(), indent=1)
    write_atomic(road.path("prepare", "summary.json"), summary.encode())
    outputs = ("train.parquet", "valid.parquet", "test.parquet", "summary.json")
    counts = prepared.counts
    return Counts(counts.n_in, counts.n_ok, counts.n_quarantined, outputs=outputs)


def train_parts(road: Road) -> dict[str, Any]:
    """What the retrievers are made from."""
    config = road.config
    return {
        "prepare": road.hash_of("prepare"),
        "embed": road.hash_of("embed"),
        "retrievers": {name: r.model_dump(mode="json") for name, r in config.retrievers.items()},
        "sources": list(source_names(config)),
        "refitted": config.candidates.protocol == "strict",
        "folds": None if config.rerank is None else config.rerank.finetune.folds,
        "folds_used": None if config.rerank is None else config.rerank.finetune.folds_used,
        "seed": config.seed,
    }


def train(road: Road) -> Counts:
    """Fits every model that is needed; one that was fitted before a kill is not fitted again."""
    road.use_threads()
    done = 0
    for job in _fits(road):
        folder = road.path("train", f"{job.kind}/{job.name}/none").parent
        if not _is_fitted(folder):
            road.progress.note(f"train: {job.kind}/{job.name}")
            _fit(road, job, folder)
        done += 1
    # How many there are depends on kills, so they are no result and lie outside the declared folders.
    shutil.rmtree(road.path("train", CHECKPOINTS), ignore_errors=True)
    outputs = tuple(sorted({job.kind for job in _fits(road)}))
    return Counts(done, done, outputs=outputs)


def recommend_parts(road: Road) -> dict[str, Any]:
    """What the candidates are made from."""
    config = road.config
    return {
        "train": road.hash_of("train"),
        "prepare": road.hash_of("prepare"),
        "candidates": config.candidates.model_dump(mode="json", exclude={"memory_gib"}),
        "rules": rule_parts(road),
        "baselines": list(config.evaluate.baselines),
    }


def recommend(road: Road) -> Counts:
    """Writes the candidates of all users, of validation users and of the folds, and the baselines' lists."""
    road.use_threads()
    config, train_part, valid_part = road.config, road.part("train"), road.part("valid")
    sources = source_names(config)
    select = load_models(road, "select", sources, train_part)
    order = choose_order(road, select, train_part, valid_part)
    order.lists(select, train_part, users_of(valid_part)).to_parquet(road.path("recommend", "valid.parquet"))
    kind, known = final_fit(road)
    lists = order.lists(load_models(road, kind, sources, known), known, users_of(known))
    lists.to_parquet(road.path("recommend", "test.parquet"))
    lists.to_trec(road.path("recommend", "test.trec"), order.name)
    outputs = ["valid.parquet", "test.parquet", "test.trec", "leader.json"]
    for number, fold in enumerate(folds_of(road)):
        models = load_models(road, f"fold-{number}", sources, fold.train)
        name = f"fold-{number}.parquet"
        order.lists(models, fold.train, users_of(fold.held_out)).to_parquet(road.path("recommend", name))
        outputs.append(name)
    for name in config.evaluate.baselines:
        model = load_models(road, kind, (name,), known)
        output = f"baseline-{name}.parquet"
        # As long as the product's own lists: at a cut-off beyond k, a longer baseline would be helped.
        order.alone(model, known, users_of(known)).to_parquet(road.path("recommend", output))
        outputs.append(output)
    if config.candidates.embeddings or config.candidates.index:
        outputs += write_embeddings(road, load_models(road, kind, sources, known), known)
    leader = {"order_by": order.name, SELECTION: order.scores, "weights": order.weights}
    write_atomic(road.path("recommend", "leader.json"), json.dumps(leader, indent=1).encode())
    return Counts(len(lists), len(lists), outputs=tuple(outputs))


def source_names(config: RunConfig) -> tuple[str, ...]:
    """The retrievers whose scores each candidate carries."""
    return config.candidates.sources or tuple(config.retrievers)


def folds_of(road: Road) -> list[Fold]:
    """The folds the reranker's training lists come from; none without a reranker."""
    if road.config.rerank is None:
        return []
    settings, train_part = road.config.rerank.finetune, road.part("train")
    folds = out_of_fold(train_part, settings.folds, road.config.seed, train_part.ordered)
    return folds[: settings.folds_used]


def _fits(road: Road) -> Iterator[Fit]:
    """Every fit in order; a final or fold fit reads the epochs its select fit found."""
    config, train_part = road.config, road.part("train")
    sources = set(source_names(config))
    needed = [name for name in config.retrievers if name in sources | set(config.evaluate.baselines)]
    for name in needed:
        yield Fit("select", name, train_part, road.part("valid"), None)
        epochs = _epochs(road, name)
        if config.candidates.protocol == "strict":
            yield Fit("final", name, road.known, None, epochs)
        if name in sources:
            for number, fold in enumerate(folds_of(road)):
                yield Fit(f"fold-{number}", name, fold.train, None, epochs)


def _is_fitted(folder: Path) -> bool:
    """Whether a fit is whole; one that was damaged later is done again with its stage."""
    card, weights = read_json(folder / "model.json"), folder / "model.safetensors"
    known = card is not None and weights.is_file() and hash_file(weights) == card["sha256"]
    return known and read_json(folder / "history.json") is not None


def _epochs(road: Road, name: str) -> int | None:
    history = json.loads(road.path("train", f"select/{name}/history.json").read_text())
    best: int | None = history["best_epoch"]
    return None if best is None else best + 1


def _fit(road: Road, job: Fit, folder: Path) -> None:
    from recsys.models import build_model, save_model
    from recsys.team import join
    from recsys.train import fit

    retriever = road.config.retrievers[job.name]
    settings = retriever.train.model_copy(update={"epochs": job.epochs} if job.epochs else {})
    model = build_model(
        retriever.model, retriever.params, job.train, _features(road, job.name), seed=settings.seed
    )
    with road.progress.task(f"{job.kind}/{job.name}", settings.epochs) as task:
        history = fit(
            model,
            job.train,
            job.valid,
            settings,
            checkpoints=road.path("train", f"{CHECKPOINTS}/{job.kind}/{job.name}/none").parent,
            progress=lambda _: task(),
            team=join(),
        )
    save_model(model, folder)
    record = history.to_json()
    # Times differ between equal runs, and what is written here is hashed.
    record["records"] = [{k: v for k, v in row.items() if k != "seconds"} for row in record["records"]]
    write_atomic(folder / "history.json", json.dumps(record).encode())


def _features(road: Finished, name: str) -> Mapping[str, FeatureTable]:
    tables = feature_tables(road)
    return {feature: tables[feature] for feature in road.config.retrievers[name].features}


def final_fit(road: Finished) -> tuple[str, Interactions]:
    """The kind of fit that test lists come from, and what it learned from, whose items they leave out."""
    strict = road.config.candidates.protocol == "strict"
    return ("final", road.known) if strict else ("select", road.part("train"))


def load_models(
    road: Finished, kind: str, names: tuple[str, ...], part: Interactions
) -> dict[str, Recommender]:
    """The models of a kind of fit (`select`, `final`, `fold-N`), with the histories of `part`."""
    from recsys.models import load_model

    return {
        name: load_model(road.path("train", f"{kind}/{name}/none").parent, part, _features(road, name))
        for name in names
    }
