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


def info_nce(anchors: Tensor, others: Tensor, temperature: float, counts: Tensor | None = None) -> Tensor:
    """Mean of -log softmax of cos(a_b, o_b) / temperature among cos(a_b, o) of the batch, [B, D] each.

    With `counts` [B] a row stands for so many equal ones: the same number from fewer pairs.
    """
    of_others = F.normalize(others, dim=1).T
    weights = anchors.new_zeros(1) if counts is None else counts.to(anchors.dtype).log()
    weighted = torch.addmm(weights, F.normalize(anchors, dim=1) / temperature, of_others)
    losses = torch.logsumexp(weighted, dim=1) - (weighted.diagonal() - weights)
    return losses.mean() if counts is None else (counts.to(losses.dtype) @ losses) / counts.sum()


def cosine_distance(online: Tensor, target: Tensor) -> Tensor:
    """1 - mean cosine of paired rows [B, D]; no gradient reaches `target` (BYOL, BM3)."""
    return 1 - F.cosine_similarity(online, target.detach(), dim=1).mean()


def alignment(users: Tensor, items: Tensor) -> Tensor:
    """Mean squared distance of paired unit vectors [B, D] (Wang & Isola, ICML 2020; DirectAU)."""
    return (users - items).square().sum(dim=1).mean()


def uniformity(vectors: Tensor, similarity: Tensor | None = None, counts: Tensor | None = None) -> Tensor:
    """log mean over pairs b < b' of exp(-2 ||x - x'||^2) of unit vectors [B, D].

    With a similarity s [B, B] it is CM3's calibrated form, exp(-2 (||x - x'||^2 - 2 + 2 s)): by ||x - x'||^2
    = 2 - 2 cos, the exponent is 4 (cos - s), so that s = 1 is the plain form. One Gram matrix stands for all
    pairs. With `counts` [B] a row stands for so many equal ones, which are pairs too. A batch of one has no
    pair and gives 0.
    """
    counts = vectors.new_ones(len(vectors)) if counts is None else counts.to(vectors.dtype)
    total = counts.sum()
    if total < 2:
        return vectors.sum() * 0.0
    calibrated = vectors.new_ones(1) if similarity is None else similarity
    # Cosines bound the exponent to -8..8, so nothing overflows and one pass over the pairs is enough.
    pairs = torch.addmm(calibrated, vectors, vectors.T, beta=-4, alpha=4).exp()
    both = counts @ (pairs @ counts) - counts @ pairs.diagonal()
    return torch.log(both / (total * (total - 1)))
