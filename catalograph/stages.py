"""The road: which stages there are, what each is made from, and how a run goes through them."""

from __future__ import annotations

import logging
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalograph import embedding, evaluation, extraction, metric_tables, reporting, reranking, retrieval
from catalograph.config import RunConfig
from catalograph.config_file import load_config
from catalograph.integrity import require_run
from catalograph.locking import lock_folder
from catalograph.progress import Progress
from catalograph.report.data import MetricTable
from catalograph.rerank_parts import forget_blocks
from catalograph.road import Counts, Road
from catalograph.runs import RunFolder, open_run
from catalograph.trackers import need_trackers
from catalograph.updating import hold
from catalograph.workplace import Extraction
from extract.errors import MissingPrerequisite
from recsys.nearest_index import need_usearch

if TYPE_CHECKING:
    from catalograph.origin import Origin

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: where it is kept, what it is made from, which stages it needs, and its work."""

    folder: str
    needs: tuple[str, ...]
    parts: Callable[[Road], Mapping[str, Any]]
    work: Callable[[Road], Counts]
    wanted: Callable[[RunConfig], bool] = lambda config: True
    disposable: bool = False
    """Holds no results: made again when its settings change, and whenever it is asked for by name."""
    tidy: Callable[[Road], None] = lambda road: None
    """Removes what only a stop half-way needed; called when the stage is done."""


STAGES: dict[str, Stage] = {
    "prepare": Stage("10-prepare", (), retrieval.prepare_parts, retrieval.prepare),
    "caption": Stage(
        "20-caption",
        (),
        extraction.caption_parts,
        extraction.caption,
        lambda config: config.caption is not None,
    ),
    "embed": Stage(
        "30-embed",
        ("caption",),
        embedding.embed_parts,
        embedding.embed,
        lambda config: bool(config.features),
    ),
    "train": Stage("40-train", ("prepare", "embed"), retrieval.train_parts, retrieval.train),
    "recommend": Stage("50-recommend", ("train",), retrieval.recommend_parts, retrieval.recommend),
    "finetune": Stage(
        "60-finetune",
        ("recommend",),
        reranking.finetune_parts,
        reranking.finetune,
        lambda config: config.rerank is not None,
    ),
    "rerank": Stage(
        "70-rerank",
        ("finetune",),
        reranking.rerank_parts,
        reranking.rerank,
        lambda config: config.rerank is not None,
        tidy=forget_blocks,
    ),
    "evaluate": Stage(
        "80-evaluate", ("recommend", "rerank"), evaluation.evaluate_parts, evaluation.evaluate_lists
    ),
    "report": Stage("90-report", ("evaluate",), reporting.report_parts, reporting.report, disposable=True),
}


@dataclass
class RunSummary:
    """What a run ended with."""

    folder: Path
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By stage: seconds, reused, and the counts in, ok, absent, quarantined where they apply; `from`, the run
    that lent it."""
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    """By list and metric, on the test split; empty before `evaluate` is done."""
    evaluation: dict[str, Any] = field(default_factory=dict)
    """All that the evaluation found: intervals, comparisons, groups, what lists are like."""
    tables: list[MetricTable] = field(default_factory=list)
    report: Path | None = None
    lists: Path | None = None
    """The lists to deliver, one row per user and place: gated, else reranked, else as retrieved."""

    def path(self, stage: str, name: str) -> Path:
        """A file that a stage made, such as ``path("caption", "captions.parquet")``."""
        return self.folder / "stages" / STAGES[stage].folder / name

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        return {
            "run_dir": str(self.folder),
            "stages": self.stages,
            "metrics": self.metrics,
            "evaluation": self.evaluation,
            "lists": None if self.lists is None else str(self.lists),
            "report": None if self.report is None else str(self.report),
        }


