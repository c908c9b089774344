"""Our side of the processes that decode pictures: starting, asking, and learning why one is gone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from PIL import Image

from extract.decoder_worker import (
    ANSWER,
    FORK,
    KILL,
    LENGTH,
    NOT_YET,
    NUMBER,
    READY,
    REQUEST,
    STATUS,
)
from extract.errors import MissingPrerequisite
from extract.pictures import BadPicture

WORKER = "from extract.decoder_worker import main; main(fd)"
START_SECONDS = 120.0
END_SECONDS = 10.0
LONGEST_REASON = 4096


class DecoderDied(Exception):
    """A decoder process ended or went silent over a picture."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


class OriginGone(Exception):
    """The process that decoders come from ended; no picture can be the cause."""


class DecoderOrigin:
    """The process that decoders are forked from, with everything loaded that they need.

    Args:
        settings: JSON with the limits of pictures and the size a model takes.

    Raises:
        MissingPrerequisite: M309, it cannot be started.
    """

    def __init__(self, settings: bytes) -> None:
        self.lives = True
        self._lock = threading.Lock()
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
                # Ctrl-C is for the run, which ends its decoders itself. A session of its own would keep the
                # kernel from seeing that decoders are to wait for the run's own threads.
                process_group=0,
            )
        except OSError as error:
            raise MissingPrerequisite(
                "M309", "no process for decoding pictures can be started", why=str(error)
            ) from error
        finally:
            theirs.close()
        self._await_start(settings)

    def _await_start(self, settings: bytes) -> None:
        _limit(self._socket, START_SECONDS)
        try:
            self._socket.sendall(LENGTH.pack(len(settings)) + settings)
            if _exactly(self._socket, 1) == READY:
                return
        except (OSError, EOFError):
            pass
        code = self._process.poll()
        self.end()
        raise MissingPrerequisite(
            "M309",
            "a process for decoding pictures does not start",
            why=f"it was silent for {START_SECONDS:.0f} s" if code is None else f"it ended with {code}",
            next_step="run `catalograph doctor`",
        )

    def fork(self, descriptor: int) -> int:
        """A decoder that serves a socket; its process number.

        Raises:
            MissingPrerequisite: M309, the system gives no more processes.
            OriginGone: the origin has ended.
        """
        pid = self._ask(FORK, 0, [descriptor])
        if pid < 0:
            raise MissingPrerequisite(
                "M309", "no process for decoding pictures can be started", why=os.strerror(-pid)
            )
        return pid

    def status(self, pid: int) -> int:
        """A decoder's exit code or, negative, signal; it has some seconds to end by itself.

        Raises:
            OriginGone: the origin has ended.
        """
        until = time.monotonic() + END_SECONDS
        while time.monotonic() < until:
            if (status := self._ask(STATUS, pid)) != NOT_YET:
                return status
            time.sleep(0.005)
        return self.kill(pid)

    def kill(self, pid: int) -> int:
        """End a decoder that was not asked for its status.

        Raises:
            OriginGone: the origin has ended.
        """
        return self._ask(KILL, pid)

    def _ask(self, kind: bytes, pid: int, descriptors: Sequence[int] = ()) -> int:
        with self._lock:
            if not self.lives:
                raise OriginGone
            try:
                socket.send_fds(self._socket, [REQUEST.pack(kind, pid)], descriptors)
                return int(NUMBER.unpack(_exactly(self._socket, NUMBER.size))[0])
            except (OSError, EOFError):
                self.lives = False
                raise OriginGone from None

    def end(self) -> None:
        """Stop it; its decoders end when their own sockets are closed."""
        self.lives = False
        self._socket.close()
        self._process.kill()
        self._process.wait()


