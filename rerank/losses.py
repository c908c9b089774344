"""Ranking losses: scores, relevance and mask in, one number out.

All take `scores` [B, K], `relevance` [B, K] (larger is better) and `mask` [B, K] (True for a real candidate),
work in float32, ignore masked places, and average over the lists that have something to learn from; if none
has, the loss is 0 and its gradient is 0. Relevance receives no gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, softplus

RankingLoss = Callable[[Tensor, Tensor, Tensor], Tensor]


def weighted_ranknet(scores: Tensor, relevance: Tensor, mask: Tensor) -> Tensor:
    """Weighted RankNet of FIRST (Reddy et al. 2024), normalised by the sum of its weights.

    Over the pairs with relevance_i > relevance_j:  sum w_ij softplus(s_j - s_i) / sum w_ij
    with  w_ij = 1 / (r_i + r_j),  where r is the rank by relevance, 1 for the best; equal relevance shares
    its mean rank. FIRST divides by the number of pairs; dividing by the weights makes the loss independent of
    the list's length.
    """
    scores, relevance = scores.float(), relevance.detach().float()
    better, rank = worse_than(relevance, mask), ranks(relevance, mask)
    weight = better / (rank[:, :, None] + rank[:, None, :]).clamp(min=1)
    safe = scores.masked_fill(~mask, 0.0)
    pairs = weight * softplus(safe[:, None, :] - safe[:, :, None])
    total = weight.sum((1, 2))
    return mean_over(pairs.sum((1, 2)) / total.clamp(min=1e-12), total > 0)


def listnet(scores: Tensor, relevance: Tensor, mask: Tensor) -> Tensor:
    """ListNet's top-one cross-entropy (Cao et al. 2007) against relevance normalised to a distribution.

    -sum_i p_i log softmax(s)_i  with  p = relevance / sum of relevance. For one relevant candidate it is the
    softmax cross-entropy over the list.
    """
    scores = scores.float().masked_fill(~mask, float("-inf"))
    gain = relevance.detach().float().clamp(min=0).masked_fill(~mask, 0.0)
    total = gain.sum(1, keepdim=True)
    usable = (total.squeeze(1) > 0) & (mask.sum(1) > 1)
    scores = scores.masked_fill(~usable[:, None], 0.0)
    terms = (gain / total.clamp(min=1e-12)) * log_softmax(scores, dim=1).masked_fill(~mask, 0.0)
    return mean_over(-terms.sum(1), usable)


def lambdarank(scores: Tensor, relevance: Tensor, mask: Tensor, *, mu: float = 10.0) -> Tensor:
    """LambdaRank (Burges 2010) with the weights of NDCG-Loss2++ (Wang et al., LambdaLoss, 2018).

    Sum over the pairs with y_i > y_j of  |G_i - G_j| (d_ij + mu rho_ij) softplus(s_j - s_i),  where, with
    p the rank by score and D(k) = log2(1 + k):  d_ij = |1/D(p_i) - 1/D(p_j)|,  what a swap changes of NDCG;
    rho_ij = 1/D(|p_i - p_j|) - 1/D(|p_i - p_j| + 1);  G = (2^y - 1) / best DCG. The weights receive no
    gradient; equal scores share their mean rank, and their rho is that of neighbours.
    """
    scores, relevance = scores.float(), relevance.detach().float()
    worse = worse_than(relevance, mask)
    with torch.no_grad():
        gain = gains(relevance, mask)
        place = ranks(scores, mask)
        distance = (place[:, :, None] - place[:, None, :]).abs().clamp(min=1)
        swap = (discount(place)[:, :, None] - discount(place)[:, None, :]).abs()
        weight = (swap + mu * (discount(distance) - discount(distance + 1))) * worse
        weight = weight * (gain[:, :, None] - gain[:, None, :]).abs()
    safe = scores.masked_fill(~mask, 0.0)
    return mean_over((weight * softplus(safe[:, None, :] - safe[:, :, None])).sum((1, 2)), worse.any((1, 2)))


def worse_than(relevance: Tensor, mask: Tensor) -> Tensor:
    """True [B, K, K] where j, on the last axis, is less relevant than i and both are real."""
    return (relevance[:, :, None] > relevance[:, None, :]) & mask[:, :, None] & mask[:, None, :]


def ranks(values: Tensor, mask: Tensor) -> Tensor:
    """Rank [B, K] by value among the real, 1 for the largest; equals share their mean rank."""
    real = mask[:, :, None] & mask[:, None, :]
    above = ((values[:, None, :] > values[:, :, None]) & real).sum(2)
    equal = ((values[:, None, :] == values[:, :, None]) & real).sum(2)
    return above + (equal + 1) / 2


def discount(place: Tensor) -> Tensor:
    """1 / log2(1 + place), what a gain at that place is worth to DCG."""
    return 1 / torch.log2(1 + place)


def gains(relevance: Tensor, mask: Tensor) -> Tensor:
    """(2^y - 1) over the best DCG of the list, [B, K]; 0 for masked places and where nothing is relevant."""
    gain = torch.where(mask, torch.exp2(relevance) - 1, 0.0).clamp(min=0)
    places = torch.arange(1, gain.shape[1] + 1, device=gain.device)
    best = (gain.sort(1, descending=True).values * discount(places)).sum(1, keepdim=True)
    return torch.where(best > 0, gain / best.clamp(min=1e-12), 0.0)


def mean_over(per_list: Tensor, usable: Tensor) -> Tensor:
    """Mean of `per_list` [B] over the usable lists; 0 if none is."""
    return torch.where(usable, per_list, 0.0).sum() / usable.sum().clamp(min=1)


LOSSES: dict[str, RankingLoss] = {
    "ranknet": weighted_ranknet,
    "listnet": listnet,
    "lambdarank": lambdarank,
}
