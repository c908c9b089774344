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
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Protocol

from PIL import Image

from extract.decoder_worker import LENGTH, PIXELS, READY, REFUSED, TOO_MUCH_MEMORY
from extract.errors import MissingPrerequisite
from extract.picture_fit import PictureFit
from extract.pictures import BadPicture, PictureLimits, decode_picture

WORKER = "from extract.decoder_worker import main; main(fd)"
MOST_PROCESSES = 8
WALL_PER_CPU = 4
"""A decoder may take this many times its CPU limit by the clock, for machines that are busy, ..."""
WALL_SPARE = 30.0
"""... and these seconds."""
START_SECONDS = 120.0
LONGEST_REASON = 4096


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
        count = processes or min(MOST_PROCESSES, len(os.sched_getaffinity(0)))
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="decoder")
        self._idle: queue.LifoQueue[_Process] = queue.LifoQueue()
        self._undone: set[Future[Image.Image]] = set()

    def __enter__(self) -> DecoderPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(cancel_futures=True)
        while not self._idle.empty():
            self._idle.get().end()

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
        except _Died:
            try:
                return self._attempt(data)
            except _Died as died:
                raise BadPicture(died.reason, died.detail) from None

    def _attempt(self, data: bytes) -> Image.Image:
        try:
            process = self._idle.get_nowait()
        except queue.Empty:
            process = _Process(self._settings)
        deadline = time.monotonic() + WALL_PER_CPU * self.limits.max_seconds + WALL_SPARE
        try:
            picture = process.decode(data, deadline, self.limits.max_pixels)
        except BadPicture:
            self._idle.put(process)
            raise
        except BaseException:
            process.end()
            raise
        self._idle.put(process)
        return picture


@contextlib.contextmanager
def decoding(limits: PictureLimits, processes: int | None, fit: FitOf = no_fit) -> Iterator[Decoder]:
    """A decoder in so many processes; 0: in this one, None: one per core, at most 8."""
    if processes == 0:
        yield HereDecoder(limits, fit)
    else:
        with DecoderPool(limits, fit, processes) as pool:
            yield pool


class _Died(Exception):
    """A decoder process ended or went silent over a picture."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


class _Process:
    """One decoder process and our end of its socket."""

    def __init__(self, settings: bytes) -> None:
        self._socket, theirs = socket.socketpair()
        code = f"import sys; sys.path[:] = {sys.path!r}; fd = {theirs.fileno()}\n{WORKER}"
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                # Ctrl-C is for the run, which ends its decoders itself.
                start_new_session=True,
            )
        except OSError as error:
            raise MissingPrerequisite(
                "M309", "no process for decoding pictures can be started", why=str(error)
            ) from error
        finally:
            theirs.close()
        self._await_start(settings)

    def _await_start(self, settings: bytes) -> None:
        try:
            self._socket.sendall(LENGTH.pack(len(settings)) + settings)
            if self._exactly(1, time.monotonic() + START_SECONDS) == READY:
                return
        except (OSError, EOFError):
            pass
        self.end()
        raise MissingPrerequisite(
            "M309",
            "a process for decoding pictures does not start",
            why=f"it ended with {self._process.returncode}, or was silent for {START_SECONDS:.0f} s",
            next_step="run `catalograph doctor`",
        )

    def decode(self, data: bytes, deadline: float, max_pixels: int) -> Image.Image:
        """One picture.

        Raises:
            BadPicture: the decoder refused it.
            _Died: the process ended, went silent or answered nonsense.
        """
        try:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            self._socket.sendall(LENGTH.pack(len(data)))
            self._socket.sendall(data)
            return self._answer(deadline, max_pixels)
        except TimeoutError:
            raise _Died("decoder-timeout", "the decoder gave no answer in time") from None
        except (OSError, EOFError):
            raise self._why_gone() from None

    def _answer(self, deadline: float, max_pixels: int) -> Image.Image:
        if self._exactly(1, deadline)[0] == 0:
            width, height = PIXELS.unpack(b"\0" + self._exactly(PIXELS.size - 1, deadline))[1:]
            if not 0 < width * height <= max(max_pixels, 2**26):
                raise _Died("decoder-crash", "an answer of impossible size")
            pixels = self._exactly(width * height * 3, deadline)
            return Image.frombuffer("RGB", (width, height), pixels, "raw", "RGB", 0, 1)
        (length,) = REFUSED.unpack(b"\1" + self._exactly(REFUSED.size - 1, deadline))[1:]
        if length > LONGEST_REASON:
            raise _Died("decoder-crash", "an answer of impossible size")
        reason, detail = json.loads(bytes(self._exactly(length, deadline)))
        raise BadPicture(str(reason), str(detail))

    def _exactly(self, size: int, deadline: float) -> bytearray:
        buffer = bytearray(size)
        view = memoryview(buffer)
        while view:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            got = self._socket.recv_into(view)
            if not got:
                raise EOFError
            view = view[got:]
        return buffer

    def _why_gone(self) -> _Died:
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return _Died("decoder-crash", "the decoder closed its socket")
        if code == -signal.SIGXCPU:
            return _Died("decoder-timeout", "decoding it takes more CPU time than a picture may")
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return _Died("decoder-crash", f"the decoder ended with {name}")

    def end(self) -> None:
        """Stop the process, whatever it is doing."""
        self._socket.close()
        self._process.kill()
        self._process.wait()
