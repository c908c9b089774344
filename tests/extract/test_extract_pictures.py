from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from extract import BadPicture, PictureLimits, PictureSource, UnsafeInput, decode_picture
from extract.picture_fit import PictureFit


def encode(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(size=(64, 48)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def png_header(width: int, height: int) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(head)) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 1000) + b"IDAT"


def reason_of(data: bytes, limits: PictureLimits | None = None) -> str:
    with pytest.raises(BadPicture) as caught:
        decode_picture(data, limits)
    return caught.value.reason


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_three_formats_decode_to_rgb(kind):
    picture = decode_picture(encode(photo(), kind))
    assert (picture.mode, picture.size) == ("RGB", (64, 48))


@pytest.mark.parametrize("fit", [None, PictureFit(kind="shortest", size=(16, 0))])
def test_a_png_with_one_flipped_byte_is_broken_not_half_a_picture(fit):
    data = bytearray(encode(photo()))
    data[data.index(b"IDAT") + 400] ^= 0xFF
    with pytest.raises(BadPicture) as caught:
        decode_picture(bytes(data), fit=fit)
    assert caught.value.reason == "broken"


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP", "PPM"])
def test_other_formats_are_not_pictures(kind):
    assert reason_of(encode(photo(), kind)) == "not-a-picture"


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(mode):
    gray = photo().convert("L")
    picture = (
        Image.fromarray(np.asarray(gray).astype(np.uint16) * 257) if mode == "I;16" else photo().convert(mode)
    )
    decoded = decode_picture(encode(picture, "JPEG" if mode == "CMYK" else "PNG"))
    assert (decoded.mode, decoded.size) == ("RGB", (64, 48))
    if mode in {"L", "I;16"}:
        assert np.array_equal(np.asarray(decoded)[..., 0], np.asarray(gray))


def test_transparency_lies_over_white():
    layer = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    layer.putpixel((1, 0), (10, 20, 30, 255))
    decoded = decode_picture(encode(layer))
    assert [decoded.getpixel((x, 0)) for x in range(2)] == [(255, 255, 255), (10, 20, 30)]


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_picture(encode(photo((60, 20)), "JPEG", exif=exif)).size == (20, 60)


def test_broken_exif_does_not_spoil_the_pixels():
    data = encode(photo(), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7fgarbage")
    assert decode_picture(data).size == (64, 48)


@pytest.mark.parametrize("cut", [20, 200, 1000])
def test_a_truncated_jpeg_is_broken(cut):
    assert reason_of(encode(photo(), "JPEG")[:-cut]) == "broken"


def test_html_and_nothing_are_not_pictures():
    assert reason_of(b"<html><body>404</body></html>") == "not-a-picture"
    assert reason_of(b"") == "empty"


@pytest.mark.parametrize("side", [8_000, 10_000, 20_000, 60_000])
def test_a_bomb_is_refused_by_its_header(side):
    assert reason_of(png_header(side, side)) == "too-many-pixels"


def test_own_limits_are_obeyed():
    assert reason_of(encode(photo()), PictureLimits(max_pixels=64 * 48 - 1)) == "too-many-pixels"
    assert decode_picture(encode(photo()), PictureLimits(max_pixels=64 * 48)).size == (64, 48)
    assert reason_of(encode(photo((200, 1)))) == "extreme-aspect-ratio"


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["JPEG", "PNG", "WEBP"]),
    st.integers(0, 10**6),
    st.integers(1, 255),
    st.integers(0, 10**6),
)
def test_damaged_bytes_give_a_picture_or_a_reason_never_another_error(kind, at, flip, keep):
    data = bytearray(encode(photo((16, 16)), kind))
    data[at % len(data)] ^= flip
    try:
        assert decode_picture(bytes(data[: 1 + keep % len(data)])).mode == "RGB"
    except BadPicture as bad:
        assert bad.reason
        assert "0x" not in bad.detail


