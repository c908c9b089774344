"""Brings a store of extracted features up to date with the catalogue as it is now, outside any run folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from catalograph.config import RunConfig
from catalograph.filling import captions_here, fill_captions, fill_feature
from catalograph.locking import lock_folder
from catalograph.progress import Progress
from catalograph.workplace import Extraction, Workplace
from extract.caption_shards import caption_table
from extract.errors import UnsafeInput
from extract.stage import StageResult
from extract.store import ShardStore, content_hash

Steps = dict[str, dict[str, Any]]
"""By step, its counts."""


def update_store(
    config: RunConfig, extraction: Extraction, stages: Sequence[str], progress: Progress
) -> dict[str, Any]:
    """Captions and embeds what is new or changed, forgets what left; what ``--json`` prints.

    Raises:
        RunFolderError: R101, another process works on the same part.
        UnsafeInput: U409, a folder to merge holds no store.
        TooManyBadInputs: more than ``max_bad`` items of a stage were quarantined; good ones are kept.
    """
    if extraction.store is None:
        raise ValueError("an update needs a store")
    require_stores(extraction.merge)
    with hold(extraction.store, extraction.part):
        work = Workplace(config, progress, extraction)
        rows: Steps = {step: as_row(take_step(work, step)) for step in steps_of(config, stages)}
    return {"store": str(extraction.store), "stages": rows}


def steps_of(config: RunConfig, stages: Sequence[str]) -> list[str]:
    """What an update does, in order: `caption`, and `embed NAME` for each feature."""
    steps = ["caption"] if "caption" in stages and config.caption is not None else []
    # Ready vectors need no model: runs read them where they lie.
    made = [name for name, feature in config.features.items() if feature.vectors is None]
    return steps + [f"embed {name}" for name in made if "embed" in stages]


def take_step(work: Workplace, step: str) -> StageResult:
    """One of these steps, on the part that the workplace is for."""
    if step == "caption":
        return fill_captions(work)[1]
    name = step.removeprefix("embed ")
    reads = work.config.caption is not None and work.config.features[name].reads_captions
    captions = caption_table(captions_here(work)) if reads else None
    return fill_feature(work, name, captions, complete=True)[1]


@contextmanager
def hold(store: Path, part: tuple[int, int]) -> Iterator[None]:
    """Keeps others off a store, or off one part of it while other parts are worked on."""
    index, parts = part
    store.mkdir(parents=True, exist_ok=True)
    with ExitStack() as locks:
        locks.enter_context(lock_folder(store, shared=parts > 1))
        if parts > 1:
            locks.enter_context(lock_folder(store, f"LOCK-{index + 1}-of-{parts}"))
        yield


def stores_below(folder: Path) -> dict[str, ShardStore]:
    """Relative name -> shard store, of every store below a folder given as ``--store``.

    Raises:
        UnsafeInput: there is none.
    """
    found = sorted(path.parent for path in folder.rglob("store.json"))
    if not found:
        raise UnsafeInput(
            "U409", "no store is there", where=str(folder), next_step="give the --store of extract"
        )
    return {path.relative_to(folder).as_posix(): ShardStore.open(path) for path in found}


def require_stores(folders: Iterable[Path]) -> None:
    """Raise UnsafeInput U409 if one of some folders holds no store: a name mistyped would merge nothing."""
    for folder in folders:
        stores_below(folder)


def verify_stores(folder: Path) -> list[str]:
    """Read every shard below a folder again and compare; one line per problem, none when all is well."""
    stores = stores_below(folder)
    return [f"{name}: {problem}" for name, store in stores.items() for problem in store.verify()]


def hash_stores(folder: Path) -> str:
    """One hash over what all stores below a folder hold, whatever the kills, parts and order of work."""
    return content_hash({name: store.content_hash() for name, store in stores_below(folder).items()})


def as_row(result: StageResult) -> dict[str, Any]:
    """The counts of a step as they are printed."""
    return {
        "seconds": result.seconds,
        "reused": result.shards_computed == 0,
        "in": result.n_in,
        "ok": result.n_ok,
        "absent": result.n_absent,
        "quarantined": result.n_quarantined,
        "shards_computed": result.shards_computed,
        "shards_reused": result.shards_reused,
    }
