"""Progress on stderr: bars on a terminal, one line every 30 seconds elsewhere, never a word on stdout."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, Self, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID


class Task(Protocol):
    """One task that is watched: called after every step, or told how far it has come."""

    def __call__(self, steps: int = 1) -> None:
        """Count `steps` more as done."""
        ...

    def reach(self, done: int, total: int | None = None) -> None:
        """Set the steps done, and their total if it became known."""
        ...


class Progress:
    """Shows tasks and notes to whoever watches.

    Args:
        stream: where to write; stderr by default.
        every: seconds between two lines of one task where there is no terminal.
    """

    def __init__(self, stream: TextIO | None = None, every: float = 30.0) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._every = every
        self._bars: Bars | None = None

    @contextmanager
    def task(self, name: str, total: int | None = None) -> Iterator[Task]:
        """A task of `total` steps (None where that is unknown)."""
        if not self._stream.isatty():
            yield _Lines(self, name, total, self._every)
            return
        bars = self._open_bars()
        row = bars.add_task(name, total=total)
        try:
            yield _Bar(bars, row)
        finally:
            bars.remove_task(row)

    def note(self, text: str) -> None:
        """One line about what happens now."""
        if self._bars is not None:
            self._bars.console.print(text, markup=False, highlight=False)
        else:
            self._stream.write(text + "\n")
            self._stream.flush()

    def close(self) -> None:
        """Take the bars down."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _open_bars(self) -> Bars:
        if self._bars is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bars

            self._bars = Bars(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=Console(file=self._stream),
                transient=True,
            )
            self._bars.start()
        return self._bars


class _Bar:
    def __init__(self, bars: Bars, row: TaskID) -> None:
        self._bars, self._row = bars, row

    def __call__(self, steps: int = 1) -> None:
        self._bars.advance(self._row, steps)

    def reach(self, done: int, total: int | None = None) -> None:
        self._bars.update(self._row, completed=done, total=total)


class _Lines:
    def __init__(self, progress: Progress, name: str, total: int | None, every: float) -> None:
        self._progress, self._name, self._total, self._every = progress, name, total, every
        self._start = self._last = time.monotonic()
        self._done = 0

    def __call__(self, steps: int = 1) -> None:
        self.reach(self._done + steps)

    def reach(self, done: int, total: int | None = None) -> None:
        self._done, self._total = done, total or self._total
        now = time.monotonic()
        if now - self._last < self._every:
            return
        self._last = now
        rate = done / max(now - self._start, 1e-9)
        of = (
            f" of {self._total:,}, {(self._total - done) / max(rate, 1e-9):,.0f} s left"
            if self._total
            else ""
        )
        self._progress.note(f"{self._name}: {done:,}{of} ({rate:,.1f}/s)")