@pytest.fixture
def source(tmp_path):
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "a.png").write_bytes(encode(photo()))
    (tmp_path / "secret.png").write_bytes(encode(photo()))
    return PictureSource(root)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../secret.png", "unsafe-name"),
        ("../../etc/passwd", "unsafe-name"),
        ("sub/../../secret.png", "unsafe-name"),
        ("/etc/passwd", "unsafe-name"),
        ("", "unsafe-name"),
        ("a\x00b", "unsafe-name"),
        ("..\\secret.png", "unsafe-name"),
        ("https://example.org/a.png", "url"),
        ("file:///etc/passwd", "url"),
        ("data:image/png;base64,AA", "url"),
        ("none.png", "missing"),
        ("sub", "not-a-file"),
        ("x" * 5000, "unreadable"),
        ("sub/a.png/b", "unreadable"),
    ],
)
def test_unsafe_names_are_refused(source, name, reason):
    with pytest.raises(BadPicture) as caught:
        source.read(name)
    assert caught.value.reason == reason


def test_links_inside_are_read_and_links_out_are_refused(source, tmp_path):
    (source.root / "inside.png").symlink_to(source.root / "sub" / "a.png")
    (source.root / "out.png").symlink_to(tmp_path / "secret.png")
    (source.root / "outdir").symlink_to(tmp_path)
    (source.root / "loop.png").symlink_to(source.root / "loop.png")
    assert source.read("inside.png") == source.read("sub/a.png")
    for name, reason in (
        ("out.png", "outside-root"),
        ("outdir/secret.png", "outside-root"),
        ("loop.png", "unreadable"),
    ):
        with pytest.raises(BadPicture) as caught:
            source.read(name)
        assert caught.value.reason == reason


def test_a_pipe_is_refused_without_waiting(source):
    os.mkfifo(source.root / "pipe.png")
    with pytest.raises(BadPicture) as caught:
        source.read("pipe.png")
    assert caught.value.reason == "not-a-file"


def test_too_many_bytes_are_refused(source):
    size = len(source.read("sub/a.png"))
    with pytest.raises(BadPicture, match="too-many-bytes"):
        source.read("sub/a.png", PictureLimits(max_bytes=size - 1))
    assert len(source.read("sub/a.png", PictureLimits(max_bytes=size))) == size


def test_a_zip_is_read_under_the_same_rules(tmp_path):
    path = tmp_path / "pictures.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("sub/a.png", encode(photo()))
        archive.writestr("bomb.png", b"\0" * 1_000_000)
    source = PictureSource(path, PictureLimits(max_bytes=100_000))
    assert decode_picture(source.read("sub/a.png")).size == (64, 48)
    assert source.size_hint("sub/a.png") == (64, 48)
    for name, reason in (("b.png", "missing"), ("../a.png", "unsafe-name"), ("bomb.png", "too-many-bytes")):
        with pytest.raises(BadPicture) as caught:
            source.read(name)
        assert caught.value.reason == reason


def test_a_damaged_zip_entry_is_unreadable(tmp_path):
    path = tmp_path / "pictures.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", b"A" * 100)
    path.write_bytes(path.read_bytes().replace(b"A" * 100, b"A" * 99 + b"B"))
    with pytest.raises(BadPicture) as caught:
        PictureSource(path).read("a.png")
    assert caught.value.reason == "unreadable"


def test_the_size_comes_from_the_header_alone(source):
    assert source.size_hint("sub/a.png") == (64, 48)
    (source.root / "header.png").write_bytes(png_header(30, 20))
    assert source.size_hint("header.png") == (30, 20)
    assert source.size_hint("none.png") is None


def test_a_source_that_is_not_there_or_no_zip_is_refused(tmp_path):
    with pytest.raises(UnsafeInput, match="not there"):
        PictureSource(tmp_path / "none")
    (tmp_path / "x.zip").write_bytes(b"no zip")
    with pytest.raises(UnsafeInput, match="not a zip"):
        PictureSource(tmp_path / "x.zip")
