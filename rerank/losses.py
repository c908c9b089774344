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

_NOWHERE = -1e9
"""A score below all others, finite so that no gradient becomes NaN."""


def weighted_ranknet(scores: Tensor, relevance: Tensor, mask: Tensor) -> Tensor:
    """Weighted RankNet of FIRST (Reddy et al. 2024), normalised by the sum of its weights.

    Over the pairs with relevance_i > relevance_j:  sum w_ij softplus(s_j - s_i) / sum w_ij
    with  w_ij = 1 / (r_i + r_j),  where r is the rank by relevance, 1 for the best; equal relevance shares
    its mean rank. FIRST divides by the number of pairs; dividing by the weights makes the loss independent of
    the list's length.
    """
    scores, relevance = scores.float(), relevance.detach().float()
    better, rank = _worse(relevance, mask), _rank(relevance, mask)
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


def listmle(scores: Tensor, relevance: Tensor, mask: Tensor) -> Tensor:
    """ListMLE (Xia et al. 2008), the Plackett-Luce likelihood of the order by relevance.

    Mean over the candidates i that beat another:  log(exp(s_i) + sum_{j: y_j < y_i} exp(s_j)) - s_i.  For a
    full order it is the published sum divided by its K - 1 terms that are not 0. Equals do not compete: the
    published form draws an order among them, which teaches noise where most of a list is equally irrelevant.
    """
    scores, worse = scores.float(), _worse(relevance.detach().float(), mask)
    beaten = torch.where(worse, scores[:, None, :], _NOWHERE).logsumexp(2)
    counts = worse.any(2)
    terms = torch.where(counts, softplus(beaten - scores), 0.0)
    return _mean_over(terms.sum(1) / counts.sum(1).clamp(min=1), counts.any(1))


def lambdarank(scores: Tensor, relevance: Tensor, mask: Tensor, *, mu: float = 10.0) -> Tensor:
    """LambdaRank (Burges 2010) with the weights of NDCG-Loss2++ (Wang et al., LambdaLoss, 2018).

    Sum over the pairs with y_i > y_j of  |G_i - G_j| (d_ij + mu rho_ij) softplus(s_j - s_i),  where, with
    p the rank by score and D(k) = log2(1 + k):  d_ij = |1/D(p_i) - 1/D(p_j)|,  what a swap changes of NDCG;
    rho_ij = 1/D(|p_i - p_j|) - 1/D(|p_i - p_j| + 1);  G = (2^y - 1) / best DCG. The weights receive no
    gradient; equal scores share their mean rank, and their rho is that of neighbours.
    """
    scores, relevance = scores.float(), relevance.detach().float()
    worse = _worse(relevance, mask)
    with torch.no_grad():
        gain = _gain(relevance, mask)
        place = _rank(scores, mask)
        distance = (place[:, :, None] - place[:, None, :]).abs().clamp(min=1)
        swap = (_discount(place)[:, :, None] - _discount(place)[:, None, :]).abs()
        weight = (swap + mu * (_discount(distance) - _discount(distance + 1))) * worse
        weight = weight * (gain[:, :, None] - gain[:, None, :]).abs()
    safe = scores.masked_fill(~mask, 0.0)
    return _mean_over((weight * softplus(safe[:, None, :] - safe[:, :, None])).sum((1, 2)), worse.any((1, 2)))


def approx_ndcg(scores: Tensor, relevance: Tensor, mask: Tensor, *, temperature: float = 0.5) -> Tensor:
    """ApproxNDCG (Qin et al. 2010): NDCG with ranks made of sigmoids.

    1 - sum_i G_i / log2(1 + r_i)  with  r_i = 1 + sum_{j != i} sigmoid((s_j - s_i) / T). Its gradient fades
    where scores lie many T apart.
    """
    relevance = relevance.detach().float()
    safe = scores.float().masked_fill(~mask, 0.0)
    above = torch.sigmoid((safe[:, None, :] - safe[:, :, None]) / temperature)
    # Every candidate stands above itself by a half.
    place = 0.5 + (above * mask[:, None, :]).sum(2)
    usable = _worse(relevance, mask).any((1, 2))
    return _mean_over(1 - (_gain(relevance, mask) * _discount(place)).sum(1), usable)


