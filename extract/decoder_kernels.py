"""Fewer passes over memory for a transformer's feed-forward blocks and norms on a CPU: the same mathematics.

With oneDNN's packed weights (`extract.cpu_kernels`) a small decoder spends over half its time on numbers that
are read and written between products. Gate, activation and product of a gated block become oneDNN's own last
steps of the linear layers, the quick GELU of CLIP's block too; a root mean square norm needs two passes
instead of five.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from extract.cpu_kernels import PackedLinear

GATES = {"SiLUActivation": ("swish", ""), "SiLU": ("swish", ""), "GELUTanh": ("gelu", "tanh"),
         "PytorchGELUTanh": ("gelu", "tanh")}  # fmt: skip
"""Activations oneDNN can take behind a product: class name to its name and variant."""
QUICK = 1.702
"""The factor inside the quick GELU (Hendrycks and Gimpel, arXiv 1606.08415, section 2)."""


class GatedBlock(nn.Module):
    """down(activation(gate(x)) * up(x)) on packed weights."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        name, variant = GATES[type(block.act_fn).__name__]
        self._after: tuple[str, list[float], str] = (name, [], variant)
        self.gate, self.up, self.down = (
            PackedLinear(layer) for layer in (block.gate_proj, block.up_proj, block.down_proj)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        gate = torch.ops.mkldnn._linear_pointwise(inputs, self.gate.weight, self.gate.bias, *self._after)
        product = torch.ops.mkldnn._linear_pointwise.binary(inputs, gate, self.up.weight, self.up.bias, "mul")
        result: Tensor = self.down(product)
        return result


class QuickBlock(nn.Module):
    """fc2(y * sigmoid(s y)) with y = fc1(x) and s = 1.702, on packed weights.

    oneDNN knows z * sigmoid(z) only: s goes into the weights before it, and 1 / s into those behind it.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        first, second = copy.deepcopy(block.fc1), copy.deepcopy(block.fc2)
        first.weight.mul_(QUICK)
        if first.bias is not None:
            first.bias.mul_(QUICK)
        second.weight.div_(QUICK)
        self.first, self.second = PackedLinear(first), PackedLinear(second)

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        first = self.first
        inner = torch.ops.mkldnn._linear_pointwise(inputs, first.weight, first.bias, "swish", [], "")
        result: Tensor = self.second(inner)
        return result


class RootMeanSquareNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) times a weight, which is taken as it is or with 1 added (Gemma)."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__()
        self._weight, self._eps = weight, eps

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        length = torch.linalg.vector_norm(inputs, dim=-1, keepdim=True)
        scale = torch.rsqrt(length.square_().div_(inputs.shape[-1]).add_(self._eps))
        return (inputs * scale).mul_(self._weight)


def fewer_passes(model: nn.Module) -> list[Callable[[], object]]:
    """Swap the feed-forward blocks and norms of a float32 model in place, and say how to put them back."""
    undo: list[Callable[[], object]] = []
    _swap(model, undo)
    return undo


def _swap(module: nn.Module, undo: list[Callable[[], object]]) -> None:
    for name, child in module.named_children():
        fresh = _gated(child) or _quick(child) or _norm(child)
        if fresh is None:
            _swap(child, undo)
        else:
            undo.append(partial(setattr, module, name, child))
            setattr(module, name, fresh)


def _gated(block: Any) -> nn.Module | None:
    layers = [getattr(block, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    known = {"gate_proj", "up_proj", "down_proj", "act_fn"} == {name for name, _ in block.named_children()}
    plain = all(type(layer) is nn.Linear and layer.weight.dtype == torch.float32 for layer in layers)
    if not (known and plain and type(block.act_fn).__name__ in GATES):
        return None
    return GatedBlock(block)


@torch.no_grad()
def _quick(block: Any) -> nn.Module | None:
    layers = [getattr(block, name, None) for name in ("fc1", "fc2")]
    known = {"fc1", "activation_fn", "fc2"} == {name for name, _ in block.named_children()}
    plain = all(type(layer) is nn.Linear and layer.weight.dtype == torch.float32 for layer in layers)
    if not (known and plain and type(block.activation_fn).__name__ == "QuickGELUActivation"):
        return None
    fresh = QuickBlock(block)
    return fresh if _alike(fresh, block, block.fc1.in_features) else None


def _alike(fresh: nn.Module, found: nn.Module, width: int) -> bool:
    """Whether two modules give the same for a sample: names alone do not say what a forward pass does."""
    sample = torch.linspace(-2, 3, width)[None]
    try:
        return torch.allclose(fresh(sample), found(sample), rtol=1e-5, atol=1e-5)
    except Exception:
        # Whatever a forward pass with other arguments raises, it is another one.
        return False


@torch.no_grad()
def _norm(module: Any) -> nn.Module | None:
    weight = getattr(module, "weight", None)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not type(module).__name__.endswith("RMSNorm") or eps is None or weight is None:
        return None
    # Some add 1 to the weight.
    for candidate in (weight.detach(), 1 + weight.detach()):
        fresh = RootMeanSquareNorm(candidate, float(eps))
        if weight.dtype == torch.float32 and _alike(fresh, module, len(weight)):
            return fresh
    return None
