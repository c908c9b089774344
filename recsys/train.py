"""The training loop: the only one of this package, readable top to bottom.

It has no parameter for a test split.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extract.errors import ConfigError, RunFolderError, TrainingDiverged
from recsys.checkpoint import load_checkpoint, save_checkpoint
from recsys.interactions import Interactions, check_same_axes
from recsys.metrics import METRICS, hit_matrix
from recsys.ranking import Recommender, id_places, top_k
from recsys.sampling import NegativeSampler
from recsys.settings import TrainConfig
from recsys.team import Team
from recsys.two_tower import TwoTower

logger = logging.getLogger(__name__)

ALONE = Team()


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One epoch: mean train loss, the validation metric where it was measured, and seconds."""

    epoch: int
    loss: float
    metric: float | None
    seconds: float


@dataclass(frozen=True, slots=True)
class History:
    """What happened, which epoch's weights the model now has (None: the last), and why it ended."""

    metric: str
    records: tuple[EpochRecord, ...]
    best_epoch: int | None
    best_metric: float | None
    stopped: Literal["epochs", "patience", "closed_form"]

    def to_json(self) -> dict[str, Any]:
        """The same as a JSON object; `seconds` is the only part that two equal runs do not share."""
        return asdict(self)


@runtime_checkable
class ClosedForm(Recommender, Protocol):
    """A recommender without epochs."""

    def solve(self) -> None:
        """Compute the weights from the train interactions the model was built with."""
        ...


@dataclass(slots=True)
class _Progress:
    epoch: int = 0
    misses: int = 0
    best_epoch: int | None = None
    best_metric: float | None = None
    best: dict[str, Tensor] = field(default_factory=dict)
    records: list[EpochRecord] = field(default_factory=list)

    def note(self, value: float, model: TwoTower) -> None:
        """Keep the weights if `value`, measured after the epoch that just ended, is the best so far."""
        if self.best_metric is not None and value <= self.best_metric:
            self.misses += 1
            return
        self.best_metric, self.best_epoch, self.misses = value, self.epoch - 1, 0
        self.best = {name: tensor.clone() for name, tensor in model.state_dict().items()}


