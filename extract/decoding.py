"""Decoding pictures in processes of their own: ahead of the model, and where a decoder may crash or hang.

A picture that kills its decoder is tried once more in a fresh one, because the kernel or an operator may have
killed it for no fault of the picture's; then it alone is refused. Results come in the order asked for,
whatever the number of processes, so that number decides no output.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Protocol

from PIL import Image

from extract.decoder_process import DecoderDied, DecoderOrigin, DecoderProcess, OriginGone
from extract.decoder_worker import TOO_MUCH_MEMORY
from extract.errors import MissingPrerequisite
from extract.picture_fit import PictureFit
from extract.pictures import BadPicture, PictureLimits, decode_picture

MOST_PROCESSES = 8
WALL_PER_CPU = 12
"""A decoder may take this many times its CPU limit by the clock: on a busy core it gets a tenth, ..."""
WALL_SPARE = 30.0
"""... and these seconds."""


FitOf = Callable[[], PictureFit | None]
"""Asked when the first picture is decoded: the model that says what it takes is then loaded anyway."""


def no_fit() -> None:
    """Pictures stay as large as they are."""


class Decoder(Protocol):
    """Decodes pictures, at once or ahead of need."""

    def submit(self, data: bytes) -> Future[Image.Image]:
        """A picture to be: its result is an RGB picture, or raises BadPicture."""
        ...

    @property
    def busy(self) -> bool:
        """Whether pictures are being decoded beside this process."""
        ...


class HereDecoder:
    """Decodes in this process, when asked: for pictures that are trusted, and for tests."""

    busy = False

    def __init__(self, limits: PictureLimits, fit: FitOf = no_fit) -> None:
        self.limits, self._fit = limits, fit

    def submit(self, data: bytes) -> Future[Image.Image]:
        """The decoded picture; done on return."""
        future: Future[Image.Image] = Future()
        fit = self._fit()
        try:
            future.set_result(decode_picture(data, self.limits, fit))
        except BadPicture as bad:
            future.set_exception(bad)
        except MemoryError:
            future.set_exception(BadPicture(*TOO_MUCH_MEMORY))
        return future


class DecoderPool:
    """Decodes in other processes, each under limits of memory and time; a context manager.

    Processes start when there is work for them and end with the pool, also when this process is killed.

    Args:
        limits: how large a picture may be, and how long it may take.
        fit: the size the model takes, so that pixels beyond it never cross to this process.
        processes: at most this many; None: one per core, at most 8.
    """

    def __init__(self, limits: PictureLimits, fit: FitOf = no_fit, processes: int | None = None) -> None:
        self.limits, self._fit, self._settings = limits, fit, b""
        self._origin: DecoderOrigin | None = None
        self._starting = threading.Lock()
        count = processes or min(MOST_PROCESSES, len(os.sched_getaffinity(0)))
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="decoder")
        self._idle: queue.LifoQueue[DecoderProcess] = queue.LifoQueue()
        self._undone: set[Future[Image.Image]] = set()

    def __enter__(self) -> DecoderPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(cancel_futures=True)
        while not self._idle.empty():
            self._idle.get().end()
        if self._origin is not None:
            self._origin.end()

    def submit(self, data: bytes) -> Future[Image.Image]:
        """Queue one picture; the oldest is decoded first."""
        if not self._settings:
            fit = self._fit()
            settings = {"limits": self.limits.model_dump(), "fit": None if fit is None else fit.model_dump()}
            self._settings = json.dumps(settings).encode()
        future = self._threads.submit(self._decode, data)
        self._undone.add(future)
        future.add_done_callback(self._undone.discard)
        return future

    @property
    def busy(self) -> bool:
        """Whether some pictures are not decoded yet."""
        return bool(self._undone)

    def _decode(self, data: bytes) -> Image.Image:
        try:
            return self._attempt(data)
        except DecoderDied:
            try:
                return self._attempt(data, self._fresh())
            except DecoderDied as died:
                raise BadPicture(died.reason, died.detail) from None

    def _attempt(self, data: bytes, process: DecoderProcess | None = None) -> Image.Image:
        if process is None:
            try:
                process = self._idle.get_nowait()
            except queue.Empty:
                process = self._fresh()
        seconds = WALL_PER_CPU * self.limits.max_seconds + WALL_SPARE
        try:
            picture = process.decode(data, seconds, self.limits.max_pixels)
        except BadPicture:
            self._idle.put(process)
            raise
        except BaseException:
            process.end()
            raise
        self._idle.put(process)
        return picture

    def _fresh(self) -> DecoderProcess:
        with self._starting:
            for _ in range(2):
                if self._origin is not None and not self._origin.lives:
                    self._origin.end()
                    self._origin = None
                self._origin = self._origin or DecoderOrigin(self._settings)
                with contextlib.suppress(OriginGone):
                    return DecoderProcess(self._origin)
        raise MissingPrerequisite(
            "M309", "no process for decoding pictures stays alive", next_step="run `catalograph doctor`"
        )


@contextlib.contextmanager
def decoding(limits: PictureLimits, processes: int | None, fit: FitOf = no_fit) -> Iterator[Decoder]:
    """A decoder in so many processes; 0: in this one, None: one per core, at most 8."""
    if processes == 0:
        yield HereDecoder(limits, fit)
    else:
        with DecoderPool(limits, fit, processes) as pool:
            yield pool
