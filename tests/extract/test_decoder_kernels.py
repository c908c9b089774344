"""Blocks whose activation is taken inside the product: the same numbers, and no guess from names."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.activations import QuickGELUActivation

from extract.cpu_kernels import suits
from extract.decoder_kernels import fewer_passes

pytestmark = pytest.mark.skipif(not suits(nn.Linear(2, 2)), reason="needs AVX-512 and oneDNN")


class Block(nn.Module):
    def __init__(self, twice: bool) -> None:
        super().__init__()
        self.fc1, self.activation_fn, self.fc2 = nn.Linear(6, 8), QuickGELUActivation(), nn.Linear(8, 6)
        self._twice = twice

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        result = self.fc2(self.activation_fn(self.fc1(inputs)))
        return 2 * result if self._twice else result


def test_a_vision_towers_states_move_by_rounding_only_and_come_back():
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16,
        patch_size=8,
    )  # fmt: skip
    model, pictures = CLIPVisionModel(config).eval(), torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        before = model(pictures).last_hidden_state
        undo = fewer_passes(model)
        swapped = [type(part).__name__ for part in model.modules()].count("QuickBlock")
        after = model(pictures).last_hidden_state
        for step in undo:
            step()
        again = model(pictures).last_hidden_state
    assert swapped == 2
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
    assert torch.equal(again, before)


class Masked(Block):
    def forward(self, inputs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return super().forward(inputs) * mask


def test_a_block_that_takes_more_than_its_input_stays():
    assert not fewer_passes(nn.Sequential(Masked(twice=False)))


@pytest.mark.parametrize(("twice", "swaps"), [(False, 1), (True, 0)])
def test_a_block_of_known_names_is_swapped_only_if_it_does_what_they_say(twice, swaps):
    torch.manual_seed(0)
    assert len(fewer_passes(nn.Sequential(Block(twice)))) == swaps
