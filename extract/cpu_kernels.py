"""Faster kernels for a transformer's inference on a CPU: the same mathematics, other loops.

Measured on two AVX-512 cores of which torch's default float32 product (MKL) uses half the vector width:
nine tenths of an embedder's time are spent in linear layers, and oneDNN multiplies packed weights 2.3 times
as fast, GELU included. In bfloat16 the rest matters: torch's attention, made for long sequences, takes three
times as long on short ones as two batched products around a float32 softmax.

Left out: own forward passes of single architectures (fused query-key-value, sequences without padding), which
would gain little more, and torch.compile, whose compilation takes longer than a small catalogue.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.activations import GELUActivation
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from extract.cpu_share import keep_freed_memory
from extract.faults import describe

logger = logging.getLogger(__name__)

ATTENTION = "catalograph_short"
"""Name under which transformers finds `short_attention`."""

SCORES = 2**18
"""Attention scores worked on at a time: 1 MB in float32, so that they stay in a core's cache."""


def suits(model: nn.Module) -> bool:
    """Whether this machine and these weights gain: AVX-512, oneDNN, everything on the CPU."""
    places = {weight.device.type for weight in model.parameters()}
    return (
        places == {"cpu"}
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def speed_up(model: nn.Module, probe: Callable[[], NDArray[np.float32]] | None = None) -> None:
    """Swap kernels inside a model in place; afterwards it can infer but not be trained.

    Float32 results move by rounding only (about 1e-7 of a unit vector). In bfloat16 the softmax becomes
    more exact, because it is taken in float32.

    Args:
        model: transformers' own, or one that holds such models.
        probe: the results of a small input; if the swapped kernels raise or give others, they are put back.
    """
    keep_freed_memory()
    before = None if probe is None else probe()
    undo: list[Callable[[], object]] = []
    _pack(model, undo)
    _shorten(model, undo)
    if probe is None or before is None:
        return
    try:
        moved = np.linalg.norm(probe() - before) / np.linalg.norm(before)
        why = "" if moved < (0.05 if is_half(model) else 1e-3) else f"results move by {moved:.1e}"
    except Exception as error:
        # Modules that multiply their layers' weights themselves raise whatever torch makes of packed ones.
        why = describe(error)
    if why:
        logger.warning("%s keeps torch's own kernels: %s", type(model).__name__, why)
        for step in reversed(undo):
            step()


def is_half(model: nn.Module) -> bool:
    """Whether some weights have less than float32's precision."""
    return any(weight.dtype != torch.float32 for weight in model.parameters() if weight.is_floating_point())


class PackedLinear(nn.Module):
    """A linear layer on weights in oneDNN's own order, optionally with exact GELU behind it."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self._bias = None if linear.bias is None else linear.bias.detach()
        self.gelu = False

    def unpacked(self) -> nn.Linear:
        """The layer it was made from, with the same weights bit for bit."""
        weight = self._packed.to_dense()
        bias = self._bias is not None
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias, device="meta", dtype=weight.dtype)
        linear.weight = nn.Parameter(weight, requires_grad=False)
        if self._bias is not None:
            linear.bias = nn.Parameter(self._bias, requires_grad=False)
        return linear

    @property
    def weight(self) -> Tensor:
        """The packed weight [out, in]; some models ask it for its type."""
        weight: Tensor = self._packed
        return weight

    @property
    def bias(self) -> Tensor | None:
        """The bias [out]."""
        return self._bias

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        # oneDNN's exact GELU goes by "none", as in torch's `approximate`.
        after = ("gelu", "none") if self.gelu else ("none", "")
        result: Tensor = torch.ops.mkldnn._linear_pointwise(
            inputs, self._packed, self._bias, after[0], [], after[1]
        )
        return result


def _packs(layer: nn.Module) -> bool:
    # Subclasses (adapters, quantised layers) have a forward of their own; hooks would be lost.
    return (
        type(layer) is nn.Linear
        and layer.weight.dtype in (torch.float32, torch.bfloat16)
        and not (layer._forward_hooks or layer._forward_pre_hooks)
    )


def _pack(module: nn.Module, undo: list[Callable[[], object]]) -> None:
    for name, child in module.named_children():
        if _packs(child):
            setattr(module, name, PackedLinear(child))  # type: ignore[arg-type]
            # The old layers themselves would double the memory until the check is over.
            undo.append(partial(_unpack, module, name))
        else:
            _pack(child, undo)
    # The feed-forward block of BERT and its many relatives: activation(dense(x)).
    dense, activation = getattr(module, "dense", None), getattr(module, "intermediate_act_fn", None)
    exact = isinstance(activation, GELUActivation) or getattr(activation, "approximate", "") == "none"
    if isinstance(dense, PackedLinear) and exact:
        dense.gelu = True
        undo.append(partial(setattr, module, "intermediate_act_fn", activation))
        module.intermediate_act_fn = nn.Identity()


def _unpack(module: nn.Module, name: str) -> None:
    setattr(module, name, getattr(module, name).unpacked())


def _shorten(model: nn.Module, undo: list[Callable[[], object]]) -> None:
    # Other attentions, chosen by the model's author or unknown to transformers' table, are left alone.
    parts = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
    for part in parts:
        if part.config._attn_implementation == "sdpa" and part.dtype == torch.bfloat16:
            AttentionInterface.register(ATTENTION, short_attention)
            AttentionMaskInterface.register(ATTENTION, additive_mask)
            # Of this part alone: a text half and a picture half may have attentions of their own.
            part.set_attn_implementation({"": ATTENTION})
            undo.append(partial(part.set_attn_implementation, {"": "sdpa"}))


def additive_mask(*args: Any, **options: Any) -> Tensor | None:
    """transformers' mask as numbers to add, float32, made once for all layers; None where all is seen."""
    mask = sdpa_mask(*args, **options)
    return None if mask is None else _additive(mask)


def _additive(mask: Tensor) -> Tensor:
    # The lowest finite value instead of -inf: a row that may see nothing must not become NaN.
    return torch.where(mask, 0.0, torch.finfo(torch.bfloat16).min)


def short_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: [B, H, L, d] x 3 and a mask -> [B, L, H, d].

    The mask is bool, or float32 to be added, or None.

    Anything but plain bfloat16 self-attention without cache and bias goes to transformers' own function.
    """
    causal = options.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    plain = (
        query.dtype == torch.bfloat16
        and query.shape == key.shape == value.shape
        and dropout == 0
        and (attention_mask is not None or not causal)
        and (attention_mask is None or attention_mask.dtype in (torch.bool, torch.float32))
        and all(options.get(name) is None for name in ("position_bias", "softcap", "cache", "s_aux"))
    )
    if not plain:
        if attention_mask is not None and attention_mask.is_floating_point():
            attention_mask = attention_mask.to(query.dtype)
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
    return _attend(query, key, value, attention_mask, scaling or query.shape[-1] ** -0.5), None


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    lists, heads, length, width = query.shape
    step = max(1, SCORES // (heads * length * length))
    bias = None
    if mask is not None:
        bias = (_additive(mask) if mask.dtype == torch.bool else mask).expand(lists, -1, -1, -1)
    result = query.new_empty(lists, length, heads, width)
    for start in range(0, lists, step):
        part = slice(start, start + step)
        scores = torch.matmul(query[part], key[part].transpose(-1, -2)).float()
        if bias is None:
            scores *= scaling
        else:
            torch.add(bias[part], scores, alpha=scaling, out=scores)
        weights = torch.softmax(scores, -1).to(value.dtype)
        result[part] = torch.matmul(weights, value[part]).transpose(1, 2)
    return result
