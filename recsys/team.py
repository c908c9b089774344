"""One training shared by processes that `torchrun` started: a batch is cut into parts, each process computes
some of them, and the gradients are added in the order of the parts.

So the number of processes decides nothing about the result. Rank 0 alone has the optimizer, validates and
writes; the others are told the weights before each step and send gradients back. Every part propagates the
whole graph: two processes halve the time of two parts, not of one.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from recsys.two_tower import TwoTower

# Rank 0 may caption for days before it trains. Nobody waits for the dead: `torchrun` ends all if one fails.
LONGEST_WAIT = timedelta(days=30)
OVER = -1


@dataclass(frozen=True, slots=True)
class Team:
    """Who computes: this process, `rank`, of `size`; by default it is alone."""

    rank: int = 0
    size: int = 1

    def backward(self, model: TwoTower, batch: Sequence[Tensor], parts: int, epoch: int, step: int) -> Tensor:
        """On rank 0: the loss [] of B triples (int64 [B] each); the parameters are left with its gradients.

        With several parts it is the mean of the parts' losses by length: the loss of the batch wherever that
        is a mean over triples; contrasts within a batch become contrasts within a part.
        """
        if parts == 1:
            loss = model.loss(*batch)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.detach()
        if self.size > 1:
            dist.broadcast(torch.tensor([epoch, step]), 0)
            self._share_weights(model)
        parameters = [p for p in model.parameters() if p.requires_grad]
        total = part_gradient(model, batch, parts, 0, epoch, step)
        for part in range(1, min(parts, len(batch[0]))):
            if part % self.size == 0:
                total += part_gradient(model, batch, parts, part, epoch, step)
            else:
                sent = torch.empty(total.shape)
                dist.recv(sent, part % self.size)
                total += sent.to(total.device)
        pieces = torch.split(total[1:], [p.numel() for p in parameters])
        for parameter, piece in zip(parameters, pieces, strict=True):
            parameter.grad = piece.view_as(parameter)
        return total[0]

    def answer(self, model: TwoTower, batch: Sequence[Tensor], parts: int, epoch: int, step: int) -> None:
        """On any other rank: computes its parts of a step of `backward` and sends them to rank 0."""
        self._share_weights(model)
        for part in range(self.rank, min(parts, len(batch[0])), self.size):
            dist.send(part_gradient(model, batch, parts, part, epoch, step).cpu(), 0)

    def tell(self, kind: str, *work: Any) -> None:
        """On rank 0: the others are to take part in this `work`, any picklable values, as they know how."""
        if self.size > 1:
            dist.broadcast_object_list([(torch.get_num_threads(), kind, work)], 0)

    @contextmanager
    def leading(self, kind: str, *work: Any) -> Iterator[None]:
        """On rank 0: the others answer each `backward` of this `work` while the block lasts."""
        if self.size == 1:
            yield
            return
        self.tell(kind, *work)
        yield
        # Not after an error: the others may be within a step, and `torchrun` ends them with this process.
        dist.broadcast(torch.tensor([OVER, 0]), 0)

    def follow(self) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """On any other rank: the kinds and values that rank 0 tells, until it calls `dismiss`."""
        while True:
            told: list[Any] = [None]
            with warnings.catch_warnings():
                # Torch announces once per process that CSR is in beta.
                warnings.simplefilter("ignore", UserWarning)
                dist.broadcast_object_list(told, 0)
            if told[0] is None:
                dist.destroy_process_group()
                return
            threads, kind, work = told[0]
            # Another number of threads may add up in another order.
            torch.set_num_threads(threads)
            yield kind, work

    def steps(self) -> Iterator[tuple[int, int]]:
        """On any other rank: epoch and step of each `backward` to `answer`, until rank 0 has done."""
        while True:
            told = torch.empty(2, dtype=torch.int64)
            dist.broadcast(told, 0)
            epoch, step = told.tolist()
            if epoch == OVER:
                return
            yield epoch, step

    def dismiss(self) -> None:
        """On rank 0: nothing more will be led."""
        if self.size > 1:
            dist.broadcast_object_list([None], 0)
            dist.destroy_process_group()

    def _share_weights(self, model: TwoTower) -> None:
        for tensor in model.state_dict().values():
            held = tensor.cpu()
            dist.broadcast(held, 0)
            if self.rank:
                tensor.copy_(held)


def join() -> Team:
    """The team of this process: alone, unless `torchrun` started it with others."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Team()
    if not dist.is_initialized():
        # Its default arguments are the group of the moment: imported later, as by an optimizer, it would keep
        # the group alive past `dismiss`, and threads of gloo that outlive Python abort the process.
        importlib.import_module("torch.distributed.nn.functional")
        dist.init_process_group("gloo", timeout=LONGEST_WAIT)
    return Team(dist.get_rank(), dist.get_world_size())


def part_gradient(
    model: TwoTower, batch: Sequence[Tensor], parts: int, part: int, epoch: int, step: int
) -> Tensor:
    """Loss and gradients of one part, times its share of the batch, as one vector [1 + number of weights]."""
    model.start_part(epoch, step * parts + part)
    cuts = min(parts, len(batch[0]))
    rows = [values.tensor_split(cuts)[part] for values in batch]
    loss = model.loss(*rows) * (len(rows[0]) / len(batch[0]))
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([loss.detach().view(1), *(g.reshape(-1) for g in gradients)])
