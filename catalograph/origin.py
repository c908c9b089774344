"""A finished run that another one comes from: read by its records, lent from, never written to.

Its inputs need not exist any more, and may be other ones by now: stages are told apart by what they were made
from, as their records say.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from catalograph.config import RunConfig
from catalograph.integrity import content_hash, path_hashes, read_stage, require_run, stored_config
from catalograph.locking import lock_folder
from catalograph.progress import Progress
from catalograph.road import KEPT, SHARDS, Finished
from catalograph.stage_folder import StageFolder
from catalograph.stages import STAGES
from extract.disk import half_of
from extract.errors import InvalidData, MissingPrerequisite
from extract.store import ShardStore, canonical_json, fingerprint, hash_file, write_atomic

logger = logging.getLogger(__name__)

READ = ("prepare", "train", "recommend", "finetune")
"""Stages that a refresh goes on from."""


class Origin(Finished):
    """The finished stages of a run folder; files are lent as hard links where the file system has them.

    Every writer of this package replaces files and never changes them, so a link is as good as a copy.
    """

    def __init__(self, folder: Path, progress: Progress, *, lends: bool = True) -> None:
        require_run(folder)
        self.folder, self.lends = folder, lends
        stages = {}
        for name, stage in STAGES.items():
            record, problems = read_stage(folder / "stages" / stage.folder)
            if record is not None and not problems:
                stages[name] = StageFolder(folder / "stages" / stage.folder, name, record["parts"])
                stages[name].record = record
        super().__init__(RunConfig.model_validate(stored_config(folder)), progress, None, stages)

    @classmethod
    @contextmanager
    def opened(cls, folder: Path, progress: Progress, *, lends: bool = True) -> Iterator[Self]:
        """The run, while nobody works in it.

        Raises:
            RunFolderError: R101, somebody does; R103, it is no run folder.
        """
        require_run(folder)
        with lock_folder(folder, shared=True):
            yield cls(folder, progress, lends=lends)

    def path(self, stage: str, name: str) -> Path:
        """A file of a stage; unlike in a run on its way, no folder is made for it."""
        return self.stage(stage).folder / name

    @property
    def hash(self) -> str:
        """What tells this run from another: its content; where it lends nothing, that of the stages read."""
        if self.lends:
            return content_hash(self.folder)
        return fingerprint(**{name: self.hash_of(name) for name in READ if self.is_done(name)})

    def need(self, names: Iterable[str]) -> None:
        """Raise MissingPrerequisite P102 for the first of these stages that is not done."""
        for name in names:
            if not self.is_done(name):
                raise MissingPrerequisite(
                    "P102",
                    f"the stage {name} of this run is not done",
                    where=str(self.folder),
                    next_step=f"run `catalograph {name} --run-dir {self.folder}` first",
                )

    def lend(self, name: str, to: StageFolder, other: Finished) -> bool:
        """Makes a stage of another run done with the outputs of this one, if both are made from the same.

        A stage's parts are what may change inside one run folder. Here all else may have changed too: the
        stages below, however far, and the device.
        """
        if not (self.lends and self.is_done(name)) or self.stage(name).parts != to.parts:
            return False
        if name != "prepare" and self.config.device != other.config.device:
            return False
        if any(self.hash_of(below) != other.hash_of(below) for below in _below(name)):
            return False
        own = self.stage(name)
        paths = [path for path, _ in path_hashes(own.record)]
        for path in paths:
            _link(own.folder / path, to.output(path))
        for folder in (SHARDS, KEPT):
            _link_tree(own.folder / folder, to.folder / folder)
        to.finish(paths, own.counts)
        if to.hash != own.hash:
            logger.warning("stage %s of %s is damaged, and done again here", name, self.folder)
            for path in paths:
                to.output(path).unlink(missing_ok=True)
            to.reopen()
        return to.done

    def carry(self, name: str, to: StageFolder) -> list[str]:
        """Links the outputs of a stage into that of another run; their paths.

        Raises:
            InvalidData: D113, one is not what was recorded.
        """
        rows = path_hashes(self.stage(name).record)
        for path, digest in rows:
            _link(self.stage(name).folder / path, to.output(path))
            self._check(name, path, digest, to.folder / path)
        return [path for path, _ in rows]

    def check(self, name: str, *paths: str) -> None:
        """Raise InvalidData D113 for the first of these outputs of a stage that is not what was recorded.

        Without paths, all outputs are meant; one that the stage never declared raises as well.
        """
        recorded = dict(path_hashes(self.stage(name).record))
        for path in paths or recorded:
            self._check(name, path, recorded.get(path), self.stage(name).folder / path)

    def _check(self, name: str, path: str, digest: str | None, copy: Path) -> None:
        if digest is None or hash_file(copy) != digest:
            raise InvalidData(
                "D113",
                f"stage {name} does not match its record",
                where=str(self.stage(name).folder / path),
                next_step=f"catalograph verify --run-dir {self.folder}",
            )

    def seed(self, stage: str, feature: str, shelf: Path, parts: Mapping[str, Any]) -> None:
        """Begins a shard store with the shards that this run has of the same settings."""
        if not self.lends or stage not in self._stages or shelf.exists():
            return
        source = self.stage(stage).folder / SHARDS / feature
        if not (source / "store.json").is_file():
            return
        store = ShardStore.open(source)
        if canonical_json(store.parts) == canonical_json(dict(parts)):
            _link_tree(source, shelf)


def _below(name: str) -> set[str]:
    """The stages that a stage needs, and those that they need."""
    needs = set(STAGES[name].needs)
    return needs.union(*map(_below, needs))


def _link_tree(source: Path, target: Path) -> None:
    """All of a folder under another name, whole or absent."""
    if not source.is_dir() or target.exists():
        return
    part = half_of(target)
    shutil.rmtree(part, ignore_errors=True)
    for folder, _, files in os.walk(source):
        own = part / os.path.relpath(folder, source)
        own.mkdir(parents=True, exist_ok=True)
        for name in files:
            # A manifest grows in place, so it must not be the same file.
            if name == "manifest.jsonl":
                write_atomic(own / name, (Path(folder) / name).read_bytes())
            elif ".tmp" not in name:
                _link(Path(folder) / name, own / name)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(part, target)


def _link(source: Path, target: Path) -> None:
    part = half_of(target)
    part.unlink(missing_ok=True)
    try:
        os.link(source, part)
    except OSError:
        shutil.copyfile(source, part)
    os.replace(part, target)
