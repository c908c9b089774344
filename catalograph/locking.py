"""Locks of folders: one process works in a run folder or a store, and who comes second learns who does."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from pathlib import Path
from typing import IO

from catalograph.run_log import now
from extract.errors import RunFolderError


def lock_folder(folder: Path, name: str = "LOCK", *, shared: bool = False) -> IO[str]:
    """A lock file, locked; flock and not a pid file, because the kernel gives it back after kill -9.

    Args:
        folder: where the file is.
        name: of the file.
        shared: others may hold it too, if they share as well.

    Raises:
        RunFolderError: R101, another process holds it.
    """
    handle = (folder / name).open("a+", encoding="utf-8")
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        handle.seek(0)
        try:
            holder = json.loads(handle.read())
        except ValueError:
            holder = {}
        handle.close()
        raise RunFolderError(
            "R101",
            "the folder is in use by another process",
            where=str(folder),
            why=f"process {holder.get('pid', '?')} on host {holder.get('host', '?')} "
            f"holds the lock since {holder.get('since', '?')}",
            next_step="wait for it to end, stop it, or use another folder",
        ) from error
    if not shared:
        handle.seek(0)
        handle.truncate()
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": now()}, handle)
        handle.flush()
    return handle
