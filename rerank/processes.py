"""Fine-tuning shared by processes that `torchrun` started: one runs the command, the others train along.

Every process takes its share of a step's forward passes, see `rerank.train`. The first tells the others what
to train on, and validates, writes and decides alone.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from rerank.train import fine_tune

# The first process may caption for days before it trains. Nobody waits for the dead: `torchrun` ends all if
# one fails.
LONGEST_WAIT = timedelta(days=30)


def alone() -> bool:
    """Whether this process has no others beside it."""
    return int(os.environ.get("WORLD_SIZE", "1")) == 1


def tell(*work: Any) -> None:
    """On the first process, before it calls `fine_tune(*work)`: the others are to call it too."""
    if not alone():
        _meet()
        dist.broadcast_object_list([(torch.get_num_threads(), work)], 0)


def follow() -> None:
    """On any other process: trains along until the first one calls `dismiss`."""
    _meet()
    while True:
        told: list[Any] = [None]
        dist.broadcast_object_list(told, 0)
        if told[0] is None:
            dist.destroy_process_group()
            return
        threads, (scorer, lists, valid, texts, config, seed) = told[0]
        # Another number of threads may add up in another order.
        torch.set_num_threads(threads)
        fine_tune(scorer, lists, valid, texts, config, seed=seed)


def dismiss() -> None:
    """On the first process: nothing more is to be trained."""
    if not alone():
        _meet()
        dist.broadcast_object_list([None], 0)
        dist.destroy_process_group()


def _meet() -> None:
    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=LONGEST_WAIT)
