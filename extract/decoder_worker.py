"""The process that decoders are forked from, and what a decoder does: bytes in, pixels out, under limits.

A decoder opens no file and keeps nothing. What goes through its socket is framed by length and never a
pickle, so that a decoder taken over by a picture has nothing to offer its parent but pixels. The origin loads
the libraries once, which takes longer than a hundred pictures, and never sees a picture.

    parent -> origin   <u32 length> JSON          once: limits and fit
    origin -> parent   <u8 2>                     once, when it is ready
    parent -> origin   "F" <i32 0> and a socket   fork a decoder that serves this socket
    origin -> parent   <i32 pid>                  or the negative error number: there is no new process
    parent -> origin   "S" or "K" <i32 pid>       whether it has ended; or make it end
    origin -> parent   <i32 status>               exit code, negative number of a signal, or 1000: not yet
    parent -> worker   <u32 length> bytes         one picture
    worker -> parent   <u8 0> <u32 width> <u32 height> RGB bytes
                       <u8 1> <u32 length> <u32 0> JSON [reason, detail]
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import resource
import signal
import socket
import struct
import sys

from PIL import Image, WebPImagePlugin  # noqa: F401 - no file is opened later

from extract.cpu_share import keep_freed_memory
from extract.picture_fit import PictureFit
from extract.pictures import BadPicture, PictureLimits, decode_picture

LENGTH = struct.Struct("<I")
NUMBER = struct.Struct("<i")
REQUEST = struct.Struct("<ci")
FORK, STATUS, KILL = b"F", b"S", b"K"
NOT_YET = 1000
ANSWER = struct.Struct("<BII")
TOO_MUCH_MEMORY = ("too-much-memory", "decoding it takes more memory than a picture of its size may")
READY = b"\2"
BYTES_PER_PIXEL = 24
"""Memory a decoder may take per pixel: RGBA, a copy over white, the 64-bit values of a 16-bit picture."""
NICENESS = 10
"""The model's own threads come first: a batch that waits for a core holds up everything. Still a tenth of a
core beside a process that wants all of it, so that a busy machine delays pictures and refuses none."""
SPARE_BYTES = 256 * 2**20
KEPT_BYTES = SPARE_BYTES // 4
"""Of freed memory: what large pictures leave behind would be lacking for the next one, in every decoder."""


def main(descriptor: int) -> None:
    """Fork decoders for one parent until it closes the socket."""
    connection = socket.socket(fileno=descriptor)
    settings = json.loads(_frame(connection))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    Image.preinit()
    keep_freed_memory(KEPT_BYTES)
    limits = PictureLimits(**settings["limits"])
    fit = None if settings["fit"] is None else PictureFit(**settings["fit"])
    if fit is not None:
        # Whatever resizing loads has to be there before no more memory can be had for it.
        fit.resize(Image.new("RGB", (512, 512)), (512, 512))
    connection.sendall(READY)
    while True:
        request, descriptors, _, _ = socket.recv_fds(connection, REQUEST.size, 1)
        if len(request) < REQUEST.size:
            os._exit(0)
        kind, pid = REQUEST.unpack(request)
        if kind == FORK:
            connection.sendall(NUMBER.pack(_fork(connection, descriptors[0], limits, fit)))
        else:
            connection.sendall(NUMBER.pack(_status(pid, kill=kind == KILL)))


def _fork(origin: socket.socket, descriptor: int, limits: PictureLimits, fit: PictureFit | None) -> int:
    try:
        pid = os.fork()
    except OSError as error:
        pid = -(error.errno or 1)
    if pid == 0:
        origin.close()
        try:
            _serve(socket.socket(fileno=descriptor), limits, fit)
        finally:
            os._exit(1)
    os.close(descriptor)
    return pid


def _serve(connection: socket.socket, limits: PictureLimits, fit: PictureFit | None) -> None:
    with contextlib.suppress(OSError):  # a courtesy, which some sandboxes forbid
        os.nice(NICENESS)
        if sys.platform == "linux":
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    _confine(limits)
    while True:
        data = _frame(connection)
        _grant(limits.max_seconds)
        connection.sendall(_answer(data, limits, fit))


def _status(pid: int, *, kill: bool) -> int:
    """How a decoder ended, or that it has not; nobody waits here, because others may want a decoder."""
    if kill:
        os.kill(pid, signal.SIGKILL)
    ended, status = os.waitpid(pid, 0 if kill else os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else NOT_YET


def _answer(data: bytes, limits: PictureLimits, fit: PictureFit | None) -> bytes:
    try:
        picture = decode_picture(data, limits, fit)
        return ANSWER.pack(0, *picture.size) + picture.tobytes()
    except BadPicture as bad:
        reason = [bad.reason, bad.detail]
    except MemoryError:
        gc.collect()
        reason = list(TOO_MUCH_MEMORY)
    text = json.dumps(reason).encode()
    return ANSWER.pack(1, len(text), 0) + text


def _confine(limits: PictureLimits) -> None:
    """Cap memory, and forbid files, from here on."""
    with open("/proc/self/statm") as status:
        mapped = int(status.read().split()[0]) * resource.getpagesize()
    allowance = BYTES_PER_PIXEL * limits.max_pixels + 2 * limits.max_bytes + SPARE_BYTES
    for kind, value in (
        (resource.RLIMIT_AS, mapped + allowance),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (value, value))


def _grant(seconds: float) -> None:
    """CPU time for one more picture: the kernel ends the process when it is spent."""
    used = math.fsum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    soft = math.ceil(used + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _frame(connection: socket.socket) -> bytes:
    return _exactly(connection, LENGTH.unpack(_exactly(connection, LENGTH.size))[0])


def _exactly(connection: socket.socket, size: int) -> bytes:
    """So many bytes; the process ends where the parent is gone."""
    buffer = bytearray(size)
    view = memoryview(buffer)
    while view:
        got = connection.recv_into(view, 0, socket.MSG_WAITALL)
        if not got:
            os._exit(0)
        view = view[got:]
    return bytes(buffer)
