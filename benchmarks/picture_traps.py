"""Hostile and broken pictures, and names that lead elsewhere, each with the answers that fit it.

`hostile_pictures.py` and `hostile_inputs.py` put them before the command line.
"""

from __future__ import annotations

import io
import os
import pickle
import random
import socket
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from catalograph.demo.draw import ALL_TRAITS, UNSEEN_STYLE, draw

BROKEN = {"broken", "not-a-picture", "too-many-pixels", "extreme-aspect-ratio", "too-much-memory", "empty"}
ANY = BROKEN | {"decoded", "decoder-timeout", "decoder-crash"}
NOTHING = {"not-a-picture"}
Case = tuple[str, str | None, bytes | None, set[str]]
"""Kind, the picture's name (None: one is made), its bytes (None: nothing to write), answers that fit."""


def drawn(rng: np.random.Generator, side: int) -> Image.Image:
    return Image.fromarray(draw(ALL_TRAITS[int(rng.integers(len(ALL_TRAITS)))], UNSEEN_STYLE, rng, side))


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, *chunks: bytes, rows: bytes = b"") -> bytes:
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    body = png_chunk(b"IDAT", zlib.compress(rows, 9)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + body


def many_scans(picture: Image.Image, scans: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again: small to send, slow to decode."""
    data = encoded(picture, "JPEG", progressive=True, quality=60)
    last, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    return data[:end] + data[last:end] * scans + data[end:]


def resized_header(jpeg: bytes, width: int, height: int) -> bytes:
    at = next(jpeg.index(mark) for mark in (b"\xff\xc0", b"\xff\xc2") if mark in jpeg)
    return jpeg[: at + 5] + struct.pack(">HH", height, width) + jpeg[at + 9 :]


def bombs(picture: Image.Image) -> Iterator[Case]:
    jpeg, webp = encoded(picture, "JPEG"), encoded(picture, "WEBP", lossless=True)
    for side in (8_000, 10_000, 20_000, 60_000):
        yield "bomb", None, png(side, side), {"too-many-pixels"}
    for side in (7_500, 20_000, 65_500):
        yield "bomb", None, resized_header(jpeg, side, side), {"too-many-pixels"}
    canvas = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (16382).to_bytes(3, "little") * 2
    body = b"WEBP" + canvas + webp[12:]
    yield "bomb", None, b"RIFF" + struct.pack("<I", len(body)) + body, BROKEN
    yield "bomb", None, png(30_000, 100), {"extreme-aspect-ratio"}
    yield "bomb", None, png(100, 30_000), {"extreme-aspect-ratio"}
    flood = zlib.compress(bytes(80_000_000), 9)
    for chunk in (b"zTXtKey\0\0" + flood, b"iCCPKey\0\0" + flood, b"iTXtKey\0\1\0\0\0" + flood):
        yield "bomb", None, png(4, 4, png_chunk(chunk[:4], chunk[4:]), rows=bytes(20)), BROKEN | {"decoded"}
    yield "bomb", None, png(64, 64, rows=bytes(80_000_000)), {"decoded", *BROKEN}
    yield "bomb", None, png(7_000, 7_000, rows=bytes(7_001 * 7_000)), {"decoded"}
    flat = Image.new("RGB", (5_000, 5_000), "white")
    yield "slow", None, many_scans(flat, 4_000), {"decoder-timeout"}
    frames = [picture.resize((48, 48)).rotate(angle) for angle in range(0, 360, 9)]
    for kind in ("PNG", "WEBP"):
        yield "frames", None, encoded(frames[0], kind, save_all=True, append_images=frames), {"decoded"}


def impostors(picture: Image.Image) -> Iterator[Case]:
    for kind in ("GIF", "TIFF", "BMP", "PPM", "ICO", "EPS", "TGA", "PCX", "SGI", "JPEG2000", "PDF", "DDS"):
        yield "format", None, encoded(picture, kind), NOTHING
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.png", encoded(picture, "PNG"))
    array = io.BytesIO()
    np.save(array, np.array([{}], dtype=object), allow_pickle=True)
    for data in (
        b"<!doctype html><title>404</title>", b'{"error": "not found"}', b"\xff\xd8", b"\x89PNG\r\n\x1a\n",
        b"RIFF\x24\0\0\0WEBPVP8 ", pickle.dumps(print), array.getvalue(), archive.getvalue(), b"%!PS-Adobe",
        b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        b"\0\0\0\x18ftypmp42" + bytes(99), b"version https://git-lfs.github.com/spec/v1\n", bytes(1000),
    ):  # fmt: skip
        yield "impostor", None, data, NOTHING | {"broken"}
    yield "impostor", None, b"", {"empty"}


def odd(picture: Image.Image) -> Iterator[Case]:
    exif = Image.Exif()
    exif[0x0112] = 99
    for block in (
        b"Exif\0\0II*\0\xff\xff\xff\x7fgarbage", b"Exif\0\0MM\0*" + bytes(40), b"Exif\0\0", exif.tobytes(),
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\xff\xff\xff\xff\x08\0\0\0\x08\0\0\0", b"\xff" * 60_000,
    ):  # fmt: skip
        yield "exif", None, encoded(picture, "JPEG", exif=block), {"decoded"}
    for mode, kind in (("CMYK", "JPEG"), ("1", "PNG"), ("P", "PNG"), ("LA", "PNG"), ("RGBA", "WEBP")):
        yield "mode", None, encoded(picture.convert(mode), kind), {"decoded"}


def names() -> Iterator[Case]:
    """Names that lead elsewhere; what they name is made by `make_traps`."""
    for name in ("../secret.png", "../../../../etc/passwd", "/etc/passwd", "a/../../secret.png",
                 "..\\secret.png", "nul\0.png", "C:\\secret.png", "//host/share.png"):  # fmt: skip
        yield "path", name, None, {"unsafe-name"}
    for name in ("http://127.0.0.1/a.png", "https://example.org/a.jpg", "file:///etc/passwd", "ftp://h/a.png",
                 "data:image/png;base64,AAAA", "HTTP://169.254.169.254/latest/meta-data"):  # fmt: skip
        yield "url", name, None, {"url"}
    for name, reason in (
        ("link-out.png", "outside-root"), ("linked/secret.png", "outside-root"), ("loop.png", "unreadable"),
        ("dangling.png", "missing"), ("pipe.png", "not-a-file"), ("folder.png", "not-a-file"),
        ("socket.png", "unreadable"), ("device.png", "not-a-file"), ("gone.png", "missing"),
        ("x" * 3_000, "unreadable"), ("good/0.jpg/below", "unreadable"), (" ", "missing"),
    ):  # fmt: skip
        yield "trap", name, None, {reason, "outside-root"} if name == "device.png" else {reason}


def make_traps(root: Path) -> None:
    root.with_name("secret.png").write_bytes(encoded(Image.new("RGB", (32, 32), "red"), "PNG"))
    (root / "link-out.png").symlink_to(root.with_name("secret.png"))
    (root / "linked").symlink_to(root.parent)
    (root / "loop.png").symlink_to("loop.png")
    (root / "dangling.png").symlink_to("nowhere.png")
    os.mkfifo(root / "pipe.png")
    (root / "folder.png").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        before = Path.cwd()
        # A socket's path may have 108 bytes at most.
        os.chdir(root)
        listener.bind("socket.png")
        os.chdir(before)
    (root / "device.png").symlink_to("/dev/zero")
    (root / os.fsdecode(b"\xff\xfe.png")).write_bytes(b"a name that is no UTF-8")


def damaged(picture: Image.Image, chance: random.Random) -> Iterator[Case]:
    """Without end: good files of each format flipped, overwritten or cut."""
    whole = [
        encoded(picture, "JPEG"), encoded(picture, "JPEG", progressive=True), encoded(picture, "PNG"),
        encoded(picture, "WEBP"), encoded(picture, "WEBP", lossless=True),
    ]  # fmt: skip
    while True:
        for good in whole:
            yield "cut", None, good[: chance.randrange(1, len(good) - 20)], BROKEN | {"decoded"}
            flipped = bytearray(good)
            flipped[chance.randrange(len(good))] ^= 1 << chance.randrange(8)
            yield "flip", None, bytes(flipped), ANY
            early = bytearray(good)
            early[chance.randrange(min(400, len(good)))] = chance.randrange(256)
            yield "flip", None, bytes(early), ANY
            at = chance.randrange(len(good) - 16)
            yield "stretch", None, good[:at] + chance.randbytes(16) + good[at + 16 :], ANY


def cases(count: int, seed: int) -> list[Case]:
    """Every special case, then damaged files up to the count; a small count keeps some."""
    picture = drawn(np.random.default_rng([seed, 1]), 96)
    special = [*names(), *impostors(picture), *odd(picture), *bombs(picture)]
    if count < 2 * len(special):
        special = random.Random(seed).sample(special, count // 2)
    endless = damaged(picture, random.Random(seed))
    return [*special, *(next(endless) for _ in range(count - len(special)))]
