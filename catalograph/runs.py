"""The run folder: one lock, one configuration, stages that are whole or absent.

``stage.json`` is written last, after every declared output is on disk, so a stage either lists its outputs
with their hashes or has to be done again. Only declared outputs are results: logs, times, hosts and half-done
shards never enter `content_hash`.

Layout::

    run.json  config.yaml  env.json  inputs.json  LOCK  logs/run.jsonl
    stages/20-embed/  parts.json  ...outputs...  stage.json
    report/index.html
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from catalograph.config import RunConfig, changed_keys
from catalograph.config_keys import differences
from catalograph.doctor import environment
from catalograph.integrity import (
    FORMAT_VERSION,
    content_hash,
    read_json,
    read_sealed,
    read_stage,
    stored_config,
    verify,
    write_json,
    write_sealed,
)
from catalograph.locking import lock_folder
from catalograph.progress import Progress
from catalograph.run_log import RunLog, now
from catalograph.stage_folder import StageFolder
from extract.errors import ResourceExhausted, RunFolderError, UnsafeInput
from extract.store import content_hash as hash_of
from extract.store import hash_file, write_atomic

__all__ = ["Progress", "RunFolder", "StageFolder", "content_hash", "open_run", "stored_config", "verify"]

logger = logging.getLogger(__name__)


class RunFolder:
    """An open run folder; it holds the lock until `close`, which the end of a ``with`` block calls.

    With `read_only`, for a lock that is shared, nothing is written or removed there, not even in the log.
    """

    def __init__(self, path: Path, config: RunConfig, lock: IO[str], *, read_only: bool = False) -> None:
        self.path, self.config, self._lock, self._read_only = path, config, lock, read_only
        known = read_json(path / "inputs.json")
        self._inputs: dict[str, Any] = known if isinstance(known, dict) else {}
        self._log = None if read_only else RunLog(path / "logs" / "run.jsonl")

    @property
    def report_path(self) -> Path:
        """Where the HTML report goes; outside ``stages/``, because a report holds times."""
        return self.path / "report" / "index.html"

    def stage(self, name: str, fingerprint_parts: Mapping[str, Any], *, renew: bool = False) -> StageFolder:
        """The stage `name`, made from `fingerprint_parts` (JSON values: settings, hashes of inputs).

        Args:
            renew: a stage made from other parts is begun anew instead of refused; for what holds no results.

        Raises:
            RunFolderError: R104, the stage was begun or finished from other parts; names what changed.
        """
        folder = self.path / "stages" / name
        stage = StageFolder(folder, name, fingerprint_parts)
        begun = read_json(folder / "parts.json")
        if not isinstance(begun, dict) or (renew and begun != stage.parts):
            if self._read_only:
                return stage
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "stage.json").unlink(missing_ok=True)
            write_json(folder / "parts.json", stage.parts)
        elif begun != stage.parts:
            raise RunFolderError(
                "R104", f"stage {name} was made from other inputs or settings", where=str(folder),
                why="; ".join(_describe(differences(begun, stage.parts))),
                next_step=f"use a new --run-dir, or remove {folder} and the stages that follow from it",
            )  # fmt: skip
        record, problems = read_stage(folder)
        if record is not None and not problems:
            stage.record = record
        elif problems and not self._read_only:
            logger.warning("stage %s is done again: %s", name, problems[0])
            (folder / "stage.json").unlink(missing_ok=True)
        return stage

    def input_hash(self, path: Path) -> str:
        """SHA-256 of an input file or folder, remembered in ``inputs.json`` while sizes and times stay.

        Times only save reading again: a copy whose files have other times is the same input. A folder's is
        that of the names and contents of its files.
        """
        if path.is_dir():
            files = sorted(_files(path))
            stamp: dict[str, Any] = {"stamps": hash_of([f"{_stamp(path / name)} {name}" for name in files])}
        elif path.is_file():
            files, stamp = [], dict(zip(("bytes", "mtime_ns"), _stamp(path), strict=True))
        else:
            raise UnsafeInput("U101", "an input file is missing", where=str(path))
        key = str(path.resolve())
        seen = self._inputs.get(key)
        if not isinstance(seen, dict) or seen != stamp | {"sha256": seen.get("sha256")}:
            content = _folder_hash(path, files) if path.is_dir() else hash_file(path)
            seen = stamp | {"sha256": content}
            self._inputs[key] = seen
            if not self._read_only:
                write_json(self.path / "inputs.json", self._inputs)
        return str(seen["sha256"])

    def came_from(self, folder: Path, content: str, lends: bool) -> None:
        """Write down the run that models or, if it `lends`, stages are taken from, and its hash.

        Raises:
            RunFolderError: R110, a refresh was begun from another.
        """
        run = read_sealed(self.path / "run.json") or {}
        before = run.get("from", {"hash": content})
        if run.get("refreshed") and before["hash"] != content:
            raise RunFolderError(
                "R110", "the refresh was begun from another run", where=str(self.path),
                why=f"from {before['run_dir']} then, from {folder} now", next_step="use a new --run-dir",
            )  # fmt: skip
        source = {"run_dir": str(folder.absolute()), "hash": content, "lends": lends}
        write_sealed(self.path / "run.json", run | {"from": source})

    def log(self, event: str, **fields: Any) -> None:
        """Append one event to ``logs/run.jsonl``."""
        if self._log is not None:
            self._log.event(event, **fields)

    def close(self, outcome: str = "ok", error: BaseException | None = None) -> None:
        """Write the outcome (``ok`` or the name of an exception, and that) and give the lock back."""
        if self._lock.closed:
            return
        if self._log is None:
            self._lock.close()
            return
        try:
            if error is not None:
                self._log.failure(error)
            run = read_sealed(self.path / "run.json") or {}
            write_sealed(self.path / "run.json", run | {"outcome": outcome, "ended_at": now()})
            self.log("end", outcome=outcome)
        finally:
            self._log.close()
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Where the disk is full, the error on its way says so better than one about this record.
        with suppress(ResourceExhausted) if error is not None else nullcontext():
            self.close("ok" if kind is None else kind.__name__, error)


def open_run(folder: Path, config: RunConfig, *, refreshed: bool = False) -> RunFolder:
    """Create or reopen the run folder of `config` and lock it.

    Args:
        folder: of the run.
        config: of the run.
        refreshed: whether `refresh` makes it, whose stages hold something else.

    Raises:
        RunFolderError: R101 locked by another process, R102 made by a configuration that gives other results,
            R103 not a run folder, R105 made by a newer product, R110 made by `refresh` and opened as another
            run, or the other way round.
    """
    folder = folder.absolute()
    _refuse_foreign(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = lock_folder(folder)
    try:
        _match_config(folder, config)
        run = _open_record(folder, refreshed)
        text = config.to_yaml().encode()
        if not (folder / "config.yaml").is_file() or (folder / "config.yaml").read_bytes() != text:
            write_atomic(folder / "config.yaml", text)
        write_json(folder / "env.json", environment())
        run |= {"config_sha256": hash_file(folder / "config.yaml"), "outcome": "running", "pid": os.getpid()}
        write_sealed(folder / "run.json", run)
        opened = RunFolder(folder, config, lock)
    except BaseException:
        lock.close()
        raise
    opened.log("start", pid=os.getpid(), host=socket.gethostname())
    return opened


def _files(root: Path) -> Iterator[str]:
    """Relative name of every file below a folder; a million of them stay small."""
    for folder, _, files in os.walk(root):
        for name in files:
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                yield os.path.relpath(path, root)


def _stamp(path: Path) -> tuple[int, int]:
    """Size in bytes and time in nanoseconds; whoever changes a file within the clock's tick escapes it."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _folder_hash(root: Path, files: Sequence[str]) -> str:
    return hash_of([f"{_content(root / name)} {name}" for name in files])


