"""JPEGs decoded beside Pillow: the same pixels, and Pillow's own answer for whatever is not plain."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from extract import BadPicture, decode_picture, jpeg
from extract.jpeg import jpeg_pixels

pytest.importorskip("simplejpeg")


def written(picture: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def drawn(width: int, height: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def pixels_of(data: bytes) -> np.ndarray | None:
    return jpeg_pixels(data, Image.open(io.BytesIO(data)))


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 70), st.integers(1, 70), st.integers(30, 100),
    st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]), st.booleans(), st.integers(0, 9),
)  # fmt: skip
def test_pixels_are_pillows_whatever_the_size_quality_and_sampling(
    width, height, quality, sampling, progressive, seed
):
    data = written(drawn(width, height, seed), quality=quality, subsampling=sampling, progressive=progressive)
    found = pixels_of(data)
    assert found is not None
    np.testing.assert_array_equal(found, np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_print_colours_stay_pillows(mode):
    assert pixels_of(written(drawn(20, 10, mode=mode))) is None


def test_a_picture_of_another_format_stays_pillows():
    buffer = io.BytesIO()
    drawn(9, 9).save(buffer, "PNG")
    assert pixels_of(buffer.getvalue()) is None


def test_headers_that_disagree_about_the_size_stay_pillows():
    data = written(drawn(16, 24))
    other = Image.open(io.BytesIO(written(drawn(24, 16))))
    assert jpeg_pixels(data, other) is None


@settings(max_examples=150, deadline=None)
@given(st.integers(2, 2500), st.integers(0, 255), st.booleans())
def test_a_damaged_picture_has_pillows_pixels_or_pillows_refusal(place, value, cut):
    data = bytearray(written(drawn(90, 60), quality=90))
    place %= len(data)
    if cut:
        del data[place:]
    else:
        data[place] = value
    found = answer(bytes(data))
    kept, jpeg.simplejpeg = jpeg.simplejpeg, None
    try:
        assert found == answer(bytes(data))
    finally:
        jpeg.simplejpeg = kept


def answer(data: bytes) -> object:
    try:
        picture = decode_picture(data)
    except BadPicture as bad:
        return bad.reason
    return picture.size, picture.tobytes()


def test_a_sampling_of_colours_it_does_not_know_is_decoded_by_pillow():
    data = bytearray(written(drawn(64, 64), subsampling="4:4:4"))
    data[data.index(b"\xff\xc0") + 11] = 0x14  # brightness 1 x 4: 4:4:1
    assert pixels_of(bytes(data)) is None
    assert answer(bytes(data)) != "broken"


def test_beside_a_pillow_on_another_library_it_is_not_used(monkeypatch):
    monkeypatch.setattr(jpeg, "SAME_LIBRARY", False)
    assert pixels_of(written(drawn(8, 8))) is None


def test_a_turned_picture_is_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = written(drawn(30, 10), exif=exif, quality=95)
    whole = np.asarray(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(np.asarray(decode_picture(data)), np.rot90(whole, -1))


def test_without_the_package_pillow_decodes(monkeypatch):
    monkeypatch.setattr(jpeg, "simplejpeg", None)
    data = written(drawn(8, 8))
    assert pixels_of(data) is None
    np.testing.assert_array_equal(np.asarray(decode_picture(data)), np.asarray(Image.open(io.BytesIO(data))))
