"""A picture resized ahead of the processor leaves it with the same values, bit for bit."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip("transformers")

from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import (
    Idefics3ImageProcessorPil,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorPil,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from extract import decode_picture
from extract.model_fit import picture_fit
from extract.picture_fit import PictureFit

PROCESSORS = {
    "clip": CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}),
    "siglip": SiglipImageProcessorPil(size={"height": 20, "width": 28}),
    "qwen2_vl": Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, size={"shortest_edge": 16 * 16, "longest_edge": 40 * 40}
    ),
}


def jpeg(size: tuple[int, int], **options: object) -> bytes:
    small = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(PROCESSORS)), st.integers(9, 150), st.integers(9, 150), st.booleans())
def test_a_fitted_picture_gives_the_processors_own_values(name, width, height, turned):
    processor = PROCESSORS[name]
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    data = jpeg((width, height), exif=exif)
    fitted = decode_picture(data, fit=picture_fit(processor))
    whole = processor(images=decode_picture(data), return_tensors="np")
    ahead = processor(images=fitted, return_tensors="np")
    assert whole.keys() == ahead.keys()
    assert all(np.array_equal(whole[key], ahead[key]) for key in whole)


def test_processors_that_tile_by_rules_of_their_own_get_whole_pictures():
    assert picture_fit(Idefics3ImageProcessorPil()) is None
    assert picture_fit(Gemma3ImageProcessorPil(do_pan_and_scan=True)) is None


def test_the_area_rule_keeps_whole_blocks_within_the_pixels_worked_by_hand():
    rule = PictureFit(kind="pixels", size=(3136, 12544), block=28)
    assert rule.target((100, 60)) == (112, 56)
    # 1000 x 500 is 39.86 times too many pixels: sides over 6.31 are 158.4 and 79.2, five and two blocks.
    assert rule.target((1000, 500)) == (140, 56)
    # 20 x 20 is 7.84 times too few: 2.8 times its sides is 56.
    assert rule.target((20, 20)) == (56, 56)


@pytest.mark.parametrize(
    ("side", "part"), [(255, 1), (256, 2), (511, 2), (512, 4), (1000, 4), (1024, 8), (9000, 8)]
)
def test_a_reduced_jpeg_keeps_twice_what_the_model_takes(side, part):
    rule = PictureFit(kind="shortest", size=(64, 0))
    assert rule.fraction((side, side + 1)) == 1
    assert rule.model_copy(update={"reduced_jpeg": True}).fraction((side, side + 1)) == part


def test_reducing_changes_a_smooth_jpeg_by_little_and_a_png_not_at_all():
    whole = PictureFit(kind="shortest", size=(16, 0))
    reduced = whole.model_copy(update={"reduced_jpeg": True})
    data = jpeg((300, 200), quality=95)
    one, other = (np.asarray(decode_picture(data, fit=fit), np.int64) for fit in (whole, reduced))
    assert one.shape == other.shape == (16, 24, 3)
    assert 0 < np.abs(one - other).mean() < 2
    buffer = io.BytesIO()
    decode_picture(data).save(buffer, "PNG")
    png = buffer.getvalue()
    assert decode_picture(png, fit=whole).tobytes() == decode_picture(png, fit=reduced).tobytes()


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([2, 3]), st.integers(9, 150), st.integers(9, 150))
def test_torch_resizes_within_two_of_pillow(resample, width, height):
    whole = PictureFit(kind="shortest", size=(16, 0), resample=resample)
    fast = whole.model_copy(update={"resizer": "torch"})
    data = jpeg((width, height))
    one, other = (np.asarray(decode_picture(data, fit=fit), np.int64) for fit in (whole, fast))
    assert one.shape == other.shape
    assert np.abs(one - other).max() <= 2


def test_a_filter_that_torch_lacks_stays_pillows():
    whole = PictureFit(kind="exact", size=(9, 9), resample=int(Image.Resampling.LANCZOS))
    fast = whole.model_copy(update={"resizer": "torch"})
    data = jpeg((40, 30))
    assert decode_picture(data, fit=whole).tobytes() == decode_picture(data, fit=fast).tobytes()
