"""Ranking losses that helped nowhere: published, tested, and kept for `ablation.py` alone.

They take and give what those of `rerank.losses` do.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from rerank.losses import RankingLoss, discount, gains, mean_over, worse_than

_NOWHERE = -1e9
"""A score below all others, finite so that no gradient becomes NaN."""


def listmle(scores: Tensor, relevance: Tensor, mask: Tensor) -> Tensor:
    """ListMLE (Xia et al. 2008), the Plackett-Luce likelihood of the order by relevance.

    Mean over the candidates i that beat another:  log(exp(s_i) + sum_{j: y_j < y_i} exp(s_j)) - s_i.  For a
    full order it is the published sum divided by its K - 1 terms that are not 0. Equals do not compete: the
    published form draws an order among them, which teaches noise where most of a list is equally irrelevant.
    """
    scores, worse = scores.float(), worse_than(relevance.detach().float(), mask)
    beaten = torch.where(worse, scores[:, None, :], _NOWHERE).logsumexp(2)
    counts = worse.any(2)
    terms = torch.where(counts, softplus(beaten - scores), 0.0)
    return mean_over(terms.sum(1) / counts.sum(1).clamp(min=1), counts.any(1))


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
    usable = worse_than(relevance, mask).any((1, 2))
    return mean_over(1 - (gains(relevance, mask) * discount(place)).sum(1), usable)


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
    relevance, usable = relevance.detach().float(), worse_than(relevance.detach(), mask).any((1, 2))
    scores = scores.float().masked_fill(~mask, _NOWHERE)
    shape = (samples, *scores.shape)
    noise = -torch.empty(shape, device=scores.device).exponential_(generator=generator).log()
    order = torch.where(mask, scores.detach() + noise, _NOWHERE).argsort(2, descending=True)
    ranked = scores.expand(shape).gather(2, order)
    remaining = ranked.flip(2).logcumsumexp(2).flip(2)
    gain = gains(relevance, mask).expand(shape).gather(2, order)
    reward = gain * discount(torch.arange(1, shape[2] + 1, device=scores.device))
    to_go = reward.flip(2).cumsum(2).flip(2)
    advantage = (to_go - to_go.mean(0)) * samples / (samples - 1)
    surrogate = -(advantage * (ranked - remaining)).sum(2).mean(0)
    return mean_over(1 - reward.sum(2).mean(0) + surrogate - surrogate.detach(), usable)


TRIED: dict[str, RankingLoss] = {
    "listmle": listmle,
    "approx_ndcg": approx_ndcg,
    "policy_gradient": policy_gradient,
}
