"""Extracts and reranks with the workers of a Ray cluster, through Ray Data; optional extra `ray`.

Each worker is one actor that works on parts of the buckets, or of the lists, as ``--shard I/N`` does: nothing
but the number of a part and its counts travels, and the results are those of one process.
Every machine needs the catalogue, the pictures and the store, or the run folder, under the same paths.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from catalograph.config import RunConfig
from catalograph.integrity import stored_config
from catalograph.progress import Progress
from catalograph.updating import Steps, as_row, hold, require_stores, steps_of, take_step
from catalograph.workplace import Extraction, Workplace
from extract import errors
from extract.errors import CatalographError, TooManyBadInputs
from extract.faults import not_installed
from extract.stage import StageResult, allowed_bad

PARTS_PER_WORKER = 4
"""So that a worker that is done early takes over from a slower one."""

_FIELDS = ("code", "what", "where", "why", "next_step")


class PartWorker:
    """An actor: one step of the extraction, on whichever parts it is given.

    It works in the driver's folder where there is one of that name, so that relative paths of models hold.
    """

    def __init__(self, config: RunConfig, extraction: Extraction, step: str, parts: int, folder: str) -> None:
        if os.path.isdir(folder):
            os.chdir(folder)
        self._config, self._extraction, self._step, self._parts = config, extraction, step, parts
        self._work = Workplace(config, Progress(), extraction)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """The counts of one part, or the error that ended it: errors of ours do not travel as exceptions."""
        self._work.extraction = replace(self._extraction, part=(int(row["id"]), self._parts))
        return _answer(lambda: asdict(take_step(self._work, self._step)))


class ListWorker:
    """An actor: reranks whichever parts of a run's lists it is given."""

    def __init__(self, run_dir: Path, store: Path, parts: int, folder: str) -> None:
        if os.path.isdir(folder):
            os.chdir(folder)
        self._run_dir, self._store, self._parts = run_dir, store, parts

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """The counts of one part, or the error that ended it."""
        from catalograph.rerank_shards import rerank_part

        part = (int(row["id"]), self._parts)
        return _answer(lambda: rerank_part(self._run_dir, part, self._store, Progress()))


def _answer(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return {"counts": work(), "error": None}
    except CatalographError as error:
        fields = {name: getattr(error, name) for name in _FIELDS}
        return {"counts": None, "error": {"kind": type(error).__name__, **fields}}


def update_with_ray(
    config: RunConfig, extraction: Extraction, stages: Sequence[str], workers: int, progress: Progress
) -> dict[str, Any]:
    """As `catalograph.updating.update_store`, on a number of Ray workers.

    The cluster is that of ``RAY_ADDRESS``; without it, one is started on this machine and stopped again.

    Raises:
        MissingPrerequisite: Ray is not installed.
        UnsafeInput: U409, a folder to merge holds no store.
    """
    rows: Steps = {}
    if extraction.store is None:
        raise ValueError("an update needs a store")
    # A worker's working folder is its own.
    store, merge = extraction.store.absolute(), tuple(folder.absolute() for folder in extraction.merge)
    extraction = replace(extraction, store=store, merge=merge)
    require_stores(merge)
    data = config.data.model_copy(update={"root": (config.data.root or Path()).absolute()})
    config = config.model_copy(update={"data": data})
    with hold(store, (0, 1)), _cluster(workers) as ray:
        for step in steps_of(config, stages):
            with progress.task(f"{step} on {workers} workers") as task:
                rows[step] = as_row(_run(ray, config, extraction, step, workers, task.reach))
    return {"store": str(store), "stages": rows}


def rerank_with_ray(run_dir: Path, store: Path, workers: int, progress: Progress) -> dict[str, int]:
    """Reads a run's test lists into a store on a number of Ray workers; counts of lists.

    The cluster is that of `update_with_ray`; each worker has one part, for a model takes long to load.

    Raises:
        MissingPrerequisite: Ray is not installed, or the finetune stage is not done.
    """
    run_dir, store = run_dir.absolute(), store.absolute()
    device = stored_config(run_dir).get("device", "auto")
    with _cluster(workers) as ray, progress.task(f"rerank on {workers} workers") as task:
        made = (run_dir, store, workers, os.getcwd())
        return _collected(ray, ListWorker, made, workers, workers, device, task.reach)


def _run(
    ray: Any, config: RunConfig, extraction: Extraction, step: str, workers: int, reach: Any
) -> StageResult:
    parts = workers * PARTS_PER_WORKER
    # The share that may be bad is one of all items; how many workers there are must not move it.
    lenient = config.model_copy(update={"max_bad": 1.0})
    made = (lenient, extraction, step, parts, os.getcwd())
    total = _collected(ray, PartWorker, made, parts, workers, config.device, reach)
    result = StageResult(**total)
    allowed = allowed_bad(result.n_in, config.max_bad)
    if result.n_quarantined > allowed:
        raise TooManyBadInputs(
            "D110",
            f"{result.n_quarantined} of {result.n_in:,} items were quarantined; the limit is {allowed}"
            f" ({config.max_bad:.1%})",
            where=f"{extraction.store} ({step})",
            next_step="mend these inputs and run again, or raise `max_bad`; good items already done are kept",
        )
    return result


def _collected(
    ray: Any, worker: Any, made: tuple[Any, ...], parts: int, workers: int, device: str, reach: Any
) -> dict[str, Any]:
    """Sums of the counts of all parts, or the first error of one."""
    needs_gpu = device != "cpu" and ray.cluster_resources().get("GPU", 0) >= workers
    done = ray.data.range(parts, override_num_blocks=parts).map(
        worker,
        fn_constructor_args=made,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
        num_gpus=1 if needs_gpu else 0,
    )
    total: dict[str, Any] = {}
    failed: dict[str, Any] = {}
    # To the end in any case: leaving Ray Data's iterator half-way takes this process down with the cluster.
    for number, row in enumerate(done.iter_rows(), start=1):
        failed = failed or row["error"] or {}
        for name, value in (row["counts"] or {}).items():
            total[name] = total.get(name, 0) + value
        reach(number, parts)
    if failed:
        kind, code, what = getattr(errors, failed.pop("kind")), failed.pop("code"), failed.pop("what")
        raise kind(code, what, **failed)
    return total


@contextmanager
def _cluster(workers: int) -> Iterator[Any]:
    # Ray reports usage unless it is told not to, and it is told by the environment alone.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise not_installed(error, '"catalograph[ray]"') from error
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    if "RAY_ADDRESS" not in os.environ:
        options |= {"num_cpus": workers, "include_dashboard": False}
    ray.init(**options)
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        yield ray
    finally:
        ray.shutdown()
