"""Pictures from a folder or a zip file, read and decoded as hostile input.

Measured on Pillow 13: ``verify()`` passes a JPEG that lacks its last bytes, so decoding is always full; rare
formats carry most of the decoder CVEs, so only JPEG, PNG and WebP are tried; the pixel limit is checked on
the header, before any pixel is read.
"""

from __future__ import annotations

import io
import logging
import os
import stat
import warnings
import zipfile
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field

from extract.errors import InvalidData, UnsafeInput
from extract.faults import describe
from extract.jpeg import jpeg_pixels
from extract.picture_fit import PictureFit

logger = logging.getLogger(__name__)

FORMATS = ("JPEG", "PNG", "WEBP")
HEADER_BYTES = 2**18
"""Where a picture's size is looked for; EXIF data with its own small picture comes before it."""


class BadPicture(InvalidData):
    """One picture that cannot be used; ``reason`` is a short stable word, ``detail`` what was found."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__("D102", f"the picture cannot be used: {reason}", why=detail)
        self.reason, self.detail = reason, detail


class PictureLimits(BaseModel):
    """How large a picture may be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_pixels: int = Field(default=50_000_000, ge=1)
    """Width times height, in pixels, as the header says."""
    max_bytes: int = Field(default=64 * 2**20, ge=1)
    """Size of the file, in bytes."""
    max_aspect_ratio: float = Field(default=200.0, gt=1)
    """Longer side over shorter side must stay below this; several image processors refuse 200."""
    max_seconds: float = Field(default=20.0, gt=0)
    """CPU time one picture may take to decode, in seconds; a PNG of 50 megapixels takes about 2."""


