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
    real = mask[:, :, None] & mask[:, None, :]
    better = (relevance[:, :, None] > relevance[:, None, :]) & real
    tied = (relevance[:, :, None] == relevance[:, None, :]) & real
    rank = better.sum(1) + (tied.sum(1) + 1) / 2
    weight = better / (rank[:, :, None] + rank[:, None, :]).clamp(min=1)
    safe = scores.masked_fill(~mask, 0.0)
    pairs = weight * softplus(safe[:, None, :] - safe[:, :, None])
    total = weight.sum((1, 2))
    return _mean_over(pairs.sum((1, 2)) / total.clamp(min=1e-12), total > 0)


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
    return _mean_over(-terms.sum(1), usable)


def _mean_over(per_list: Tensor, usable: Tensor) -> Tensor:
    return torch.where(usable, per_list, 0.0).sum() / usable.sum().clamp(min=1)


LOSSES: dict[str, RankingLoss] = {"ranknet": weighted_ranknet, "listnet": listnet}
