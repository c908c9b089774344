"""What a run folder's records say and whether the files still match."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from extract.errors import InvalidData, RunFolderError
from extract.store import content_hash as hash_of
from extract.store import hash_file, write_atomic

FORMAT_VERSION = 1
"""Raised when an older product could misread the folder; older folders stay readable."""

_SEAL = "sealed_sha256"


def stored_config(folder: Path) -> Mapping[str, Any]:
    """The configuration a run folder was made by, as it stands in ``config.yaml``.

    A folder whose first process was killed early has one and no ``run.json`` yet.

    Raises:
        RunFolderError: R108, it cannot be read.
    """
    path = folder / "config.yaml"
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no keys")
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise RunFolderError(
            "R108",
            "the configuration in the run folder cannot be read",
            where=str(path),
            why=str(error).partition("\n")[0],
            next_step="use a new --run-dir, or bring the file back from a copy",
        ) from error
    return found


def content_hash(folder: Path) -> str:
    """One hash over the declared outputs of all finished stages; no times, hosts or logs."""
    require_run(folder)
    rows: dict[str, str] = {}
    for stage in stage_folders(folder):
        record, problems = read_stage(stage)
        if problems:
            raise InvalidData(
                "D113",
                f"stage {stage.name} does not match its record",
                where=str(stage),
                why=problems[0],
                next_step=f"catalograph verify --run-dir {folder}",
            )
        for path, digest in path_hashes(record or {}):
            rows[f"{stage.name}/{path}"] = digest
    return hash_of(sorted(rows.items()))


def verify(folder: Path) -> list[str]:
    """Read every declared output again and compare; one sentence per problem, none when all is well.

    Stages that were begun and not finished are no problem: the next run finishes them.
    """
    require_run(folder)
    problems = []
    run = read_sealed(folder / "run.json")
    if run is None:
        problems.append("run.json: changed or unreadable")
    elif hash_file(folder / "config.yaml") != run.get("config_sha256"):
        problems.append("config.yaml: changed after it was written")
    for stage in stage_folders(folder):
        record, found = read_stage(stage)
        problems += [f"{stage.name}/{problem}" for problem in found]
        for row in record["outputs"] if record else ():
            path = stage / row["path"]
            if path.is_file() and path.stat().st_size == row["bytes"] and hash_file(path) != row["sha256"]:
                problems.append(f"{stage.name}/{row['path']}: content differs from its recorded hash")
    return problems


def require_run(folder: Path) -> None:
    """Raise RunFolderError R103 unless `folder` is a run folder."""
    if not (folder / "run.json").is_file():
        raise RunFolderError(
            "R103",
            "not a run folder",
            where=str(folder),
            why="it has no run.json",
            next_step="check --run-dir",
        )


def read_stage(folder: Path) -> tuple[Mapping[str, Any] | None, list[str]]:
    """The record of a stage and what is wrong with it by existence and size.

    A stage that is not finished has neither: ``(None, [])``.
    """
    if not (folder / "stage.json").is_file():
        return None, []
    record = read_sealed(folder / "stage.json")
    if record is None or not _is_record(record):
        return None, ["stage.json: changed or unreadable"]
    problems = []
    for row in record["outputs"]:
        path = folder / row["path"]
        if not path.is_file():
            problems.append(f"{row['path']}: missing")
        elif path.stat().st_size != row["bytes"]:
            problems.append(f"{row['path']}: {path.stat().st_size:,} bytes, recorded {row['bytes']:,}")
    return record, problems


def _is_record(record: Mapping[str, Any]) -> bool:
    """Whether a record has the form of a stage's: whoever has the file can renew its seal."""
    rows, counts = record.get("outputs"), record.get("counts", {})
    if not isinstance(rows, list) or not isinstance(counts, dict):
        return False
    numbers = (record.get("seconds", 0.0), *counts.values())
    return all(isinstance(n, int | float) for n in numbers) and all(
        isinstance(row, dict)
        and [type(row.get(key)) for key in ("path", "bytes", "sha256")] == [str, int, str]
        and "\0" not in row["path"]
        and not Path(row["path"]).is_absolute()
        and ".." not in Path(row["path"]).parts
        for row in rows
    )


def path_hashes(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(path, sha256) of a stage's declared outputs, sorted by path."""
    return sorted((row["path"], row["sha256"]) for row in record.get("outputs", ()))


def stage_folders(folder: Path) -> list[Path]:
    """The stage folders of a run, by name."""
    return sorted(p for p in (folder / "stages").glob("*") if p.is_dir())


def read_json(path: Path) -> Any:
    """The JSON in a file, or None where there is none that can be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN is refused, because JSON has none."""
    text = json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True, allow_nan=False, default=str)
    # Half letters, which a damaged record may hold, have no UTF-8: they stay the escapes that they were.
    halves = re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half.group()):04x}", text)
    write_atomic(path, halves.encode() + b"\n")


def write_sealed(path: Path, record: Mapping[str, Any]) -> None:
    """Write a JSON object with a hash of itself, so that a flipped bit in the record is seen as well."""
    plain = json.loads(json.dumps(record, default=str))
    write_json(path, plain | {_SEAL: hash_of(plain)})


def read_sealed(path: Path) -> dict[str, Any] | None:
    """The object written by `write_sealed`, or None where it is absent, unreadable or changed."""
    record = read_json(path)
    try:
        whole = isinstance(record, dict) and record.pop(_SEAL, None) == hash_of(record)
    except ValueError:  # A number that JSON does not have.
        whole = False
    return record if whole else None