def _content(path: Path) -> str:
    try:
        return hash_file(path)
    except OSError:
        # One picture that cannot be read is quarantined by the stage; it must not end the run here.
        return "unreadable"


def _refuse_foreign(folder: Path) -> None:
    if not folder.exists() or (folder / "run.json").is_file():
        return
    ours = {"shop", "LOCK", "logs", "config.yaml", "env.json", "inputs.json", "stages", "report"}
    if not folder.is_dir():
        raise RunFolderError("R103", "the run folder's path is a file", where=str(folder))
    foreign = sorted(p.name for p in folder.iterdir() if p.name not in ours and not p.name.startswith("."))
    # A process killed between the lock and run.json leaves only our own names: that folder may be taken over.
    if foreign and not any("tmp" in name for name in foreign):
        raise RunFolderError(
            "R103", "the folder exists and is not a run folder", where=str(folder),
            why=f"it has no run.json and holds {', '.join(foreign[:3])}",
            next_step="choose another --run-dir",
        )  # fmt: skip


def _match_config(folder: Path, config: RunConfig) -> None:
    if not (folder / "config.yaml").is_file():
        return
    changed = changed_keys(stored_config(folder), config)
    if changed:
        raise RunFolderError(
            "R102",
            f"the run folder was made by another configuration ({len(changed)} keys differ)",
            where=str(folder),
            why="; ".join(_describe(changed)),
            next_step="use a new --run-dir, or set these keys back",
        )


def _open_record(folder: Path, refreshed: bool) -> dict[str, Any]:
    run = read_sealed(folder / "run.json") or {
        "format_version": FORMAT_VERSION,
        "catalograph": environment()["catalograph"],
        "created_at": now(),
        **({"refreshed": True} if refreshed else {}),
    }
    if bool(run.get("refreshed")) != refreshed:
        raise RunFolderError(
            "R110", f"the run folder was {'not ' if refreshed else ''}made by refresh", where=str(folder),
            next_step="give refresh a new --run-dir, and the other verbs the run it started --from",
        )  # fmt: skip
    version = run.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise RunFolderError(
            "R105", "the run folder was made by a newer catalograph", where=str(folder),
            why=f"format {version}, this version reads up to {FORMAT_VERSION}",
            next_step="upgrade catalograph, or use a new --run-dir",
        )  # fmt: skip
    return run


def _describe(changed: Mapping[str, tuple[Any, Any]], most: int = 20) -> list[str]:
    lines = [
        f"{key}: {_short(old)} before, {_short(new)} now" for key, (old, new) in list(changed.items())[:most]
    ]
    return lines + ([f"and {len(changed) - most} more"] if len(changed) > most else [])


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
