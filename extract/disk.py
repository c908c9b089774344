"""Disk primitives: content hashes, and files that are written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from extract.errors import ResourceExhausted, UnsafeInput

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def canonical_json(value: Any) -> bytes:
    """The one JSON spelling of a value: sorted keys, no spaces, ASCII; NaN is a ValueError."""
    return _ENCODER.encode(value).encode()


def content_hash(value: Any) -> str:
    """sha256 (hex) of bytes as they are, of anything else by its canonical JSON."""
    return hashlib.sha256(value if isinstance(value, bytes) else canonical_json(value)).hexdigest()


def fingerprint(**parts: Any) -> str:
    """sha256 (hex) of everything that decides an artefact, given as named JSON values."""
    return content_hash(parts)


def hash_file(path: Path) -> str:
    """sha256 (hex) of a file's bytes, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def bucket_of(item_id: str, buckets: int) -> int:
    """The bucket (0 to buckets - 1) of an item id; the same on every machine and Python."""
    return int.from_bytes(hashlib.sha256(item_id.encode()).digest()[:8], "big") % buckets


def sync_folder(folder: Path) -> None:
    """fsync a folder, so that a rename inside it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def half_of(path: Path) -> Path:
    """The name that a file or folder has until it is whole: beside it, hidden, with this process's number."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill that appears whole or not at all; what is yielded is its place until then.

    Raises:
        UnsafeInput: U407, there is one.
    """
    if folder.exists():
        raise UnsafeInput("U407", "the folder exists", where=str(folder), next_step="name a new one")
    half = half_of(folder)
    half.mkdir(parents=True)
    try:
        yield half
        os.rename(half, folder)
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        raise
    sync_folder(folder.parent)


@contextmanager
def atomic_file(path: Path, size: int = 0) -> Iterator[BinaryIO]:
    """A file to write that appears whole or not at all: temporary name, fsync, rename, fsync the folder.

    Args:
        path: where the file is after the block ends without an error.
        size: bytes that will be written, for the message if there is no room.

    Raises:
        ResourceExhausted: the disk, the quota or the file size limit is full; the old file stands untouched.
    """
    temporary = half_of(path)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        taken = temporary.stat().st_size if temporary.exists() else 0
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise disk_error(error, path, size, taken) from error
        raise
    os.replace(temporary, path)
    sync_folder(path.parent)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, as `atomic_file`."""
    with atomic_file(path, len(data)) as file:
        file.write(data)


def disk_error(error: OSError, path: Path, size: int, taken: int = 0) -> Exception:
    """ResourceExhausted if the error says that a disk, a quota or a size limit is full, else the error.

    Args:
        error: what a write raised.
        path: what was written.
        size: bytes that were to be written, 0 where nobody knows.
        taken: bytes that the disk took before it was full.
    """
    if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return error
    return ResourceExhausted(
        "R601",
        f"no room to write {f'{size:,}' if size else f'more than {taken:,}'} bytes",
        where=str(path),
        why=f"{error.strerror}; {_free(path)} bytes are free",
        next_step="free space, then run the same command again: what is committed is kept",
    )


def need_room(path: Path, size: int) -> None:
    """Raise ResourceExhausted R601 where a library is about to write more than there is room for."""
    if shutil.disk_usage(path).free < size:
        raise disk_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), path, size)


def _free(path: Path) -> str:
    there = next((folder for folder in path.absolute().parents if folder.exists()), Path("/"))
    try:
        return f"{shutil.disk_usage(there).free:,}"
    except OSError:
        return "an unknown number of"
