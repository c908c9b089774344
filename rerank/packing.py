"""Forward passes over lists laid end to end: no padding, shared beginnings computed once, one state per list.

Any decoder of transformers whose layers are built like Llama's can be packed (Llama, Qwen 2 and 3, Mistral,
Gemma, Phi 3): its attention modules are swapped for one that keeps each list to itself. A beginning that
several lists share (a person's history) is read once; its keys and values stand before each list's own. The
last layer, of which only a list's last state is wanted, computes keys and values of all tokens and the rest
of the last ones alone.

Left out: flash kernels for packed sequences on accelerators; there each list is a call of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from extract.cpu_kernels import is_half, suits
from extract.decoder_kernels import fewer_passes
from rerank.packed_attention import Beginning, KeysTaken, Pack, PackedAttention


class PackedDecoder:
    """A decoder whose layers were swapped in place for packs; it can infer and no longer be trained.

    Raises:
        ValueError: its layers are built in another way.
    """

    def __init__(self, decoder: Any) -> None:
        layers = getattr(decoder, "layers", None)
        if layers is None:
            raise ValueError("no list of layers")
        # In half precision torch's own product is as fast, and rounding would move.
        pack_weights = suits(decoder) and not is_half(decoder)
        fresh = [
            PackedAttention(layer.self_attn, n, final=n == len(layers) - 1, pack_weights=pack_weights)
            for n, layer in enumerate(layers)
        ]
        self._undo: list[Callable[[], object]] = []
        for layer, attention in zip(layers, fresh, strict=True):
            self._undo.append(partial(setattr, layer, "self_attn", layer.self_attn))
            layer.self_attn = attention
        if pack_weights:
            self._undo += fewer_passes(decoder)
        self._undo.append(partial(delattr, layers[-1], "forward"))
        layers[-1].forward = partial(_last_tokens, layers[-1].forward)
        self._decoder, self._device = decoder, next(decoder.parameters()).device

    def put_back(self) -> None:
        """The decoder as it was."""
        for step in reversed(self._undo):
            step()

    def keep(self) -> None:
        """No way back any more, and no second copy of the weights."""
        self._undo = []

    def last_states(self, rows: Sequence[Sequence[int]], beginnings: Sequence[Beginning | None]) -> Tensor:
        """The last token's state [B, D] of each list that goes on behind its beginning."""
        pack = _pack(rows, beginnings)
        states: Tensor = self._run(rows, pack).last_hidden_state[0]
        return states

    def beginnings(
        self, rows: Sequence[Sequence[int]], before: Sequence[Beginning | None]
    ) -> list[Beginning]:
        """Keys and values of these tokens and of what stands before them."""
        pack = _pack(rows, before)
        pack.only_keys = True
        with suppress(KeysTaken):
            self._run(rows, pack)
        made = []
        for row, (start, end) in enumerate(pairwise(pack.bounds)):
            earlier = before[row]
            layers = [
                tuple(
                    part[:, start:end].contiguous() if earlier is None
                    else torch.cat([earlier.layers[n][which], part[:, start:end]], dim=1)
                    for which, part in enumerate(pair)
                )
                for n, pair in enumerate(pack.kept)
            ]  # fmt: skip
            length = end - start + (0 if earlier is None else earlier.length)
            made.append(Beginning(length, tuple(layers)))  # type: ignore[arg-type]
        return made

    def _run(self, rows: Sequence[Sequence[int]], pack: Pack) -> Any:
        ids = torch.tensor([token for row in rows for token in row], device=self._device)
        places = [
            torch.arange(len(row)) + (0 if beginning is None else beginning.length)
            for row, beginning in zip(rows, pack.beginnings, strict=True)
        ]
        # A mask of four dimensions is taken as it is, so that none is built for the whole pack.
        nothing = torch.zeros(1, 1, 1, 1, device=self._device)
        return self._decoder(
            input_ids=ids[None], position_ids=torch.cat(places)[None].to(self._device),
            attention_mask=nothing, use_cache=False, pack=pack,
        )  # fmt: skip


def _pack(rows: Sequence[Sequence[int]], beginnings: Sequence[Beginning | None]) -> Pack:
    return Pack([0, *accumulate(map(len, rows))], beginnings)


def _last_tokens(
    forward: Callable[..., Any], hidden_states: Tensor, *args: Any, pack: Pack,
    position_embeddings: tuple[Tensor, Tensor], **others: Any,
) -> Any:  # fmt: skip
    """The final layer: keys and values of all tokens, everything else of each list's last one."""
    try:
        forward(hidden_states, *args, pack=pack, position_embeddings=position_embeddings, **others)
    except KeysTaken:
        if pack.only_keys:
            raise
    last = torch.tensor(pack.bounds[1:], device=hidden_states.device) - 1
    cosine, sine = (part[:, last] for part in position_embeddings)
    pack.last = True
    return forward(hidden_states[:, last], *args, pack=pack, position_embeddings=(cosine, sine), **others)
