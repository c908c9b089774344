"""What an extraction will take, from a short run of its real stages on a sample of the catalogue."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalograph.config import RunConfig
from catalograph.filling import captioner_of, engine_of, fill_captions, fill_feature
from catalograph.progress import Progress
from catalograph.workplace import Extraction, Workplace
from extract.caption_shards import caption_table, save_captions
from extract.embed import save_embedded
from extract.errors import InvalidData
from extract.items import Catalog
from extract.stage import StageResult
from extract.store import ShardStore, group_by_bucket

WARM_UP = 32
"""Items at least that are worked on before the clock starts."""

Fill = Callable[[Workplace], tuple[ShardStore, StageResult]]


class Sample(Workplace):
    """A part of another workplace's catalogue, with a store of its own."""

    def __init__(self, whole: Workplace, rows: np.ndarray, folder: Path) -> None:
        super().__init__(whole.config, whole.progress, Extraction(store=folder))
        self.catalog = Catalog(whole.catalog.table.take(pa.array(rows)), whole.catalog.pictures)
        # The model is loaded once for warm-up and sample.
        self.engine = whole.engine  # type: ignore[method-assign]


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """One stage over the whole catalogue."""

    items: int
    sampled: int
    items_per_second: float
    """While the model works, loading not counted."""
    load_seconds: float
    seconds: float
    """Of the whole stage: loading, working, committing shards."""
    disk_bytes: int
    """Of shards and results."""


def estimate(config: RunConfig, seconds: float, price: float | None, progress: Progress) -> dict[str, Any]:
    """Items per second, hours, memory, disk and money of `extract` on the whole catalogue.

    The sample is made of whole buckets, which are random by their hash, as far as they fit in the time; so
    equal pictures and texts, half-full batches and commits count as they will.

    Args:
        config: of the run.
        seconds: to measure each stage for, model loading and warm-up not counted.
        price: of one hour of this machine, in any currency; None leaves the money out.
        progress: told how far it is.

    Raises:
        InvalidData: the catalogue is empty.
    """
    started = time.monotonic()
    # What a sample may hold of bad pictures is no reason to stop: the run has its own limit.
    work = Workplace(config.model_copy(update={"max_bad": 1.0}), progress)
    size = len(work.catalog)
    if not size:
        why = "nothing can be estimated from it"
        raise InvalidData("D118", "the catalogue has no items", where=str(config.data.catalog), why=why)
    reading = time.monotonic() - started
    stages: dict[str, StageEstimate] = {}
    captions: pa.Table | None = None
    with tempfile.TemporaryDirectory(prefix="catalograph-estimate-") as scratch:
        folder = Path(scratch)
        if config.caption is not None:
            sample = _measure(work, "caption", fill_captions, config.caption.buckets, seconds, folder)
            stages["caption"], captions = sample.estimate, caption_table(sample.store)
        for name, feature in config.features.items():
            if feature.vectors is not None:
                continue
            captioned = None
            if captions is not None and feature.reads_captions:
                captioned = captions["item_id"]

            def fill(place: Workplace, name: str = name) -> tuple[ShardStore, StageResult]:
                return fill_feature(place, name, captions)

            buckets = engine_of(work, feature)[1]
            found = _measure(work, f"embed {name}", fill, buckets, seconds, folder, captioned)
            stages[f"embed {name}"] = found.estimate
    total = reading + sum(stage.seconds for stage in stages.values())
    return {
        "items": size,
        "stages": {name: _as_dict(stage) for name, stage in stages.items()},
        "seconds": round(total, 1),
        "hours": round(total / 3600, 4),
        "memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "accelerator_bytes": _accelerator_bytes(),
        "disk_bytes": sum(stage.disk_bytes for stage in stages.values()),
        "cost": None if price is None else round(total / 3600 * price, 2),
    }


@dataclass(frozen=True, slots=True)
class _Measured:
    estimate: StageEstimate
    store: ShardStore


