"""Inputs put together from parts are those of the processor; where they would differ, it writes them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("transformers")

import torch
from transformers import BatchFeature, CLIPImageProcessorPil

from extract.picture_inputs import PictureInputs


class Processor:
    """A family's processor: letters are tokens, padded on the left; counts the texts and pictures it gets."""

    def __init__(self, **options):
        sides = {"size": {"shortest_edge": 8}, "crop_size": {"height": 8, "width": 8}}
        self.image_processor = CLIPImageProcessorPil(**(sides | options))
        self.asked = []

    def __call__(self, images, text, return_tensors, padding, add_special_tokens):
        self.asked.append(len(text))
        longest = max(map(len, text))
        ids = [[0] * (longest - len(line)) + list(map(ord, line)) for line in text]
        pixels = self.image_processor([image for (image,) in images], return_tensors="pt")["pixel_values"]
        return BatchFeature(self.more({"input_ids": torch.tensor(ids), "pixel_values": pixels}))

    def more(self, inputs):
        return inputs


def pictures(count: int, size=(8, 8)):
    rng = np.random.default_rng(count)
    return [Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)) for _ in range(count)]


def inputs_of(processor, images, texts):
    return PictureInputs(processor)(images, texts, add_special_tokens=True)


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-6)


def whole(processor, images, texts):
    return processor([[image] for image in images], texts, "pt", True, True)


@pytest.mark.parametrize(
    "options",
    [{}, {"do_rescale": False}, {"image_mean": [0.1, 0.2, 0.3]}, {"image_mean": 0.5, "image_std": 0.25}],
)
def test_equal_texts_are_read_once_and_the_inputs_are_the_processors_own(options):
    processor, images = Processor(**options), pictures(6)
    texts = ["bag", "bag", "a bag", "bag", "a bag", "bag"]
    inputs = PictureInputs(processor)
    first = inputs(images, texts, add_special_tokens=True)
    assert processor.asked == [2, 6]  # the two ways of the trial
    second = inputs(images, texts, add_special_tokens=True)
    assert processor.asked == [2, 6, 2]
    expected = whole(Processor(**options), images, texts)
    assert_equal(first, expected)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_pictures_that_would_be_cut_or_are_of_several_sizes_are_the_processors_affair():
    for images in (pictures(4, (8, 12)), pictures(2) + pictures(2, (12, 8))):
        processor = Processor()
        inputs = PictureInputs(processor)
        for _ in range(2):
            assert_equal(
                inputs(images, ["x"] * 4, add_special_tokens=True), whole(Processor(), images, ["x"] * 4)
            )
        assert processor.asked[-1] == 4


def test_texts_that_are_all_different_gain_nothing_and_go_straight_to_the_processor():
    processor = Processor()
    inputs_of(processor, pictures(3), ["a", "b", "c"])
    assert processor.asked == [3]


class Patches(Processor):
    """Pixel values by patch, as Qwen's."""

    def more(self, inputs):
        return inputs | {"pixel_values": inputs["pixel_values"].reshape(-1, 96)}


class Odd(Processor):
    """An input that is no tensor, and one that the picture decides."""

    def more(self, inputs):
        return inputs | {"sizes": [1], "bright": inputs["pixel_values"].mean((1, 2, 3))}


@pytest.mark.parametrize("kind", [Patches, Odd])
def test_a_processor_that_does_more_is_left_to_do_it(kind):
    processor, images = kind(), pictures(4)
    inputs = PictureInputs(processor)
    for _ in range(2):
        found = inputs(images, ["x"] * 4, add_special_tokens=True)
    assert processor.asked == [1, 4, 4, 4]
    assert torch.equal(found["pixel_values"], whole(kind(), images, ["x"] * 4)["pixel_values"])