def fit(
    model: Recommender,
    train: Interactions,
    valid: Interactions | None,
    config: TrainConfig,
    *,
    checkpoints: Path | None = None,
    progress: Callable[[EpochRecord], None] | None = None,
    team: Team = ALONE,
) -> History:
    """Train `model`, built on `train`, and leave it with the weights that were best on `valid`.

    Without `valid` (None, or no row) all epochs are run and the last weights stay. With `checkpoints`, a
    killed run goes on from the last checkpoint and ends bitwise as an undisturbed one (CPU, equal number of
    threads): all randomness is a function of seed and epoch. A checkpoint of other settings or data raises
    RunFolderError. A loss or gradient that is not finite raises TrainingDiverged before the step, so weights
    and checkpoints stay those before it. Closed-form models are solved and, with `valid`, measured once. With
    a `team`, its other processes must be in `assist`; the numbers are those of one process.
    """
    judge = None if valid is None or not len(valid) else Validation(train, valid, config.metric)
    if isinstance(model, ClosedForm):
        model.solve()
        return History(config.metric, (), None, None if judge is None else judge(model), "closed_form")
    if not isinstance(model, TwoTower):
        raise ConfigError("C203", f"`{type(model).__name__}` can neither be solved nor trained")
    # Fused: the same update in one pass over weights, gradients and moments instead of a dozen.
    optimizer = torch.optim.Adam(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    sampler = NegativeSampler(train.matrix())
    identity = _identity(model, train, valid, config) if checkpoints is not None else {}
    state = _resume(checkpoints, identity, model, optimizer) if checkpoints is not None else _Progress()
    if team.size > config.parts:
        logger.warning("%d processes share %d `parts`: some have nothing to do", team.size, config.parts)
    team = team if config.parts > 1 else ALONE
    with team.leading("fit", model, train, config):
        while state.epoch < config.epochs and state.misses < config.patience:
            began = time.perf_counter()
            epoch = state.epoch
            model.start_epoch(epoch)
            triples = _triples(sampler, train, config, epoch)
            loss = _train_epoch(model, optimizer, triples, config, epoch, team)
            state.epoch += 1
            value = None
            ends = state.epoch == config.epochs
            if judge is not None and (ends or state.epoch % config.evaluate_every == 0):
                value = judge(model)
                state.note(value, model)
            state.records.append(EpochRecord(epoch, loss, value, time.perf_counter() - began))
            ends = ends or state.misses >= config.patience
            if checkpoints is not None and (ends or state.epoch % config.checkpoint_every == 0):
                _save(checkpoints, identity, model, optimizer, state)
            logger.info("epoch %d: loss %.5f, %s %s", epoch, loss, config.metric, value)
            if progress is not None:
                progress(state.records[-1])
    if state.best:
        model.load_state_dict(state.best)
    stopped: Literal["patience", "epochs"] = "patience" if state.misses >= config.patience else "epochs"
    return History(config.metric, tuple(state.records), state.best_epoch, state.best_metric, stopped)


class Validation:
    """The mean of a metric such as ``ndcg@20`` over users with a validation row; train items are masked."""

    def __init__(self, train: Interactions, valid: Interactions, metric: str) -> None:
        check_same_axes(train, valid)
        name, _, k = metric.partition("@")
        self._metric, self._k = METRICS[name], int(k)
        self._seen, self._truth = train.matrix(), valid.matrix()
        self._users = np.unique(valid.user_rows)
        self._counts = np.diff(self._truth.indptr).astype(np.int64)[self._users]
        self._places = id_places(train.item_ids)

    def __call__(self, model: Recommender) -> float:
        """The value for the present weights."""
        items, _ = top_k(model, self._users, self._seen, self._k, places=self._places)
        return float(self._metric(hit_matrix(items, self._users, self._truth), self._counts, self._k).mean())


def assist(team: Team, model: TwoTower, train: Interactions, config: TrainConfig) -> None:
    """What every process of a team but the first does while that one is in `fit`: gradients of its parts."""
    sampler, present = NegativeSampler(train.matrix()), None
    for epoch, step in team.steps():
        if epoch != present:
            model.start_epoch(epoch)
            triples, present = _triples(sampler, train, config, epoch), epoch
        batch = _batch(triples, config.batch_size, step, model.device)
        team.answer(model, batch, config.parts, epoch, step)


def _triples(
    sampler: NegativeSampler, train: Interactions, config: TrainConfig, epoch: int
) -> list[NDArray[np.int64]]:
    """Users, positives and one fresh negative each of all train pairs, in the seeded order of the epoch."""
    generator = np.random.default_rng([config.seed, epoch])
    # A user who chose everything has no negative and teaches a pairwise loss nothing.
    order = generator.permutation(np.flatnonzero(sampler.has_negative(train.user_rows)))
    users, positives = train.user_rows[order], train.item_rows[order]
    return [x.astype(np.int64) for x in (users, positives, sampler.draw(users, generator))]


def _batch(triples: list[NDArray[np.int64]], size: int, step: int, device: torch.device) -> list[Tensor]:
    return [torch.from_numpy(rows[step * size : (step + 1) * size]).to(device) for rows in triples]


def _train_epoch(
    model: TwoTower,
    optimizer: torch.optim.Optimizer,
    triples: list[NDArray[np.int64]],
    config: TrainConfig,
    epoch: int,
    team: Team,
) -> float:
    """One pass over the triples; returns the mean loss."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    n, total = len(triples[0]), 0.0
    for step in range(-(-n // config.batch_size)):
        batch = _batch(triples, config.batch_size, step, model.device)
        optimizer.zero_grad()
        loss = team.backward(model, batch, config.parts, epoch, step)
        gradients = [p.grad for p in parameters if p.grad is not None]
        # A sum is not finite once a term is not, and costs a tenth of a maximum of magnitudes.
        checksum = torch.stack([loss, *(g.sum() for g in gradients)]).sum()
        if not torch.isfinite(checksum):
            raise TrainingDiverged(
                "T201",
                "the training loss or a gradient is not finite",
                where=f"{type(model).__name__}, epoch {epoch}, step {step}",
                why=f"loss {loss.item()}, learning rate {config.learning_rate}",
                next_step="lower `learning_rate`; the weights are those before this step",
            )
        optimizer.step()
        # The fused kernel does not count its writes, by which a model knows that its tables are old.
        torch.autograd.graph.increment_version(parameters)
        total += loss.item() * len(batch[0])
    return total / max(n, 1)


def _identity(
    model: TwoTower, train: Interactions, valid: Interactions | None, config: TrainConfig
) -> dict[str, str]:
    settings = {f"train.{key}": repr(value) for key, value in config.model_dump().items()}
    data = {"train_data": train.content_hash(), "valid_data": "" if valid is None else valid.content_hash()}
    return model.identity() | settings | data


def _save(
    folder: Path,
    identity: Mapping[str, str],
    model: TwoTower,
    optimizer: torch.optim.Optimizer,
    state: _Progress,
) -> None:
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"best/{name}": tensor for name, tensor in state.best.items()}
    for number, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{number}/{key}": value for key, value in values.items()}
    meta = {"identity": dict(identity), "epoch": state.epoch, "misses": state.misses}
    meta |= {"best_epoch": state.best_epoch, "best_metric": state.best_metric}
    save_checkpoint(folder, tensors, meta | {"records": [asdict(record) for record in state.records]})


def _resume(
    folder: Path, identity: Mapping[str, str], model: TwoTower, optimizer: torch.optim.Optimizer
) -> _Progress:
    found = load_checkpoint(folder)
    if found is None:
        return _Progress()
    kept = found.meta["identity"]
    if changed := sorted(key for key in kept | dict(identity) if kept.get(key) != identity.get(key)):
        raise RunFolderError(
            "R201",
            "the checkpoints were made by another training run",
            where=str(folder),
            why="; ".join(f"{key}: {kept.get(key)} there, {identity.get(key)} here" for key in changed),
            next_step="give another folder, or restore the settings and data of the first run",
        )
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}}
    for name, tensor in found.tensors.items():
        part, _, rest = name.partition("/")
        parts[part][rest] = tensor
    model.load_state_dict(parts["model"])
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in parts["optimizer"].items():
        number, _, key = name.partition("/")
        moments.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    logger.info("resuming from %s after %d epochs", folder, found.meta["epoch"])
    return _Progress(
        epoch=found.meta["epoch"],
        misses=found.meta["misses"],
        best_epoch=found.meta["best_epoch"],
        best_metric=found.meta["best_metric"],
        best=parts["best"],
        records=[EpochRecord(**record) for record in found.meta["records"]],
    )
