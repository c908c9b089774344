"""The process that decodes pictures: bytes in, pixels out, under limits of the operating system.

It opens no file and keeps nothing. What goes through its socket is framed by length and never a pickle, so
that a decoder taken over by a picture has nothing to offer its parent but pixels.

    parent -> worker   <u32 length> bytes         first: JSON with limits and fit; then one picture each
    worker -> parent   <u8 2>  once, when it is ready
                       <u8 0> <u32 width> <u32 height> RGB bytes
                       <u8 1> <u32 length> JSON [reason, detail]
"""

from __future__ import annotations

import gc
import json
import math
import os
import resource
import socket
import struct

from PIL import Image

from extract.cpu_share import keep_freed_memory
from extract.picture_fit import PictureFit
from extract.pictures import BadPicture, PictureLimits, decode_picture

LENGTH = struct.Struct("<I")
PIXELS = struct.Struct("<BII")
REFUSED = struct.Struct("<BI")
TOO_MUCH_MEMORY = ("too-much-memory", "decoding it takes more memory than a picture of its size may")
READY = b"\2"
BYTES_PER_PIXEL = 24
"""Memory a decoder may take per pixel: RGBA, a copy over white, the 64-bit values of a 16-bit picture."""
SPARE_BYTES = 256 * 2**20
KEPT_BYTES = SPARE_BYTES // 4
"""Of freed memory: what large pictures leave behind would be lacking for the next one, in every decoder."""


def main(descriptor: int) -> None:
    """Serve one parent until it closes the socket."""
    connection = socket.socket(fileno=descriptor)
    settings = json.loads(_frame(connection))
    keep_freed_memory(KEPT_BYTES)
    limits = PictureLimits(**settings["limits"])
    fit = None if settings["fit"] is None else PictureFit(**settings["fit"])
    if fit is not None:
        # Whatever resizing loads has to be there before no more memory can be had for it.
        fit.resize(Image.new("RGB", (512, 512)), (512, 512))
    _confine(limits)
    connection.sendall(READY)
    while True:
        data = _frame(connection)
        _grant(limits.max_seconds)
        connection.sendall(_answer(data, limits, fit))


def _answer(data: bytes, limits: PictureLimits, fit: PictureFit | None) -> bytes:
    try:
        picture = decode_picture(data, limits, fit)
        return PIXELS.pack(0, *picture.size) + picture.tobytes()
    except BadPicture as bad:
        reason = [bad.reason, bad.detail]
    except MemoryError:
        gc.collect()
        reason = list(TOO_MUCH_MEMORY)
    text = json.dumps(reason).encode()
    return REFUSED.pack(1, len(text)) + text


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
        got = connection.recv_into(view)
        if not got:
            os._exit(0)
        view = view[got:]
    return bytes(buffer)
