"""What `ablation.py` compares on: lists of the demo's shop or of `uplift.py`, and trained pieces in files."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from uplift import Bench as Uplift
from uplift import Pause, note

from catalograph.demo import prepare_demo
from catalograph.filling import model_folder
from catalograph.progress import Progress
from catalograph.rerank_lists import final_lists, item_texts, training_lists, validation_lists
from catalograph.retrieval import source_names
from catalograph.road import Road
from catalograph.stages import STAGES, finished_road, run_stages
from recsys.candidates import Candidates
from recsys.interactions import Interactions
from recsys.metrics import evaluate
from rerank.diagnosis import arrived
from rerank.fusion import fit_fusion, fused
from rerank.hybrid import build_hybrid_scorer
from rerank.inference import Scorer, ordered_by, rank_lists
from rerank.lists import RankingList
from rerank.losses import LOSSES, RankingLoss
from rerank.scorer import load_scorer, with_lora
from rerank.settings import RerankConfig
from rerank.token import build_token_scorer, load_trained, save_trained
from rerank.train import fine_tune, ndcg_of

Scores = list[np.ndarray]
Prepare = Callable[[Any, int], RankingLoss]
"""A loss, given the scorer and how many lists training will see."""


@dataclass(frozen=True)
class Trial:
    """One way to train: settings that differ from the case's own, and what the settings cannot say.

    Attributes:
        changes: by dotted key of the section `rerank`.
        tweak: changes a scorer before it is trained.
        prepare: gives a loss that the settings do not know, told how many lists training will see.
        reads: name of a trained trial whose weights are read in another way, by `changes` of `inference`.
    """

    changes: Mapping[str, Any] = field(default_factory=dict)
    tweak: Callable[[Any], None] | None = None
    prepare: Prepare | None = None
    reads: str | None = None


@dataclass(frozen=True, eq=False)
class Case:
    """The lists of one data set and seed.

    Attributes:
        base: what trials change.
        held: the validation lists as candidates, `valid` as lists; likewise `shown` and `test`.
        tag: of the files of its trials.
    """

    folder: Path
    seed: int
    cut: int
    base: RerankConfig
    lists: list[RankingList]
    valid: list[RankingList]
    test: list[RankingList]
    texts: Mapping[str, str]
    held: Candidates
    shown: Candidates
    truth: Interactions
    sources: Sequence[str]
    tag: str = ""

    def settings(self, trial: Trial) -> RerankConfig:
        """The settings of a trial."""
        raw = self.base.model_dump()
        for key, value in trial.changes.items():
            *path, last = key.split(".")
            part = raw
            for name in path:
                part = part[name]
            part[last] = value
        return RerankConfig.model_validate(raw)

    @cached_property
    def relevance(self) -> np.ndarray:
        """Relevance [V, K] of the held lists, in arriving order."""
        table = np.zeros(self.held.items.shape, np.float32)
        for row, entry in enumerate(self.valid):
            table[row, entry.places] = entry.relevance
        return table

    def measured(self, ordered: Candidates) -> np.ndarray:
        """NDCG at the cut of each test user."""
        return evaluate(ordered, self.truth, (self.cut,)).per_user[f"ndcg@{self.cut}"]

    def validated(self, scores: Scores) -> float:
        """Mean NDCG at the cut of the validation lists."""
        return float(
            np.mean([ndcg_of(s, arrived(e), self.cut) for s, e in zip(scores, self.valid, strict=True)])
        )

    def with_sources(self, valid: Scores | None, test: Scores | None) -> np.ndarray:
        """The test users' NDCG under a linear fusion of the sources, and of the model where there is one."""
        held, relevance, shown, names = self.held, self.relevance, self.shown, list(self.sources)
        if valid is not None and test is not None:
            table = np.stack([np.pad(s, (0, held.k - len(s)), constant_values=np.nan) for s in valid])
            order = np.argsort(-np.nan_to_num(table, nan=-np.inf), axis=1, kind="stable")
            held, relevance = (
                held.reordered(order, "reranker", table), np.take_along_axis(relevance, order, 1)
            )  # fmt: skip
            shown, names = ordered_by(shown, test, "reranker"), [*names, "reranker"]
        return self.measured(fused(shown, fit_fusion(held, relevance, names), "fused"))