def _measure(
    work: Workplace,
    name: str,
    fill: Fill,
    buckets: int,
    seconds: float,
    folder: Path,
    among: pa.ChunkedArray | None = None,
) -> _Measured:
    """Warms up, runs the stage on as many items as fit in the time, and scales up.

    Args:
        work: the whole catalogue.
        name: of the stage.
        fill: the stage.
        buckets: of its store.
        seconds: to measure for.
        folder: for the shards.
        among: ids the sample must lie in; None: all.
    """
    size = len(work.catalog)
    order = _by_bucket(work.catalog.id_column, buckets, among)
    batch = work.config.caption.batch_size if name == "caption" and work.config.caption else WARM_UP
    warm = Sample(work, order[-max(batch, WARM_UP) :], folder / f"warm {name}")
    # An engine that an earlier stage loaded is not loaded again.
    loaded = _load_seconds(work, name)
    started = time.monotonic()
    fill(warm)
    load = _load_seconds(work, name) - loaded
    each = (time.monotonic() - started - load) / len(warm.catalog)
    wanted = int(np.clip(seconds / max(each, 1e-9), min(len(order), WARM_UP), len(order)))
    sample = Sample(work, order[:wanted], folder / name)
    store, result = fill(sample)
    commit = _commit_seconds(store, folder / f"commit {name}")
    shards = min(buckets, size)
    work_seconds = max(result.seconds - commit * result.shards_computed, 1e-9)
    every = work_seconds / len(sample.catalog)
    found = StageEstimate(
        items=size,
        sampled=len(sample.catalog),
        items_per_second=1 / every,
        load_seconds=load,
        seconds=load + every * size + commit * shards,
        disk_bytes=int(_disk_bytes(store, folder / f"result {name}") * size / len(sample.catalog)),
    )
    return _Measured(found, store)


def _by_bucket(ids: pa.ChunkedArray, buckets: int, among: pa.ChunkedArray | None) -> np.ndarray:
    """Rows of the catalogue bucket by bucket; within one, in an order that its ids do not decide."""
    rows = np.arange(len(ids))
    if among is not None:
        rows = rows[pc.is_in(ids, value_set=among.combine_chunks()).to_numpy()]
    groups = group_by_bucket(ids.take(pa.array(rows)), buckets)
    shuffle = np.random.default_rng(0)
    return np.concatenate([rows[shuffle.permutation(group)] for group in groups.values()])


def _load_seconds(work: Workplace, name: str) -> float:
    if name == "caption":
        engine: Any = captioner_of(work)
    else:
        engine, _ = engine_of(work, work.config.features[name.removeprefix("embed ")])
    return float(engine.load_seconds)


def _commit_seconds(store: ShardStore, folder: Path, times: int = 5) -> float:
    """What committing one shard of this store takes on this disk: the median of some."""
    scratch = ShardStore(folder, store.parts, store.buckets)
    row = next(row for row in store.rows().values() if row.n_in)
    data, took = store.read(row), []
    for _ in range(times):
        started = time.monotonic()
        scratch.adopt(row, data)
        took.append(time.monotonic() - started)
    return float(np.median(took))


def _disk_bytes(store: ShardStore, result: Path) -> int:
    """Bytes of a store's folder and of the result file made from it."""
    if any(row.data.endswith(".parquet") for row in store.rows().values()):
        save_captions(store, result)
    else:
        save_embedded(store, result)
    files = [result, *(path for path in store.folder.rglob("*") if path.is_file())]
    return sum(path.stat().st_size for path in files)


def _accelerator_bytes() -> int:
    """The most that was held on accelerators; torch is asked only if a stage loaded it."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return 0
    return sum(torch.cuda.max_memory_allocated(device) for device in range(torch.cuda.device_count()))


def _as_dict(stage: StageEstimate) -> dict[str, Any]:
    return {
        "items": stage.items,
        "sampled": stage.sampled,
        "items_per_second": round(stage.items_per_second, 3),
        "load_seconds": round(stage.load_seconds, 2),
        "seconds": round(stage.seconds, 1),
        "disk_bytes": stage.disk_bytes,
    }
