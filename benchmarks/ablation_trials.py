"""The options that `ablation.py` changes, one at a time; curriculum and reweighting live here alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from ablation_cases import Bench, Case, Prepare, Trial
from ablation_losses import TRIED
from scipy.special import softmax
from torch.nn.functional import softplus

from rerank.inference import rank_lists
from rerank.lists import RankingList
from rerank.losses import LOSSES, RankingLoss, listnet
from rerank.teacher import taught

FORMS: dict[str, dict[str, Any]] = {
    "text": {"form": "text", "finetune.learning_rate": 1e-3},
    "token": {
        "form": "token", "model": None, "finetune.loss": "listnet", "finetune.rank_weight": 1.0,
        "finetune.average": 0.99, "finetune.epochs": 6, "finetune.patience": 4,
    },
    "hybrid": {"form": "hybrid", "finetune.learning_rate": 1e-3},
}  # fmt: skip


def taught_by(bench: Bench, teacher: str) -> Case:
    """The shop's case with the orders of a trained form as labels of the training lists."""
    case = bench.case
    path = case.folder / f"orders-of-{teacher}-{case.seed}.npz"
    if not path.is_file():
        scorer = bench.trained(teacher, Trial(FORMS[teacher.partition("-")[0]]))
        np.savez(path, scores=np.concatenate(rank_lists(scorer, case.lists, case.texts)))
    cuts = np.cumsum([len(entry.candidates) for entry in case.lists])[:-1]
    labelled = []
    for entry, scores in zip(case.lists, np.split(np.load(path)["scores"], cuts), strict=True):
        order = np.argsort(-scores, kind="stable")
        names = np.array(entry.candidates)[np.argsort(entry.places)]
        labelled += taught([entry], {entry.user_id: names[order].tolist()})
    return replace(case, lists=labelled, tag="taught-")


def sounding(model: Any) -> None:
    """An ordinary start: the head at the candidates' places is not silent."""
    model.head.reset_parameters()


def without_numbers(model: Any) -> None:
    """No fusion of the numbers beside the decoder, which starts in the ordinary way."""
    sounding(model)
    for parameter in model.fusion.parameters():
        parameter.requires_grad_(False).zero_()


def numbers_alone(model: Any) -> None:
    """The fusion of the numbers without what the decoder sees."""
    for parameter in model.head.parameters():
        parameter.requires_grad_(False)


def by_list(
    weigh: Callable[[np.ndarray, Sequence[RankingList], float], np.ndarray],
) -> Callable[[Any, int], RankingLoss]:
    """ListNet with a weight for each list of a pass: `weigh(losses, lists, share of training done)`."""

    def prepared(scorer: Any, steps: int) -> RankingLoss:
        shown, passes = remembered(scorer), [0]

        def loss(scores: Any, relevance: Any, mask: Any) -> Any:
            own = [
                listnet(scores[i : i + 1], relevance[i : i + 1], mask[i : i + 1]) for i in range(len(scores))
            ]
            losses = torch.stack(own)
            passes[0] += len(own)
            weight = weigh(losses.detach().numpy(), shown, passes[0] / steps)
            return (losses * torch.from_numpy(weight).float()).mean()

        return loss

    return prepared


def remembered(scorer: Any) -> list[RankingList]:
    """The lists of the forward pass that a loss is asked about."""
    shown: list[RankingList] = []
    learn = scorer.learn

    def remembering(prompts: Any) -> Any:
        shown[:] = [prompt.entry for prompt in prompts]
        return learn(prompts)

    scorer.learn = remembering
    return shown


def easy_first(losses: np.ndarray, lists: Sequence[RankingList], done: float) -> np.ndarray:
    """Curriculum by retriever ranks (MacAvaney et al. 2020, reciprocal), over the first 40 % of training.

    A list's ease is the mean over its pairs of (1 / rank of the truth - 1 / rank of the other + 1) / 2.
    """
    weights = []
    for entry in lists:
        inverse, truth = 1 / (entry.places + 1), entry.relevance > 0
        ease = (inverse[truth].mean() - inverse[~truth].mean() + 1) / 2
        weights.append(ease + (1 - ease) * min(done / 0.4, 1))
    return np.array(weights)