def run_stages(
    config: RunConfig,
    folder: Path,
    stages: Sequence[str] | None,
    progress: Progress,
    extraction: Extraction | None = None,
    origin: Origin | None = None,
    table: Mapping[str, Stage] = STAGES,
    *,
    refreshed: bool = False,
) -> RunSummary:
    """Goes through the asked stages and those they need, in order, and skips what is done.

    Args:
        config: of the run.
        folder: of the run.
        stages: names from the table; None means all.
        progress: told how far it is.
        extraction: how extraction stages go about it.
        origin: a finished run whose stages are taken over where they were made from the same.
        table: the stages there are, in order; `STAGES` with more of them, or others in their place.
        refreshed: whether the folder is, or becomes, one of `refresh`, whose stages hold something else.
    """
    asked = _with_needs(config, stages, table)
    if config.report_to and "report" in asked:
        # Told now, not after hours of training.
        need_trackers(config.report_to)
    summary = RunSummary(folder)
    with ExitStack() as held:
        run = held.enter_context(open_run(folder, config, refreshed=refreshed))
        if origin is not None:
            run.came_from(origin.folder, origin.hash, origin.lends)
        if extraction is not None and extraction.store is not None:
            held.enter_context(hold(extraction.store, extraction.part))
        road = Road(run, config, progress, extraction, origin)
        how = road.extraction
        for position, name in enumerate(asked):
            stage = table[name]
            # What follows from a stage that is tried again, here or in a process that was killed over it.
            follows = (how.retry_bad or how.rehash) and any(need in summary.stages for need in stage.needs)
            kept = road.enter(name, stage.folder, stage.parts(road), renew=stage.disposable or follows)
            again = stage.disposable and stages is not None and name in stages
            if kept.done and (how.rehash or (how.retry_bad and kept.counts.get("quarantined"))):
                kept.reopen()
            reused = kept.done and road.outputs_exist(name) and not again
            lent = not kept.done and not stage.disposable and road.borrow(name)
            if lent:
                progress.note(f"{name}: reused from {road.origin.folder}")
                run.log("stage", stage=name, state="reused", origin=str(road.origin.folder))
            elif not reused:
                if config.candidates.index and "recommend" in asked[position:]:
                    # Told now, not after hours of training; a run that has its index is read without.
                    need_usearch()
                started = time.perf_counter()
                run.log("stage", stage=name, state="start")
                counts = stage.work(road)
                seconds = time.perf_counter() - started
                kept.finish(counts.outputs, counts.as_dict(), seconds, peak_mib())
                stage.tidy(road)
                run.log("stage", stage=name, state="done", **counts.as_dict())
            told = {"from": str(road.origin.folder)} if lent else {}
            summary.stages[name] = {
                "seconds": kept.seconds, "reused": reused or lent, **kept.counts, **told
            }  # fmt: skip
        if road.is_done("evaluate"):
            summary.evaluation = evaluation.read_metrics(road)
            summary.metrics = evaluation.means(summary.evaluation)
            summary.tables = metric_tables.tables(summary.evaluation)
        if run.report_path.is_file():
            summary.report = run.report_path
        summary.lists = delivered_lists(road)
    return summary


def delivered_lists(road: Road) -> Path | None:
    """The best lists that the entered stages have made: gated, else reranked, else as retrieved."""
    files = (
        ("recommend", "test") if name == "retrieved" else ("rerank", name) for name in evaluation.DELIVERED
    )
    made = (road.path(stage, f"{name}.parquet") for stage, name in files if road.is_done(stage))
    return next((path for path in made if path.is_file()), None)


@contextmanager
def finished_road(
    config: RunConfig, folder: Path, stages: Sequence[str], progress: Progress
) -> Iterator[Road]:
    """A run opened to read what some stages and those before them made.

    Raises:
        MissingPrerequisite: P102, one of them is not done.
    """
    with open_run(folder, config) as run:
        yield _finished(Road(run, config, progress), stages)


@contextmanager
def shared_road(run_dir: Path, stages: Sequence[str], progress: Progress) -> Iterator[Road]:
    """A finished run opened by several processes at once, which only read there; its own configuration holds.

    Raises:
        MissingPrerequisite: P102, one of the stages is not done.
        RunFolderError: R101, a process that writes there has it.
    """
    require_run(run_dir)
    config = load_config(run_dir / "config.yaml")
    with closing(lock_folder(run_dir, shared=True)) as lock:
        run = RunFolder(run_dir.absolute(), config, lock, read_only=True)
        yield _finished(Road(run, config, progress), stages)


def _finished(road: Road, stages: Sequence[str]) -> Road:
    for name in _with_needs(road.config, stages):
        road.enter(name, STAGES[name].folder, STAGES[name].parts(road))
        if not road.is_done(name):
            folder = road.run.path
            raise MissingPrerequisite(
                "P102",
                f"the stage {name} of this run is not done",
                where=str(folder),
                next_step=f"run `catalograph {stages[-1]} --run-dir {folder}` first",
            )
    return road


def peak_mib() -> float:
    """The most memory that this process has held since it began, in MiB, child processes aside."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _with_needs(
    config: RunConfig, stages: Sequence[str] | None, table: Mapping[str, Stage] = STAGES
) -> list[str]:
    wanted = set(table if stages is None else stages)
    for name in reversed(list(table)):
        if name in wanted:
            wanted.update(table[name].needs)
    return [name for name in table if name in wanted and table[name].wanted(config)]
