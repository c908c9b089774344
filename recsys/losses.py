"""Losses of the graph recommenders: tensors in, one number out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def bpr(margins: Tensor) -> Tensor:
    """Bayesian personalised ranking: mean of -log sigmoid(m) over margins m [B] (Rendle et al. 2009).

    The softplus form needs no epsilon inside the logarithm and is finite for any finite margin.
    """
    return F.softplus(-margins).mean()


def margin(user: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """s_ui - s_uj = <u, i - j> of B triples of vectors [B, D]; one product instead of two."""
    return (user * (positive - negative)).sum(dim=1)


def half_squared_norm(table: Tensor, rows: Tensor, batch: int) -> Tensor:
    """1/2 of the squares of the table's rows [N, D] named in `rows`, repeats counted, divided by `batch`.

    The L2 term of the official LightGCN. Repeats are counted, so no row is touched twice.
    """
    counts = torch.bincount(rows, minlength=len(table))
    named = counts.nonzero().squeeze(1)
    squares = F.embedding(named, table).square().sum(dim=1)
    return (counts[named].to(table.dtype) * squares).sum() / (2 * batch)


def mean_square(*tables: Tensor) -> Tensor:
    """Sum over tables of the mean square of their entries: the L2 term of LIRDRec."""
    return torch.stack([t.square().mean() for t in tables]).sum()
