"""The manifest of a shard store: one checked line per committed shard, appended, never edited."""

from __future__ import annotations

import fcntl
import json
import os
import re
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

from extract.disk import canonical_json, content_hash, disk_error, sync_folder

_SHARD_FILE = re.compile(r"|shards/[0-9]+\.[a-z]+")


@dataclass(frozen=True, slots=True)
class BadRow:
    """One quarantined item: which, at which stage, a short stable reason, and what was found."""

    item_id: str
    stage: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ShardRow:
    """One line of the manifest. ``n_in = n_ok + n_bad``; ``n_absent`` (nothing to do) is part of ``n_ok``."""

    shard: int
    n_in: int
    n_ok: int
    n_absent: int
    n_bad: int
    input_sha256: str
    data: str
    data_sha256: str
    n_bytes: int
    bad: tuple[BadRow, ...] = ()

    @property
    def reconciles(self) -> bool:
        """Whether the counts agree with each other and with the quarantined rows."""
        return (
            self.n_in == self.n_ok + self.n_bad
            and self.n_bad == len(self.bad)
            and 0 <= self.n_absent <= self.n_ok
        )

    def line(self) -> bytes:
        """The row as a manifest line that carries its own checksum."""
        fields = asdict(self)
        return canonical_json({**fields, "check": content_hash(fields)}) + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> ShardRow | None:
        """The row of a manifest line, or None if the line is torn, damaged, or has not the form of a row.

        A checksum is no signature: whoever can write the line can make it. So a row can name a file of the
        store's shards and nothing else.
        """
        try:
            fields = json.loads(line)
            if fields.pop("check") != content_hash(fields):
                return None
            row = cls(**{**fields, "bad": tuple(BadRow(**bad) for bad in fields["bad"])})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
        numbers = (row.shard, row.n_in, row.n_ok, row.n_absent, row.n_bad, row.n_bytes)
        texts = (row.input_sha256, row.data, row.data_sha256, *(t for bad in row.bad for t in astuple(bad)))
        formed = all(type(n) is int and n >= 0 for n in numbers) and all(isinstance(t, str) for t in texts)
        return row if formed and _SHARD_FILE.fullmatch(row.data) else None


class Manifest:
    """An append-only file of `ShardRow` lines; torn ones do not count, and a shard's last one wins."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> dict[int, ShardRow]:
        """Shard -> its last whole row, in shard order."""
        parsed = (ShardRow.from_line(line) for line in self._lines())
        return dict(sorted({row.shard: row for row in parsed if row is not None}.items()))

    def damaged_lines(self, *, torn_tail_too: bool) -> list[int]:
        """Numbers (from 1) of the lines that are no whole row; a torn last line is what a kill leaves."""
        lines = self._lines()
        bad = [number for number, line in enumerate(lines, start=1) if ShardRow.from_line(line) is None]
        torn = bool(lines) and not lines[-1].endswith(b"\n") and not torn_tail_too
        return [number for number in bad if not (torn and number == len(lines))]

    def append(self, row: ShardRow) -> None:
        """Add one row durably, after cutting off a torn last line.

        Raises:
            ResourceExhausted: the disk is full; what was there stays valid.
        """
        created = not self.path.exists()
        with self.path.open("ab+") as file:
            # The lock makes it safe to cut a torn tail: nobody else can be in the middle of a line.
            fcntl.flock(file, fcntl.LOCK_EX)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            if file.read() not in {b"", b"\n"}:
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
            try:
                file.write(row.line())
                file.flush()
                os.fsync(file.fileno())
            except OSError as error:
                raise disk_error(error, self.path, len(row.line())) from error
        if created:
            sync_folder(self.path.parent)

    def _lines(self) -> list[bytes]:
        return self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