def policy_gradient(
    scores: Tensor, relevance: Tensor, mask: Tensor, *, samples: int = 16,
    generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """Neural PG-RANK (Gao et al. 2023): the policy gradient of the expected NDCG of Plackett-Luce rankings.

    The value is 1 - the mean NDCG of the sampled rankings; its gradient is unbiased for that of the expected
    one. Rankings are drawn by sorting scores with Gumbel noise. As DCG is a sum over places, the step of
    place k is credited with the places from k on only (reward-to-go), less the mean of the other samples'
    (leave-one-out).

    Args:
        samples: N rankings per list, at least 2.
        generator: source of the noise; None: torch's global one.
    """
    if samples < 2:
        raise ValueError(f"leave-one-out needs at least 2 samples, got {samples}")
    relevance, usable = relevance.detach().float(), _worse(relevance.detach(), mask).any((1, 2))
    scores = scores.float().masked_fill(~mask, _NOWHERE)
    shape = (samples, *scores.shape)
    noise = -torch.empty(shape, device=scores.device).exponential_(generator=generator).log()
    order = torch.where(mask, scores.detach() + noise, _NOWHERE).argsort(2, descending=True)
    ranked = scores.expand(shape).gather(2, order)
    remaining = ranked.flip(2).logcumsumexp(2).flip(2)
    gain = _gain(relevance, mask).expand(shape).gather(2, order)
    reward = gain * _discount(torch.arange(1, shape[2] + 1, device=scores.device))
    to_go = reward.flip(2).cumsum(2).flip(2)
    advantage = (to_go - to_go.mean(0)) * samples / (samples - 1)
    surrogate = -(advantage * (ranked - remaining)).sum(2).mean(0)
    return _mean_over(1 - reward.sum(2).mean(0) + surrogate - surrogate.detach(), usable)


def _worse(relevance: Tensor, mask: Tensor) -> Tensor:
    """True [B, K, K] where j, on the last axis, is less relevant than i and both are real."""
    return (relevance[:, :, None] > relevance[:, None, :]) & mask[:, :, None] & mask[:, None, :]


def _rank(values: Tensor, mask: Tensor) -> Tensor:
    """Rank [B, K] by value among the real, 1 for the largest; equals share their mean rank."""
    real = mask[:, :, None] & mask[:, None, :]
    above = ((values[:, None, :] > values[:, :, None]) & real).sum(2)
    equal = ((values[:, None, :] == values[:, :, None]) & real).sum(2)
    return above + (equal + 1) / 2


def _discount(place: Tensor) -> Tensor:
    return 1 / torch.log2(1 + place)


def _gain(relevance: Tensor, mask: Tensor) -> Tensor:
    """(2^y - 1) over the best DCG of the list, [B, K]; 0 for masked places and where nothing is relevant."""
    gain = torch.where(mask, torch.exp2(relevance) - 1, 0.0).clamp(min=0)
    places = torch.arange(1, gain.shape[1] + 1, device=gain.device)
    best = (gain.sort(1, descending=True).values * _discount(places)).sum(1, keepdim=True)
    return torch.where(best > 0, gain / best.clamp(min=1e-12), 0.0)


def _mean_over(per_list: Tensor, usable: Tensor) -> Tensor:
    return torch.where(usable, per_list, 0.0).sum() / usable.sum().clamp(min=1)


LOSSES: dict[str, RankingLoss] = {
    "ranknet": weighted_ranknet,
    "listnet": listnet,
    "listmle": listmle,
    "lambdarank": lambdarank,
    "approx_ndcg": approx_ndcg,
    "policy_gradient": policy_gradient,
}