class PictureSource:
    """The pictures of a catalogue: a folder or a zip file; names are relative to it.

    Nothing outside the root is ever read: absolute names, ``..``, links that lead out, devices and URLs are
    refused as `BadPicture`.
    """

    def __init__(self, root: Path, limits: PictureLimits | None = None) -> None:
        self.root = Path(root)
        self.limits = limits or PictureLimits()
        self._zip: zipfile.ZipFile | None = None
        if not self.root.exists():
            raise UnsafeInput(
                "U401",
                "the pictures are not there",
                where=str(root),
                next_step="set `pictures` to a folder or a .zip",
            )
        if self.root.is_file():
            try:
                self._zip = zipfile.ZipFile(self.root)
            except (zipfile.BadZipFile, OSError) as error:
                raise UnsafeInput("U402", "not a zip file", where=str(root), why=describe(error)) from error
        self._real_root = self.root.resolve()

    def __repr__(self) -> str:
        return f"PictureSource({str(self.root)!r})"

    def read(self, name: str, limits: PictureLimits | None = None) -> bytes:
        """The bytes of one picture; ``limits`` stand in for the source's own.

        Raises:
            BadPicture: the name is unsafe, nothing is there, or it is larger than ``limits.max_bytes``.
        """
        _check_name(name)
        limit = (limits or self.limits).max_bytes
        data = self._read_zip(name, limit) if self._zip is not None else self._read_file(name, limit)
        if len(data) > limit:
            raise BadPicture("too-many-bytes", f"more than {limit:,} bytes")
        if not data:
            raise BadPicture("empty", "the file has 0 bytes")
        return data

    def stamp(self, name: str) -> tuple[int, int] | None:
        """What changes when a picture does, without reading it: its size in bytes and its time.

        The time is the modification time in nanoseconds; in a zip file it is the entry's checksum. None if
        nothing that can be read is there.
        """
        try:
            _check_name(name)
            if self._zip is not None:
                entry = self._zip.getinfo(name)
                return entry.file_size, entry.CRC
            found = os.stat(os.path.join(self._real_root, name))
        except (BadPicture, KeyError, OSError, ValueError):
            return None
        return found.st_size, found.st_mtime_ns

    def size_hint(self, name: str) -> tuple[int, int] | None:
        """Width and height in pixels from the header alone, or None if the file is no readable picture."""
        try:
            _check_name(name)
            read = self._read_zip if self._zip is not None else self._read_file
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with Image.open(io.BytesIO(read(name, HEADER_BYTES)), formats=FORMATS) as picture:
                    return picture.size
        except (BadPicture, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return None

    def _read_file(self, name: str, limit: int) -> bytes:
        try:
            path = (self._real_root / name).resolve(strict=True)
            if not path.is_relative_to(self._real_root):
                raise BadPicture("outside-root", "the name leads out of the pictures folder")
            # Not following links here closes the gap between the check above and the opening; not blocking
            # keeps a FIFO from hanging the run.
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            raise BadPicture("missing", f"no file {name}") from None
        except (OSError, RuntimeError) as error:
            raise BadPicture("unreadable", type(error).__name__) from None
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            os.close(descriptor)
            raise BadPicture("not-a-file", "a folder, device or pipe")
        with os.fdopen(descriptor, "rb") as file:
            try:
                # As much memory is set aside as is asked for, and the limit is far above most files.
                return file.read(min(found.st_size or limit, limit) + 1)
            except OSError as error:
                raise BadPicture("unreadable", type(error).__name__) from None

    def _read_zip(self, name: str, limit: int) -> bytes:
        archive = self._zip
        if archive is None:
            raise BadPicture("missing", "the source is not a zip file")
        try:
            with archive.open(name) as file:
                return file.read(limit + 1)
        except KeyError:
            raise BadPicture("missing", f"no file {name}") from None
        except (
            RuntimeError,
            OSError,
            ValueError,
            EOFError,
            zipfile.BadZipFile,
            NotImplementedError,
        ) as error:
            raise BadPicture("unreadable", describe(error)) from None
        except Exception as error:
            # zlib.error, lzma errors: every codec of the archive has its own class.
            raise BadPicture("unreadable", describe(error)) from None


def _check_name(name: str) -> None:
    if "://" in name[:12] or name.startswith("data:"):
        raise BadPicture("url", "pictures are never fetched from a network; download them first")
    unsafe = not name or "\x00" in name or "\\" in name
    if unsafe or name.startswith("/") or ".." in name.split("/"):
        raise BadPicture("unsafe-name", "a picture's name must be relative and inside the pictures folder")


def decode_picture(
    data: bytes, limits: PictureLimits | None = None, fit: PictureFit | None = None
) -> Image.Image:
    """Decode bytes into an upright RGB picture: EXIF orientation applied, transparency laid over white.

    Args:
        data: the file's bytes.
        limits: how large the picture may be.
        fit: resize to what a model takes.

    Raises:
        BadPicture: not JPEG, PNG or WebP, too large, or broken anywhere in its data.
    """
    limits = limits or PictureLimits()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                _check_size(picture.size, limits)
                return _decoded(picture, data, fit)
    except (BadPicture, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise BadPicture("too-many-pixels", f"far above {limits.max_pixels:,} pixels") from None
    except UnidentifiedImageError:
        reason = "empty" if not data else "not-a-picture"
        raise BadPicture(reason, f"not one of {', '.join(FORMATS)}") from None
    except Exception as error:
        # A decoder fed with hostile bytes raises whatever its parser stumbles over (OSError, SyntaxError,
        # struct.error, zlib.error, IndexError ...); all of them mean the same thing here.
        raise BadPicture("broken", describe(error)) from None


def _decoded(picture: Image.Image, data: bytes, fit: PictureFit | None) -> Image.Image:
    if picture.format != "JPEG":
        # Looking for EXIF data would decode these, and keep what went wrong to itself.
        picture.load()
    turn, size = _orientation(picture), picture.size
    # From 5 on width and height change places.
    full = size[::-1] if turn >= 5 else size
    part = 1 if fit is None else fit.fraction(full)
    if part > 1:
        picture.draft(None, (size[0] // part, size[1] // part))
    elif turn == 1 and (pixels := jpeg_pixels(data, picture)) is not None:
        return Image.fromarray(pixels) if fit is None else fit.resize(pixels, full)
    upright = _as_rgb(_upright(picture))
    return upright if fit is None else fit.resize(upright, full)


def _check_size(size: tuple[int, int], limits: PictureLimits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        raise BadPicture("too-many-pixels", f"{width} x {height} is above {limits.max_pixels:,} pixels")
    if max(size) >= limits.max_aspect_ratio * max(1, min(size)):
        raise BadPicture("extreme-aspect-ratio", f"{width} x {height}")


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1 to 8."""
    try:
        found = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception as error:
        # Broken EXIF is common in shop photos and says nothing about the pixels.
        logger.debug("EXIF ignored: %s", describe(error))
        return 1
    return found if found in range(1, 9) else 1


def _upright(picture: Image.Image) -> Image.Image:
    picture.load()
    if _orientation(picture) == 1:
        return picture
    try:
        return ImageOps.exif_transpose(picture)
    except Exception as error:
        logger.debug("EXIF ignored: %s", describe(error))
        return picture


def _as_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        # convert("RGB") clips 16-bit values at 255, which turns the picture white.
        values = np.asarray(picture).astype(np.int64) // 257
        return Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")
    if picture.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")
