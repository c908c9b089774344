"""Fine-tunes a listwise scorer: the only training loop of this package, to be read from top to bottom.

The objective is FIRST's (Reddy et al. 2024, section 3.2): language-model loss on the answer text plus
`rank_weight` times a ranking loss on the identifier scores at the answer's first place. What was left out:
NEFTune noise, and their default of training on the model's own sorted logits as labels; relevance here comes
from held-out choices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from numpy.typing import NDArray
from torch import Tensor

from extract.embed import token_batches
from extract.errors import InvalidData, TrainingDiverged
from recsys.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from rerank.inference import ItemWords, Scorer, score_lists
from rerank.lists import RankingList, reshuffled
from rerank.losses import LOSSES, RankingLoss
from rerank.settings import FineTuneConfig

CHECKPOINT_STEPS = 25

T = TypeVar("T")


@dataclass
class FineTuneHistory:
    """What happened: `steps` holds {step, loss, rank_loss, language_loss}, `evaluations` {step, ndcg@10}."""

    steps: list[dict[str, float]] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)

    @property
    def best(self) -> float:
        """The best validation NDCG@10 so far, -1 before the first evaluation."""
        return max((point["ndcg@10"] for point in self.evaluations), default=-1.0)

    @property
    def since_best(self) -> int:
        """Evaluations since the best one."""
        values = [point["ndcg@10"] for point in self.evaluations]
        return len(values) - 1 - values.index(max(values)) if values else 0


def fine_tune(
    scorer: Scorer, lists: Sequence[RankingList], valid: Sequence[RankingList],
    texts: Mapping[str, str], config: FineTuneConfig, *, seed: int, checkpoints: Path | None = None,
    progress: Callable[[int, int, Mapping[str, float]], None] | None = None,
    loss: RankingLoss | None = None,
) -> FineTuneHistory:  # fmt: skip
    """Trains the scorer's trainable weights and leaves the ones with the best validation NDCG@10 in place.

    Of several processes each takes some of a step's forward passes; what is drawn in a pass is seeded by it,
    so that losses and weights are those of one process, but for the order in which gradients are added.

    Args:
        lists: out-of-fold lists; those without a truth teach nothing and must have been left out.
        valid: validation lists, for early stopping only.
        texts: item id to text.
        checkpoints: folder to resume from and to write to; a resumed run ends with the same weights.
        progress: told (steps done, steps in all, latest losses).
        loss: a ranking loss in place of the one `config` names.

    Raises:
        TrainingDiverged: a loss or gradient is not finite; the weights are those before the step.
    """
    if not lists:
        raise InvalidData("R303", "no training list holds a truth", next_step="raise candidates.k or folds")
    # Left to itself it takes an accelerator that the configuration may have ruled out.
    accelerator = Accelerator(cpu=scorer.device.type == "cpu")
    scorer.model.to(accelerator.device)
    weights = {name: p for name, p in scorer.model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(weights.values(), lr=config.learning_rate, weight_decay=0.0)
    per_epoch = math.ceil(len(lists) / config.batch_size)
    total = config.epochs * per_epoch
    # Halfway through each epoch and at its end.
    evaluate_at = {e * per_epoch + part for e in range(config.epochs) for part in (per_epoch // 2, per_epoch)}
    words, ranking = ItemWords(scorer, texts), loss or LOSSES[config.loss]
    judge = partial(_validate, scorer, valid, texts, config, accelerator, weights)

    history, best, mean, first = FineTuneHistory(), _copy(weights), _copy(weights), 0
    found = _from_first(lambda: None if checkpoints is None else load_checkpoint(checkpoints), accelerator)
    if found is not None:
        first, best, mean, history = _resume(found, weights, optimizer)
    elif valid:
        history.evaluations.append({"step": 0, "ndcg@10": judge(mean)})
    for step in range(first, total):
        if history.since_best > config.patience:
            break
        epoch, place = divmod(step, per_epoch)
        order = np.random.default_rng([seed, epoch]).permutation(len(lists))
        chosen = order[place * config.batch_size : (place + 1) * config.batch_size]
        batch = [reshuffled(lists[i], seed=[seed, epoch, int(i)]) for i in chosen]
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _schedule(step, total, config.warmup)
        optimizer.zero_grad()
        scorer.model.train()
        losses = _accumulate(scorer, batch, words, config, accelerator, [seed, step], ranking)
        norm = _reduced_norm(weights, accelerator)
        if not (math.isfinite(losses["loss"]) and math.isfinite(norm)):
            raise TrainingDiverged(
                "R901", f"fine-tuning diverged at step {step}", why=f"loss {losses['loss']}, norm {norm}",
                where=f"lists of users {', '.join(entry.user_id for entry in batch[:5])}",
                next_step="lower rerank.finetune.learning_rate",
            )  # fmt: skip
        optimizer.step()
        _average(mean, weights, config.average, step)
        history.steps.append({"step": step + 1, **losses})
        if step + 1 in evaluate_at and valid:
            history.evaluations.append({"step": step + 1, "ndcg@10": judge(mean)})
            if history.since_best == 0:
                best = {name: tensor.clone() for name, tensor in mean.items()}
        due = (step + 1) % CHECKPOINT_STEPS == 0 or step + 1 in evaluate_at
        if checkpoints is not None and due and accelerator.is_main_process:
            _save(checkpoints, step + 1, weights, best, mean, optimizer, history)
        if progress is not None:
            progress(step + 1, total, losses)
    _put(weights, best if valid else mean)
    scorer.model.eval()
    return history


def _accumulate(
    scorer: Scorer, batch: Sequence[RankingList], words: ItemWords, config: FineTuneConfig,
    accelerator: Accelerator, key: Sequence[int], ranking: RankingLoss,
) -> dict[str, float]:  # fmt: skip
    """Adds the gradient of the batch's mean loss; each process takes every n-th forward pass.

    Dropout and sampled rankings are drawn from `key` and the number of the pass, whoever takes it.
    """
    examples = [scorer.prompt(entry, words, config.answer_length) for entry in batch]
    sums = torch.zeros(3)
    passes = list(token_batches([len(example) for example in examples], config.token_budget))
    for number in range(accelerator.process_index, len(passes), accelerator.num_processes):
        part = passes[number]
        torch.manual_seed(int(np.random.SeedSequence([*key, number]).generate_state(1)[0]))
        scores, mask, language_loss = scorer.learn([examples[i] for i in part])
        relevance = torch.zeros_like(scores)
        for row, i in enumerate(part):
            relevance[row, : len(batch[i].relevance)] = torch.from_numpy(batch[i].relevance).to(scores.device)
        rank_loss = ranking(scores, relevance, mask)
        share = len(part) / len(batch)
        loss = share * (language_loss + config.rank_weight * rank_loss)
        accelerator.backward(loss)
        sums += torch.tensor([loss.item(), share * rank_loss.item(), share * language_loss.item()])
    whole = accelerator.reduce(sums.to(accelerator.device), "sum").tolist()
    return dict(zip(("loss", "rank_loss", "language_loss"), whole, strict=True))


def _from_first(value: Callable[[], T], accelerator: Accelerator) -> T:
    """What the first process finds, on all of them: they decide alike, whatever their last bits."""
    found = [value() if accelerator.is_main_process else None]
    if accelerator.num_processes > 1:
        broadcast_object_list(found)
    return cast(T, found[0])


def _validate(
    scorer: Scorer, valid: Sequence[RankingList], texts: Mapping[str, str], config: FineTuneConfig,
    accelerator: Accelerator, weights: Mapping[str, Tensor], mean: Mapping[str, Tensor],
) -> float:  # fmt: skip
    """Mean NDCG@10 with the running mean in place of the weights, which come back afterwards."""

    def value() -> float:
        scores = score_lists(scorer, valid, texts, token_budget=config.token_budget)
        return float(np.mean([ndcg_of(s, _arrived(e), 10) for s, e in zip(scores, valid, strict=True)]))

    last = _copy(weights)
    _put(weights, mean)
    found = _from_first(value, accelerator)
    _put(weights, last)
    return found


def ndcg_of(scores: NDArray[np.float32], relevance: NDArray[np.float32], k: int) -> float:
    """NDCG@k of one list by `scores` [K] against `relevance` [K], ties by incoming order; 0 if no truth."""
    gains = relevance[np.argsort(-scores, kind="stable")][:k]
    discounts = 1 / np.log2(np.arange(2, len(relevance) + 2))
    ideal = np.sort(relevance)[::-1][:k] @ discounts[:k][: len(relevance)]
    return float(gains @ discounts[: len(gains)] / ideal) if ideal > 0 else 0.0


def _arrived(entry: RankingList) -> NDArray[np.float32]:
    arrived = np.empty_like(entry.relevance)
    arrived[entry.places] = entry.relevance
    return arrived


def _schedule(step: int, total: int, warmup: float) -> float:
    rising = max(1.0, warmup * total)
    if step + 1 < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step + 1 - rising) / max(1.0, total + 1 - rising)))


def _reduced_norm(weights: Mapping[str, Tensor], accelerator: Accelerator) -> float:
    """Sums gradients over processes, clips them to norm 1, and returns the norm before clipping."""
    for parameter in weights.values():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if accelerator.num_processes > 1:
            parameter.grad = accelerator.reduce(parameter.grad, "sum")
    return float(torch.nn.utils.clip_grad_norm_(list(weights.values()), 1.0))


def _save(
    folder: Path, step: int, weights: Mapping[str, Tensor], best: Mapping[str, Tensor],
    mean: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, history: FineTuneHistory,
) -> None:  # fmt: skip
    tensors = {f"weight/{name}": tensor.detach() for name, tensor in weights.items()}
    tensors |= {f"best/{name}": tensor for name, tensor in best.items()}
    tensors |= {f"mean/{name}": tensor for name, tensor in mean.items()}
    for number, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{number}/{key}": value for key, value in values.items()}
    save_checkpoint(
        folder, tensors, {"step": step, "steps": history.steps, "evaluations": history.evaluations}
    )


def _resume(
    found: Checkpoint, weights: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> tuple[int, dict[str, Tensor], dict[str, Tensor], FineTuneHistory]:
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in found.tensors.items():
        if name.startswith("optimizer/"):
            _, number, key = name.split("/", 2)
            moments.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    _put(weights, {name: found.tensors[f"weight/{name}"] for name in weights})
    best, mean = (
        {name: found.tensors[f"{kind}/{name}"].to(p.device) for name, p in weights.items()}
        for kind in ("best", "mean")
    )
    history = FineTuneHistory(list(found.meta["steps"]), list(found.meta["evaluations"]))
    return int(found.meta["step"]), best, mean, history


def _copy(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in weights.items()}


@torch.no_grad()
def _put(weights: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, parameter in weights.items():
        parameter.copy_(values[name])


@torch.no_grad()
def _average(mean: Mapping[str, Tensor], weights: Mapping[str, Tensor], decay: float, step: int) -> None:
    """Moves the running mean on; early on it forgets faster, or the first weights would weigh for long."""
    kept = min(decay, (step + 1) / (step + 10))
    for name, parameter in weights.items():
        mean[name].lerp_(parameter, 1 - kept) if kept else mean[name].copy_(parameter)
