"""Self-attention over lists laid end to end: each list sees itself and the beginning before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from extract.cpu_kernels import PackedLinear

KNOWN = {"q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "q_norm", "k_norm"}
"""Parts of an attention module that are understood; one with others is left alone."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """Tokens that lists share: their number S, and keys and values [heads, S, d] of every layer."""

    length: int
    layers: tuple[tuple[Tensor, Tensor], ...]


@dataclass(slots=True)
class Pack:
    """What the layers are told of B lists laid end to end.

    Attributes:
        bounds: [B + 1] where each list begins, and the end of the last.
        beginnings: [B] what stands before each list.
        only_keys: whether nothing but keys and values is wanted.
        kept: keys and values [heads, T, d] of the pack's own tokens, by layer, if they are wanted.
        last: whether the final layer works on the lists' last tokens now.
    """

    bounds: list[int]
    beginnings: Sequence[Beginning | None]
    only_keys: bool = False
    kept: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    last: bool = False
    masks: dict[tuple[int, int, int | None], Tensor | None] = field(default_factory=dict)

    def mask(self, new: int, before: int, window: int | None, device: torch.device) -> Tensor | None:
        """What `new` tokens see of `before` others and themselves, [new, before + new]; None: causal."""
        far = window is not None and before + new > window
        key = (new, before, window if far else None)
        if key not in self.masks:
            seen = None
            if before or far:
                seen = torch.ones(new, before + new, dtype=torch.bool, device=device).tril(before)
                if far:
                    seen = seen.triu(before + 1 - (window or 0))
            self.masks[key] = seen
        return self.masks[key]


class KeysTaken(Exception):
    """Ends a pass that only wanted keys and values."""


class PackedAttention(nn.Module):
    """Self-attention of one decoder layer over a pack."""

    def __init__(self, attention: Any, layer: int, *, final: bool, pack_weights: bool) -> None:
        super().__init__()
        if unknown := {name for name, _ in attention.named_children()} - KNOWN:
            raise ValueError(f"attention with {', '.join(sorted(unknown))}")
        if next(iter(attention.parameters(recurse=False)), None) is not None:
            raise ValueError("attention with weights of its own")
        config = attention.config
        self.layer, self.final, self.scaling = layer, final, attention.scaling
        self.width = attention.head_dim
        self.window = getattr(attention, "sliding_window", getattr(config, "sliding_window", None))
        self.softcap = getattr(attention, "attn_logit_softcapping", None)
        self.q_norm, self.k_norm = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))
        if any(
            norm is not None and norm.weight.shape != (self.width,) for norm in (self.q_norm, self.k_norm)
        ):
            raise ValueError("a norm over all heads")
        query, key, value = _projections(attention, self.width)
        self.heads, self.groups = (part.weight.shape[0] // self.width for part in (query, key))
        self.query, self.key_value = _packed(query, pack_weights), _packed(_joined(key, value), pack_weights)
        self.output = _packed(attention.o_proj, pack_weights)

    def forward(
        self, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], *, pack: Pack, **others: Any
    ) -> tuple[Tensor, None]:
        """States [1, T, D] -> [1, T, D], or of the last tokens [1, B, D] -> [1, B, D]."""
        states = hidden_states[0]
        if not pack.last:
            keys, values = self.key_value(states).view(len(states), 2, self.groups, self.width).unbind(1)
            if self.k_norm is not None:
                keys = self.k_norm(keys)
            keys, values = _turned(keys, position_embeddings), values.transpose(0, 1)
            if self.final or pack.only_keys:
                pack.kept.append((keys, values))
            if self.final:
                raise KeysTaken
        else:
            keys, values = pack.kept[-1]
        query = self.query(states).view(len(states), self.heads, self.width)
        if self.q_norm is not None:
            query = self.q_norm(query)
        attended = self._attend(_turned(query, position_embeddings), keys, values, pack)
        return self.output(attended.reshape(len(states), -1))[None], None

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor, pack: Pack) -> Tensor:
        """Queries [H, T, d] against keys and values [G, T, d], each list for itself -> [T, H, d]."""
        result = query.new_empty(query.shape[1], self.heads, self.width)
        for row, (start, end) in enumerate(pairwise(pack.bounds)):
            beginning = pack.beginnings[row]
            key, value = keys[:, start:end], values[:, start:end]
            before = 0
            if beginning is not None:
                before = beginning.length
                key, value = (
                    torch.cat(pair, dim=1)
                    for pair in zip(beginning.layers[self.layer], (key, value), strict=True)
                )
            mine = slice(row, row + 1) if pack.last else slice(start, end)
            if pack.last and self.window is not None:
                key, value = key[:, -self.window :], value[:, -self.window :]
            mask = None if pack.last else pack.mask(end - start, before, self.window, query.device)
            result[mine] = self._one(query[:, mine], key, value, mask, causal=mask is None and not pack.last)
        return result

    def _one(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, causal: bool) -> Tensor:
        """One list: queries [H, N, d], keys and values [G, S, d] -> [N, H, d]."""
        grouped = query.view(self.groups, self.heads // self.groups, *query.shape[1:])
        key, value = (part[:, None].expand(-1, grouped.shape[1], -1, -1) for part in (key, value))
        if self.softcap is None:
            found = scaled_dot_product_attention(
                grouped, key, value, attn_mask=mask, is_causal=causal, scale=self.scaling
            )
        else:
            scores = self.softcap * torch.tanh(grouped @ key.mT * (self.scaling / self.softcap))
            if causal:
                mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
            if mask is not None:
                scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
            found = torch.softmax(scores.float(), -1).to(value.dtype) @ value
        return found.reshape(self.heads, *query.shape[1:]).transpose(0, 1)


def _projections(attention: Any, width: int) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
    """The three projections; Phi 3 has them in one."""
    whole = getattr(attention, "qkv_proj", None)
    if whole is None:
        return attention.q_proj, attention.k_proj, attention.v_proj
    groups = attention.config.num_key_value_heads * width
    sizes = [whole.weight.shape[0] - 2 * groups, groups, groups]
    return tuple(map(_linear, whole.weight.split(sizes)))  # type: ignore[return-value]


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta", dtype=weight.dtype)
    linear.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return linear


def _joined(first: nn.Linear, second: nn.Linear) -> nn.Linear:
    bias = None if first.bias is None else torch.cat([first.bias, second.bias])
    return _linear(torch.cat([first.weight, second.weight]), bias)


def _packed(linear: nn.Linear, pack_weights: bool) -> nn.Module:
    if type(linear) is not nn.Linear:
        raise ValueError(f"a projection of type {type(linear).__name__}")
    return PackedLinear(linear) if pack_weights else linear


def _turned(states: Tensor, position_embeddings: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions: [T, H, d] -> [H, T, d]; dimensions beyond the embeddings' width stay as they are."""
    cosine, sine = (part[0] for part in position_embeddings)
    half = cosine.shape[-1] // 2
    cosine, sine = cosine[:, :half], sine[:, :half]
    states = states.transpose(0, 1)
    result = torch.empty(states.shape, dtype=states.dtype, device=states.device)
    left, right = states[..., :half], states[..., half : 2 * half]
    torch.mul(left, cosine, out=result[..., :half]).addcmul_(right, sine, value=-1)
    torch.mul(right, cosine, out=result[..., half : 2 * half]).addcmul_(left, sine)
    if 2 * half < states.shape[-1]:
        result[..., 2 * half :] = states[..., 2 * half :]
    return result