class Bench:
    """Trials of one case, each kept in files of its own."""

    def __init__(self, case: Case, stop: float) -> None:
        self.case, self.stop = case, stop

    def scores(self, name: str, trial: Trial) -> tuple[Scores, Scores]:
        """Validation and test scores of a trial, trained if it was not yet."""
        case, path = self.case, self.case.folder / f"{self.case.tag}{name}-{self.case.seed}.npz"
        if not path.is_file():
            scorer = self.trained(trial.reads or name, trial)
            read = partial(rank_lists, scorer, texts=case.texts, config=case.settings(trial).inference)
            found = {kind: read(lists=lists) for kind, lists in (("valid", case.valid), ("test", case.test))}
            whole = {k: np.concatenate(v) for k, v in found.items()}
            np.savez(path.with_suffix(".tmp.npz"), **whole)
            path.with_suffix(".tmp.npz").replace(path)
        stored = np.load(path)
        cuts = {
            "valid": np.cumsum([len(e.candidates) for e in case.valid])[:-1],
            "test": np.cumsum([len(e.candidates) for e in case.test])[:-1],
        }
        return np.split(stored["valid"], cuts["valid"]), np.split(stored["test"], cuts["test"])

    def trained(self, name: str, trial: Trial) -> Scorer:
        """The scorer of a trial with its trained weights."""
        case, settings = self.case, self.case.settings(trial)
        scorer = built(settings, case)
        if trial.tweak is not None:
            trial.tweak(scorer.model)
        tuning = settings.finetune
        if trial.prepare is not None:
            LOSSES["tried"] = trial.prepare(scorer, tuning.epochs * len(case.lists))
            tuning = tuning.model_copy(update={"loss": "tried"})
        stem = f"{case.tag}{name}-{case.seed}"
        path = case.folder / f"{stem}.safetensors"
        if not path.is_file():
            self.check()
            note(f"{case.folder.name} {case.seed} {name}: {len(case.lists)} lists")
            started = time.monotonic()
            # Such a loss may count what it has seen, which no checkpoint holds: it is trained in one go.
            kept = trial.prepare is None
            history = fine_tune(
                scorer, case.lists, case.valid, case.texts, tuning, seed=case.seed,
                checkpoints=case.folder / f"{stem}-checkpoints" if kept else None,
                progress=self._watch if kept else None,
            )  # fmt: skip
            note(f"{time.monotonic() - started:.0f} s, {history.evaluations}")
            save_trained(scorer, path)
        load_trained(scorer, path)
        return scorer

    def check(self) -> None:
        """Raises Pause when time is up."""
        if time.monotonic() > self.stop:
            raise Pause

    def _watch(self, step: int, total: int, losses: Any) -> None:
        if step % 25 == 0:
            self.check()


def built(settings: RerankConfig, case: Case) -> Scorer:
    """A scorer that has learned nothing yet."""
    if settings.form == "text":
        text = load_scorer(settings, max_candidates=case.shown.k)
        return with_lora(text, settings.finetune.lora, seed=case.seed)
    if settings.form == "hybrid":
        return build_hybrid_scorer(settings, case.lists[0], max_candidates=case.shown.k, seed=case.seed)
    return build_token_scorer(settings, case.lists[0], seed=case.seed)


def shop(work: Path, seed: int, quick: bool) -> Case:
    """The demo's own lists; what a soft token reads comes along."""
    folder = work / f"shop-{seed}{'-quick' * quick}"
    size = {"items": 300, "users": 300} if quick else {}
    config = prepare_demo(folder, seed=seed, **size)
    run_stages(config, folder, ["recommend"], Progress())
    assert config.rerank is not None
    base = config.rerank.model_copy(update={"model": model_folder(config.rerank.model or "")})
    token = base.token.model_copy(update={"features": ("title", "caption")})
    base = base.model_copy(update={"token": token})
    with finished_road(config, folder, ["recommend"], Progress()) as opened:
        soft = config.model_copy(update={"rerank": base.model_copy(update={"form": "hybrid"})})
        road = Road(opened.run, soft, opened.progress)
        for name in ("prepare", "caption", "embed", "train", "recommend"):
            road.enter(name, STAGES[name].folder, STAGES[name].parts(road))
        (held, valid), _ = validation_lists(road)
        shown, test = final_lists(road)
        lists = training_lists(road)[0][: 64 if quick else None]
        return Case(
            work / f"shop-trials{'-quick' * quick}", seed, 10, base, lists, valid, test, item_texts(road),
            held, shown, road.part("test"), source_names(config),
        )  # fmt: skip


def films_or_baby(args: argparse.Namespace) -> Case:
    """The lists of `uplift.py`, training on at most `--lists` of them; they are the same for every seed."""
    told = argparse.Namespace(
        quick=args.quick, data=Path(args.data), work=args.work, only=None, minutes=args.minutes, epochs=1
    )
    own = Uplift(told)
    lists, valid = own.training(permuted=False)
    if args.lists and len(lists) > args.lists:
        chosen = np.random.default_rng(0).choice(len(lists), args.lists, replace=False)
        lists = [lists[i] for i in np.sort(chosen)]
    return Case(
        own.work, 0, 20, own.token, lists, valid, own.asked("test"), {},
        own.came_in("choose"), own.came_in("test"), own.parts[2],
        list(own.retrievers), f"listed{args.lists or ''}-",
    )  # fmt: skip
