"""The swapped kernels against torch's own, on tiny random encoders."""

from __future__ import annotations

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from extract import cpu_kernels  # noqa: E402
from extract.cpu_kernels import PackedLinear, short_attention, speed_up, suits  # noqa: E402

TINY = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
needs_avx512 = pytest.mark.skipif(
    not suits(torch.nn.Linear(1, 1)), reason="this processor keeps torch's own kernels"
)


def encoder(dtype=torch.float32, **changes):
    torch.manual_seed(0)
    config = transformers.BertConfig(**TINY | changes)
    return transformers.BertModel(config).to(dtype).eval()


def batch():
    ids = torch.arange(1, 31).view(3, 10)
    return {"input_ids": ids, "attention_mask": (torch.arange(10) < torch.tensor([[10], [7], [2]])).long()}


def plain_attention(query, key, value, mask, scaling):
    scores = (query.float() @ key.float().transpose(-1, -2)) * scaling
    if mask is not None:
        scores = scores.masked_fill(~mask, -1e30)
    return (scores.softmax(-1) @ value.float()).transpose(1, 2)


@needs_avx512
@torch.inference_mode()
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_a_sped_up_encoder_gives_the_same_float32_states(activation):
    model = encoder(hidden_act=activation)
    expected = model(**batch()).last_hidden_state
    speed_up(model)
    found = model(**batch()).last_hidden_state
    packed = [module for module in model.modules() if isinstance(module, PackedLinear)]
    assert len(packed) == 2 * 6 + 1
    # Only the exact GELU is fused; the others stay behind their layer.
    assert sum(module.gelu for module in packed) == (2 if activation == "gelu" else 0)
    assert (found - expected).abs().max() < 1e-5


@needs_avx512
@torch.inference_mode()
def test_in_bfloat16_the_states_are_no_farther_from_float32_than_before():
    exact = encoder()
    half = copy.deepcopy(exact).bfloat16()
    expected = exact(**batch()).last_hidden_state
    before = (half(**batch()).last_hidden_state.float() - expected).abs().mean()
    speed_up(half)
    assert half.config._attn_implementation == cpu_kernels.ATTENTION
    after = (half(**batch()).last_hidden_state.float() - expected).abs().mean()
    assert 0 < after < 1.2 * before


@torch.inference_mode()
@pytest.mark.parametrize("masked", ["bool", "added", ""])
@pytest.mark.parametrize("scores", [1, 200, 2**18])
def test_short_attention_is_attention_whatever_the_part_size(masked, scores, monkeypatch):
    monkeypatch.setattr(cpu_kernels, "SCORES", scores)
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 5, 2, 7, 4).bfloat16().unbind(0)
    mask = (torch.arange(7) < torch.tensor([[7], [1], [3], [7], [5]]))[:, None, None] if masked else None
    module = torch.nn.Module()
    module.is_causal = False
    given = cpu_kernels._additive(mask) if masked == "added" else mask
    found, _ = short_attention(module, query, key, value, given, scaling=0.5)
    assert found.shape == (5, 7, 2, 4)
    assert (found.float() - plain_attention(query, key, value, mask, 0.5)).abs().max() < 0.03


@torch.inference_mode()
def test_a_row_that_sees_nothing_is_finite():
    query, key, value = torch.randn(3, 1, 1, 2, 4).bfloat16().unbind(0)
    mask = torch.tensor([[True, True], [False, False]])[None, None]
    found, _ = short_attention(torch.nn.Module(), query, key, value, mask)
    assert torch.isfinite(found).all()


@torch.inference_mode()
@pytest.mark.parametrize("case", ["float32", "causal", "groups", "bias", "added"])
def test_all_else_is_left_to_transformers(case, monkeypatch):
    called = []
    monkeypatch.setattr(
        cpu_kernels, "sdpa_attention_forward", lambda *a, **k: called.append(a) or (None, None)
    )
    query, key, value = torch.randn(3, 1, 2, 3, 4).bfloat16().unbind(0)
    module = torch.nn.Module()
    module.is_causal = case == "causal"
    options = {"position_bias": torch.zeros(1, 2, 3, 3)} if case == "bias" else {}
    if case == "float32":
        query, key, value = query.float(), key.float(), value.float()
    mask = None
    if case in ("groups", "added"):
        key, value = key[:, :1], value[:, :1]
    if case == "added":
        # What torch's function takes must be of the query's type, and the lowest value must stay finite.
        mask = torch.full((1, 1, 3, 3), torch.finfo(torch.bfloat16).min)
    short_attention(module, query, key, value, mask, **options)
    assert len(called) == 1
    if case == "added":
        assert called[0][4].dtype == torch.bfloat16 and torch.isfinite(called[0][4]).all()


@needs_avx512
def test_a_subclass_of_linear_keeps_its_own_forward():
    class Twice(torch.nn.Linear):
        def forward(self, inputs):
            return 2 * super().forward(inputs)

    model = torch.nn.Sequential(Twice(2, 2), torch.nn.Linear(2, 2), torch.nn.Linear(2, 2).half())
    speed_up(model)
    assert [type(module) for module in model] == [Twice, PackedLinear, torch.nn.Linear]


def test_a_machine_without_the_wide_registers_keeps_torchs_kernels(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert not suits(torch.nn.Linear(1, 1))
    assert not suits(torch.nn.Linear(1, 1, device="meta"))


class Reader(torch.nn.Module):
    """Multiplies the weights of its layer itself, as fused fast paths do."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, inputs):
        return torch.nn.functional.linear(inputs, self.linear.weight, self.linear.bias)


@needs_avx512
@torch.inference_mode()
@pytest.mark.parametrize("trouble", ["raises", "differs"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_that_a_model_cannot_bear_are_put_back_bit_for_bit(dtype, trouble, monkeypatch, caplog):
    part = encoder(dtype)
    model = torch.nn.ModuleList([part, Reader().to(dtype)])
    inputs = torch.ones(1, 4, dtype=dtype)

    def probe():
        read = model[1](inputs) if trouble == "raises" else inputs
        return np.append(read.float().numpy(), part(**batch()).last_hidden_state.float().numpy())

    if trouble == "differs":
        real = PackedLinear.forward
        monkeypatch.setattr(PackedLinear, "forward", lambda self, x: -9 * real(self, x))
    before, names = probe(), [type(module) for module in model.modules()]
    speed_up(model, probe)
    assert [type(module) for module in model.modules()] == names
    assert part.config._attn_implementation == "sdpa"
    assert np.array_equal(probe(), before)
    assert "keeps torch's own kernels" in caplog.text


@needs_avx512
@torch.inference_mode()
def test_a_layer_with_a_hook_keeps_it():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    model[0].register_forward_hook(lambda module, inputs, output: output * 0)
    speed_up(model)
    assert [type(module) for module in model] == [torch.nn.Linear, PackedLinear]


@needs_avx512
@torch.inference_mode()
def test_attention_is_swapped_in_every_model_that_another_module_holds():
    model = torch.nn.Sequential(encoder(torch.bfloat16), encoder(torch.float32))
    speed_up(model)
    assert [part.config._attn_implementation for part in model] == [cpu_kernels.ATTENTION, "sdpa"]
