"""One stage of a run folder: what it was made from, what it declared, whether it is done."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from catalograph.integrity import FORMAT_VERSION, path_hashes, write_sealed
from catalograph.run_log import now
from extract.store import content_hash as hash_of
from extract.store import fingerprint, hash_file


class StageFolder:
    """One stage of a run: its folder, whether it is done, and the way to finish it.

    Obtained from `RunFolder.stage`; ``done`` is decided there, once.
    """

    def __init__(self, folder: Path, name: str, parts: Mapping[str, Any]) -> None:
        self.folder, self.name = folder, name
        self.parts = json.loads(json.dumps(parts, allow_nan=False))
        self.fingerprint = fingerprint(**self.parts)
        self.record: Mapping[str, Any] = {}
        """What ``stage.json`` holds; empty until the stage is done."""

    @property
    def done(self) -> bool:
        """Whether the stage is finished: `finish` was called, now or in an earlier process."""
        return bool(self.record)

    @property
    def hash(self) -> str:
        """Identity of the outputs, independent of when, where and in what order they were made."""
        if not self.done:
            raise ValueError(f"stage {self.name} is not done, so it has no content hash")
        return hash_of(path_hashes(self.record))

    @property
    def counts(self) -> Mapping[str, int]:
        """The counts given to `finish`."""
        return dict(self.record.get("counts", {}))

    @property
    def seconds(self) -> float:
        """The seconds given to `finish`."""
        return float(self.record.get("seconds", 0.0))

    @property
    def peak_mib(self) -> float | None:
        """The peak memory given to `finish`, in MiB."""
        peak = self.record.get("peak_mib")
        return None if peak is None else float(peak)

    @property
    def n_bytes(self) -> int:
        """Size of all declared outputs."""
        return sum(int(row["bytes"]) for row in self.record.get("outputs", ()))

    def output(self, name: str) -> Path:
        """The path of one output, relative name `name`; its parent folder exists afterwards."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def reopen(self) -> None:
        """Make a finished stage an unfinished one, before its outputs are written again."""
        (self.folder / "stage.json").unlink(missing_ok=True)
        self.record = {}

    def finish(
        self,
        outputs: Iterable[str | Path],
        counts: Mapping[str, int] | None = None,
        seconds: float = 0.0,
        peak_mib: float | None = None,
    ) -> None:
        """Hash the declared outputs and write ``stage.json``, which makes the stage done.

        Args:
            outputs: files relative to the stage folder; a folder stands for all files below it.
            counts: for the report, such as ``{"in": 1000, "ok": 990, "quarantined": 10}``.
            seconds: work done for this stage, over all processes that worked on it if the caller knows.
            peak_mib: the most memory that the process had held by then; None if nobody looked.
        """
        files = sorted({name for given in outputs for name in _files_below(self.folder, Path(given))})
        rows = [
            {
                "path": name,
                "bytes": (self.folder / name).stat().st_size,
                "sha256": hash_file(self.folder / name),
            }
            for name in files
        ]
        record = {
            "format_version": FORMAT_VERSION,
            "stage": self.name,
            "fingerprint": self.fingerprint,
            "parts": self.parts,
            "outputs": rows,
            "counts": dict(counts or {}),
            "seconds": round(float(seconds), 3),
            "peak_mib": None if peak_mib is None else round(peak_mib, 1),
            "finished_at": now(),
        }
        write_sealed(self.folder / "stage.json", record)
        self.record = record


def _files_below(folder: Path, given: Path) -> list[str]:
    path = folder / given
    if given.is_absolute() or ".." in given.parts:
        raise ValueError(f"output {given} does not lie inside {folder}")
    if path.is_file():
        return [given.as_posix()]
    if not path.is_dir():
        raise ValueError(f"declared output {given} does not exist in {folder}")
    return [p.relative_to(folder).as_posix() for p in path.rglob("*") if p.is_file() and ".tmp" not in p.name]