def linupper(losses: np.ndarray, lists: Sequence[RankingList], done: float) -> np.ndarray:
    """Loss reweighting: softmax(min(h + 1, 1) / r), h the losses scaled to [-1, 1], r from 100 to 1."""
    spread = np.ptp(losses)
    h = np.zeros(len(losses)) if spread == 0 else 2 * (losses - losses.min()) / spread - 1
    return len(losses) * softmax(np.minimum(h + 1, 1) / 100 ** (1 - min(done, 1)))


def given(name: str) -> Prepare:
    """A loss of `ablation_losses`."""
    return lambda scorer, steps: TRIED[name]


def growing_skips(scorer: Any, steps: int) -> RankingLoss:
    """After RankList's abstract (arXiv 2508.09826): the order to learn is cut into pairs s ranks apart.

    Mean over s = 1..S of softplus(logsumexp over the pairs of s_(i+s) - s_i), the log-sum-exp a soft maximum
    of what is violated, S growing from neighbours to the whole list. The order: by relevance, equals by lot;
    pairs of equals are left out.
    """
    passes = [0]

    def loss(scores: Any, relevance: Any, mask: Any) -> Any:
        passes[0] += len(scores)
        order = relevance.masked_fill(~mask, -1).argsort(dim=1, descending=True, stable=True)
        ranked, label = scores.gather(1, order), relevance.gather(1, order)
        real, places = mask.gather(1, order), torch.arange(scores.shape[1])
        # [B, i, j] of the ranks i < j, brought to [B, i, s] by looking s = j - i ranks down.
        down = places[:, None] + places[1:]
        inside, down = down < scores.shape[1], down.clamp(max=scores.shape[1] - 1)
        pair = inside & (label[:, :, None] > label[:, down]) & real[:, down]
        most = 1 + round(min(passes[0] / steps, 1) * (scores.shape[1] - 2))
        pair = pair[:, :, :most]
        worst = (ranked[:, down] - ranked[:, :, None])[:, :, :most].masked_fill(~pair, -1e9).logsumexp(1)
        counts = pair.any(1)
        return (softplus(worst) * counts).sum() / counts.sum().clamp(min=1)

    return loss


def trials(base: str) -> dict[str, Trial]:
    """One option changed at a time, beginning with nothing changed.

    Args:
        base: a form of the shop, or "listed": soft tokens on the lists of `uplift.py`.
    """
    start = FORMS.get(base, {})
    soft, wide = base in {"token", "listed"}, base == "listed"
    found = {"base": Trial(start)}
    for loss in sorted(set(LOSSES) - {"tried", "listnet" if soft else "ranknet"}):
        found[f"loss {loss}"] = Trial({**start, "finetune.loss": loss})
    for loss in TRIED:
        found[f"loss {loss}"] = Trial(start, prepare=given(loss))
    if soft:
        found |= {
            "curriculum": Trial(start, prepare=by_list(easy_first)),
            "reweighting": Trial(start, prepare=by_list(linupper)),
            "ranklist": Trial(start, prepare=growing_skips),
        }
    window = {"inference.window": 50 if wide else 16, "inference.stride": 25 if wide else 8}
    found["permutations 4"] = Trial({**start, "inference.permutations": 4}, reads="base")
    found["windows of half"] = Trial({**start, **window}, reads="base")
    found["max_move 5"] = Trial({**start, "inference.max_move": 5}, reads="base")
    if base == "text":
        found["no language-model loss"] = Trial({**start, "finetune.rank_weight": 1e4})
        found["language-model loss alone"] = Trial({**start, "finetune.rank_weight": 0.0})
    if not soft:
        return found
    layers = 2 if wide else 1
    return found | {
        f"layers {layers}": Trial({**start, "token.layers": layers}),
        "ordinary start": Trial(start, tweak=sounding),
        "without f": Trial(start, tweak=without_numbers),
        "f alone": Trial(start, tweak=numbers_alone),
        "last weights": Trial({**start, "finetune.average": 0.0}),
    }
