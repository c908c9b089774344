"""Brings a store of extracted features up to date with the catalogue as it is now, outside any run folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from catalograph.config import RunConfig
from catalograph.filling import captions_here, fill_captions, fill_feature
from catalograph.progress import Progress
from catalograph.runs import lock_folder
from catalograph.workplace import Extraction, Workplace
from extract.caption_shards import caption_table
from extract.errors import UnsafeInput
from extract.stage import StageResult
from extract.store import ShardStore, content_hash


def update_store(
    config: RunConfig, extraction: Extraction, stages: Sequence[str], progress: Progress
) -> dict[str, Any]:
    """Captions and embeds what is new or changed, forgets what left; what ``--json`` prints.

    Raises:
        RunFolderError: R101, another process works on the same part.
        TooManyBadInputs: more than ``max_bad`` items of a stage were quarantined; good ones are kept.
    """
    if extraction.store is None:
        raise ValueError("an update needs a store")
    rows: dict[str, dict[str, Any]] = {}
    with hold(extraction.store, extraction.part):
        work = Workplace(config, progress, extraction)
        if "caption" in stages and config.caption is not None:
            rows["caption"] = _row(fill_captions(work)[1])
        if "embed" in stages:
            captions = None if config.caption is None else caption_table(captions_here(work))
            # Ready vectors need no model: runs read them where they lie.
            for name in (n for n, feature in config.features.items() if feature.vectors is None):
                rows[f"embed {name}"] = _row(fill_feature(work, name, captions, complete=True)[1])
    return {"store": str(extraction.store), "stages": rows}


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


def verify_stores(folder: Path) -> list[str]:
    """Read every shard below a folder again and compare; one line per problem, none when all is well."""
    stores = stores_below(folder)
    return [f"{name}: {problem}" for name, store in stores.items() for problem in store.verify()]


def hash_stores(folder: Path) -> str:
    """One hash over what all stores below a folder hold, whatever the kills, parts and order of work."""
    return content_hash({name: store.content_hash() for name, store in stores_below(folder).items()})


def _row(result: StageResult) -> dict[str, Any]:
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