class DecoderProcess:
    """One decoder process and our end of its socket.

    Raises:
        MissingPrerequisite: M309, there can be no more processes.
        OriginGone: its origin has ended.
    """

    def __init__(self, origin: DecoderOrigin) -> None:
        self._origin, self._ended = origin, False
        self._socket, theirs = socket.socketpair()
        with theirs:
            try:
                self.pid = origin.fork(theirs.fileno())
            except BaseException:
                self._socket.close()
                raise

    def decode(self, data: bytes, seconds: float, max_pixels: int) -> Image.Image:
        """One picture.

        Args:
            data: the file's bytes.
            seconds: how long it may take by the clock.
            max_pixels: most pixels of an answer.

        Raises:
            BadPicture: the decoder refused it.
            DecoderDied: the process ended, went silent or answered nonsense.
        """
        try:
            _limit(self._socket, seconds)
            deadline = time.monotonic() + seconds
            _send(self._socket, [LENGTH.pack(len(data)), data], deadline)
            return self._answer(deadline, max_pixels)
        except BlockingIOError:
            raise DecoderDied("decoder-timeout", "the decoder gave no answer in time") from None
        except (OSError, EOFError):
            raise self._why_gone() from None

    def _answer(self, deadline: float, max_pixels: int) -> Image.Image:
        refused, width, height = ANSWER.unpack(_exactly(self._socket, ANSWER.size, deadline))
        if refused:
            if width > LONGEST_REASON:
                raise DecoderDied("decoder-crash", "an answer of impossible size")
            reason, detail = json.loads(bytes(_exactly(self._socket, width, deadline)))
            raise BadPicture(str(reason), str(detail))
        if not 0 < width * height <= max(max_pixels, 2**26):
            raise DecoderDied("decoder-crash", "an answer of impossible size")
        pixels = _exactly(self._socket, width * height * 3, deadline)
        return Image.frombuffer("RGB", (width, height), pixels, "raw", "RGB", 0, 1)

    def _why_gone(self) -> DecoderDied:
        try:
            code = self._origin.status(self.pid)
        except OriginGone:
            return DecoderDied("decoder-crash", "the decoder ended")
        # From here on its number may be another process's.
        self._ended = True
        if code == -signal.SIGXCPU:
            return DecoderDied("decoder-timeout", "decoding it takes more CPU time than a picture may")
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return DecoderDied("decoder-crash", f"the decoder ended with {name}")

    def end(self) -> None:
        """Stop the process, whatever it is doing."""
        self._socket.close()
        if not self._ended:
            with contextlib.suppress(OriginGone):
                self._origin.kill(self.pid)


def _limit(connection: socket.socket, seconds: float) -> None:
    """Have the kernel end a call that waits longer than this.

    Python's own timeout costs a further call, and a turn of the interpreter's lock, for each one: threads
    that talk to decoders would hold up the thread that runs the model.
    """
    wait = struct.pack("@ll", int(seconds), int(seconds % 1 * 1_000_000))
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        connection.setsockopt(socket.SOL_SOCKET, option, wait)


def _send(connection: socket.socket, parts: Sequence[bytes], deadline: float) -> None:
    """All bytes of some parts.

    Raises:
        BlockingIOError: the other end did not take them in time.
    """
    sent = connection.sendmsg(parts)
    left = memoryview(b"".join(parts))[sent:] if sent < sum(map(len, parts)) else memoryview(b"")
    while left:
        _check(deadline)
        left = left[connection.send(left) :]


def _exactly(connection: socket.socket, size: int, deadline: float | None = None) -> bytearray:
    """So many bytes.

    Raises:
        BlockingIOError: they did not come in time.
        EOFError: the other end is closed.
    """
    buffer = bytearray(size)
    view = memoryview(buffer)
    while view:
        got = connection.recv_into(view, 0, socket.MSG_WAITALL)
        if not got:
            raise EOFError
        view = view[got:]
        if view:
            _check(deadline)
    return buffer


def _check(deadline: float | None) -> None:
    # The kernel's limit begins anew with each call: bytes that come one by one would hold us for ever.
    if deadline is not None and time.monotonic() > deadline:
        raise BlockingIOError
