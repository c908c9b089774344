"""Run folders from outside: what state each is in, what it holds, and what of it nobody needs any more."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from catalograph.config import RunConfig
from catalograph.integrity import content_hash, read_json, read_sealed, read_stage, require_run, stored_config
from catalograph.locking import lock_folder
from catalograph.stages import STAGES
from extract.errors import CatalographError, RunFolderError

NOT_REFRESHED = ("evaluate", "report")
"""Stages that a refreshed run does not have."""
TAIL = 1 << 18
"""Bytes of a log that are looked at for its last failure."""
HALF = re.compile(r"\.(.+)\.(\d+)\.tmp")
"""Name of a file or folder that a process, its number before the end, had not finished."""
RECORDS = ("run.json", "config.yaml", "env.json", "inputs.json")


@dataclass(frozen=True)
class RunState:
    """One run folder."""

    folder: Path
    state: str
    """finished, running, partial (asked for some stages only), interrupted, failed or damaged."""
    detail: str
    """Who works there, which stage is next, or why it failed."""
    done: tuple[str, ...]
    """Stages that are finished."""
    wanted: tuple[str, ...]
    """Stages of a whole run; empty where the configuration cannot be read."""
    created_at: str = ""
    ended_at: str = ""

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        return asdict(self) | {"folder": str(self.folder)}


@dataclass(frozen=True)
class Begun:
    """How a run was begun."""

    come_from: Path | None
    refreshed: bool
    full: bool


def states_below(folder: Path) -> list[RunState]:
    """The state of every run folder below a folder, by path."""
    return [state_of(path) for path in _runs_below(folder)]


def state_of(folder: Path) -> RunState:
    """The state of one run folder; nothing is written."""
    run = read_sealed(folder / "run.json")
    wanted = _wanted(folder, bool(run and run.get("refreshed")))
    done = tuple(name for name in STAGES if _is_done(folder, name))
    times = {key: str((run or {}).get(key, "")) for key in ("created_at", "ended_at")}

    def found(state: str, detail: str) -> RunState:
        return RunState(folder, state, detail, done, wanted, **times)

    if (holder := _holder(folder)) is not None:
        since = holder.get("since", "?")
        return found(
            "running", f"process {holder.get('pid', '?')} on {holder.get('host', '?')} since {since}"
        )
    if run is None:
        return found("damaged", "run.json is changed or unreadable")
    missing = [name for name in wanted if name not in done]
    outcome = str(run.get("outcome", ""))
    if outcome == "ok":
        return found("partial", f"next: {missing[0]}") if missing else found("finished", "")
    if outcome in ("running", "KeyboardInterrupt", "SystemExit"):
        return found("interrupted", f"at {missing[0]}" if missing else "at the end")
    return found("failed", f"{missing[0] + ': ' if missing else ''}{_reason(folder) or outcome}")


def as_line(state: RunState) -> str:
    """One run in one line."""
    count = f"{len(set(state.done) & set(state.wanted))}/{len(state.wanted)}" if state.wanted else "?"
    return f"{state.state:<11} {count:>5}  {state.created_at:<20}  {state.folder}  {state.detail}".rstrip()


def details(folder: Path) -> dict[str, Any]:
    """All that `runs show` tells: state, stages with times and sizes, hash, origin.

    Raises:
        RunFolderError: R103, not a run folder.
    """
    require_run(folder)
    run, state = read_sealed(folder / "run.json") or {}, state_of(folder)
    try:
        digest: str | None = content_hash(folder)
    except CatalographError:
        digest = None
    rows = {}
    for name, stage in STAGES.items():
        own = folder / "stages" / stage.folder
        if own.is_dir():
            record, problems = read_stage(own)
            rows[name] = {
                "state": "damaged" if problems else "begun" if record is None else "finished",
                "seconds": (record or {}).get("seconds"),
                "finished_at": (record or {}).get("finished_at"),
                "counts": (record or {}).get("counts", {}),
                "result_bytes": sum(row["bytes"] for row in (record or {}).get("outputs", ())),
                "disk_bytes": _size(own),
            }
    return {
        **state.to_json(), "hash": digest, "catalograph": run.get("catalograph"),
        "from": run.get("from"), "refreshed": bool(run.get("refreshed")), "stages": rows,
        "disk_bytes": _size(folder),
    }  # fmt: skip


def described(found: Mapping[str, Any]) -> str:
    """`details` in lines."""
    source = found["from"]
    lines = [
        f"{found['folder']}: {found['state']} {found['detail']}".rstrip(),
        f"created {found['created_at']}, ended {found['ended_at']}, catalograph {found['catalograph']}",
        f"hash {found['hash']}",
        *([f"{'refreshed ' if found['refreshed'] else ''}from {source['run_dir']}"] if source else []),
    ]
    for name, row in found["stages"].items():
        seconds = "" if row["seconds"] is None else f"{row['seconds']:,.1f} s"
        sizes = f"{row['result_bytes'] / 2**20:,.1f} MB of results, {row['disk_bytes'] / 2**20:,.1f} on disk"
        lines.append(f"  {name:<10} {row['state']:<9} {seconds:>12}  {sizes}")
    return "\n".join(lines)


def begun(folder: Path) -> Begun:
    """How a run was begun, so that it can go on; a run it came from that is gone is needed no more.

    Raises:
        RunFolderError: R103, not a run folder.
    """
    require_run(folder)
    run = read_sealed(folder / "run.json") or {}
    source = run.get("from")
    refreshed = bool(run.get("refreshed"))
    if source is None or not (refreshed or Path(source["run_dir"]).is_dir()):
        return Begun(None, refreshed, False)
    return Begun(Path(source["run_dir"]), refreshed, not source["lends"])


def garbage(below: Path, *, delete: bool = False) -> list[dict[str, Any]]:
    """What no result, no resume and no refresh needs, of runs that nobody works in: path, bytes, why."""
    rows: list[dict[str, Any]] = []

    def told(path: Path, why: str) -> dict[str, Any]:
        return {"path": str(path), "bytes": _size(path), "why": why}

    for folder in _runs_below(below):
        if not delete:
            # Without a lock: who only looks must not stop a run that starts meanwhile.
            rows += [told(*found) for found in _unneeded(folder)] if _holder(folder) is None else []
            continue
        try:
            with lock_folder(folder):
                for path, why in _unneeded(folder):
                    rows.append(told(path, why))
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        except RunFolderError:
            continue
    return rows


def _unneeded(folder: Path) -> Iterator[tuple[Path, str]]:
    for name, stage in STAGES.items():
        checkpoints = folder / "stages" / stage.folder / "checkpoints"
        if checkpoints.is_dir() and not checkpoints.is_symlink() and _is_done(folder, name):
            yield checkpoints, f"checkpoints, and {name} is finished"
    why = "unfinished, left by a run that was killed"
    for name in sorted(os.listdir(folder)):
        if _is_left(name) and name[1:].rsplit(".", 2)[0] in RECORDS:
            yield folder / name, why
    # An export or a store that somebody keeps beside these is none of ours, and may be in use.
    for own in ("stages", "logs", "report"):
        for parent, folders, files in os.walk(folder / own):
            left = [name for name in (*folders, *files) if _is_left(name)]
            folders[:] = [name for name in folders if not HALF.fullmatch(name) and name != "checkpoints"]
            for name in sorted(left):
                yield Path(parent, name), why


def _is_left(name: str) -> bool:
    """Whether a name is of something unfinished whose process is gone."""
    half = HALF.fullmatch(name)
    if half is None:
        return False
    try:
        os.kill(int(half[2]), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False  # Another user's, and alive.
    return False


def _runs_below(folder: Path) -> list[Path]:
    """Folders that hold a run.json, themselves no part of another run."""
    found = []
    for parent, folders, files in os.walk(folder):
        if "run.json" in files and "LOCK" in files:
            found.append(Path(parent))
            folders.clear()
    return sorted(found)


def _holder(folder: Path) -> dict[str, Any] | None:
    """Who holds the lock of a folder, as far as it is known; None where it is free."""
    try:
        with (folder / "LOCK").open(encoding="utf-8") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                known = read_json(folder / "LOCK")
                return known if isinstance(known, dict) else {}
    except OSError:
        return None
    return None


def _wanted(folder: Path, refreshed: bool) -> tuple[str, ...]:
    try:
        config = RunConfig.model_validate(stored_config(folder))
    except (OSError, ValueError, TypeError):
        return ()
    names = [name for name, stage in STAGES.items() if stage.wanted(config)]
    return tuple(name for name in names if not (refreshed and name in NOT_REFRESHED))


def _is_done(folder: Path, name: str) -> bool:
    record, problems = read_stage(folder / "stages" / STAGES[name].folder)
    return record is not None and not problems


def _reason(folder: Path) -> str:
    """The first line of the last failure in the log."""
    try:
        with (folder / "logs" / "run.jsonl").open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL))
            lines = log.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    for line in reversed(lines):
        if '"event": "failure"' in line:
            try:
                return str(json.loads(line)["message"]).partition("\n")[0]
            except (ValueError, KeyError):
                return ""
    return ""


def _size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if path.is_symlink() or not path.is_dir():
        with suppress(FileNotFoundError):
            return path.lstat().st_size
        return 0
    sizes = 0
    for parent, _, files in os.walk(path):
        for name in files:
            with suppress(FileNotFoundError):  # Nobody is kept from working there meanwhile.
                sizes += os.lstat(os.path.join(parent, name)).st_size
    return sizes
