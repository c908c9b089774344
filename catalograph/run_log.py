"""The run's log: one JSON object per line, times in UTC, appended by one process at a time."""

from __future__ import annotations

import json
import logging
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from extract.disk import disk_error
from extract.errors import ResourceExhausted

_PACKAGES = ("extract", "recsys", "rerank", "catalograph")


def now() -> str:
    """The time in UTC to the second, ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class RunLog(logging.Handler):
    """Writes events, and what our four packages log while it is open, to a JSON-lines file."""

    def __init__(self, path: Path) -> None:
        super().__init__(logging.INFO)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = path.open("a", encoding="utf-8", errors="backslashreplace")
        for name in _PACKAGES:
            logging.getLogger(name).addHandler(self)

    def event(self, event: str, **fields: Any) -> None:
        """Append one event with its fields."""
        row = {"time": now(), "event": event} | fields
        text = json.dumps(row, ensure_ascii=False, default=str) + "\n"
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            raise disk_error(error, self._path, len(text)) from error

    def emit(self, record: logging.LogRecord) -> None:
        """Append a log record; called by `logging`."""
        # A line of the log is not worth a run: on a full disk, what the stage writes tells of it.
        try:
            self.event("log", level=record.levelname, logger=record.name, message=record.getMessage())
        except ResourceExhausted:
            pass
        except Exception:
            self.handleError(record)

    def failure(self, error: BaseException) -> None:
        """Append an exception with its traceback: the terminal shows that only with ``-v``."""
        trace = "".join(traceback.format_exception(error))
        self.event("failure", kind=type(error).__name__, message=str(error), traceback=trace)

    def close(self) -> None:
        """Detach from the loggers and close the file."""
        for name in _PACKAGES:
            logging.getLogger(name).removeHandler(self)
        with suppress(OSError):  # What a full disk refused before is tried once more here.
            self._file.close()
        super().close()
