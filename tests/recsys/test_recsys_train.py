from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from extract.errors import RunFolderError, TrainingDiverged
from extract.features import FeatureTable
from recsys import Interactions, Split, SplitConfig, split_interactions
from recsys.graph import normalised_adjacency
from recsys.lightgcn import LightGCN, LightGCNConfig
from recsys.lirdrec import LIRDRec, LIRDRecConfig
from recsys.models import build_model
from recsys.sampling import NegativeSampler
from recsys.train import EpochRecord, History, TrainConfig, Validation, fit
from recsys.two_tower import TwoTower

CONFIG = TrainConfig(epochs=7, batch_size=50, learning_rate=0.02, metric="ndcg@3", patience=20)
Maker = Callable[[], TwoTower]


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it."""


@pytest.fixture(scope="module")
def split(checkerboard: Interactions) -> Split:
    return split_interactions(checkerboard, SplitConfig(valid_share=0.2, test_share=0.1, seed=2))


@pytest.fixture(params=["lightgcn", "lirdrec"])
def make(request: pytest.FixtureRequest, split: Split, parity: dict[str, FeatureTable]) -> Maker:
    if request.param == "lightgcn":
        return lambda: LightGCN(LightGCNConfig(embedding_size=8), split.train, seed=1)
    config = LIRDRecConfig(embedding_size=4, neighbours=3)
    return lambda: LIRDRec(config, split.train, parity, seed=1)


def same(a: TwoTower, b: TwoTower) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def timeless(history: History) -> object:
    records = tuple((r.epoch, r.loss, r.metric) for r in history.records)
    return records, history.best_epoch, history.best_metric, history.stopped


def test_two_steps_match_a_hand_written_loop(checkerboard: Interactions) -> None:
    config = TrainConfig(
        epochs=1, batch_size=len(checkerboard) // 2 + 1, learning_rate=0.05, weight_decay=0.01, seed=4
    )
    model = LightGCN(LightGCNConfig(embedding_size=3, layers=2, reg=0.1), checkerboard, seed=1)
    weights = torch.from_numpy(model.tensors()["embedding"].astype(np.float64))
    history = fit(model, checkerboard, None, config)

    generator = np.random.default_rng([4, 0])
    order = generator.permutation(len(checkerboard))
    users = checkerboard.user_rows[order]
    positives = checkerboard.item_rows[order]
    negatives = NegativeSampler(checkerboard.matrix()).draw(users, generator)
    dense = torch.tensor(normalised_adjacency(checkerboard.matrix()).toarray(), dtype=torch.float64)
    first, second, losses = torch.zeros_like(weights), torch.zeros_like(weights), []
    for step in (1, 2):
        batch = slice(0, config.batch_size) if step == 1 else slice(config.batch_size, None)
        u, i, j = (torch.from_numpy(rows[batch].astype(np.int64)) for rows in (users, positives, negatives))
        e = weights.clone().requires_grad_()
        nodes = (e + dense @ e + dense @ dense @ e) / 3
        scores = [(nodes[u] * nodes[24 + x]).sum(dim=1) for x in (i, j)]
        loss = -torch.log(torch.sigmoid(scores[0] - scores[1])).mean()
        loss = loss + 0.1 * sum(e[rows].square().sum() for rows in (u, 24 + i, 24 + j)) / 2 / len(u)
        (gradient,) = torch.autograd.grad(loss, e)
        gradient = gradient + 0.01 * weights
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        corrected = (second / (1 - 0.999**step)).sqrt() + 1e-8
        weights = weights - 0.05 * first / (1 - 0.9**step) / corrected
        losses.append(loss.item() * len(u))
    assert model.tensors()["embedding"] == pytest.approx(weights.numpy(), abs=1e-5)
    assert history.records[0].loss == pytest.approx(sum(losses) / len(checkerboard), rel=1e-5)


def test_one_seed_gives_one_model_bit_by_bit(make: Maker, split: Split) -> None:
    models = [make(), make()]
    histories = [fit(model, split.train, split.valid, CONFIG) for model in models]
    assert same(*models)
    assert timeless(histories[0]) == timeless(histories[1])


def test_another_seed_gives_another_model(make: Maker, split: Split) -> None:
    models = [make(), make()]
    for model, seed in zip(models, (0, 1), strict=True):
        fit(model, split.train, split.valid, CONFIG.model_copy(update={"seed": seed}))
    assert not same(*models)


@pytest.mark.parametrize("kill", ["after epoch 0", "after epoch 2", "within epoch 4"])
def test_a_killed_run_ends_as_an_undisturbed_one(
    make: Maker, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kill: str
) -> None:
    undisturbed = make()
    expected = fit(undisturbed, split.train, split.valid, CONFIG)

    def stop(record: EpochRecord) -> None:
        if kill == f"after epoch {record.epoch}":
            raise Killed

    killed = make()
    if kill.startswith("within"):
        loss, steps = killed.loss, []

        def counted(users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
            steps.append(1)
            if len(steps) == 4 * -(-len(split.train) // CONFIG.batch_size) + 2:
                raise Killed
            return loss(users, positives, negatives)

        monkeypatch.setattr(killed, "loss", counted)
    with pytest.raises(Killed):
        fit(killed, split.train, split.valid, CONFIG, checkpoints=tmp_path, progress=stop)
    resumed = make()
    epochs: list[int] = []
    got = fit(
        resumed,
        split.train,
        split.valid,
        CONFIG,
        checkpoints=tmp_path,
        progress=lambda r: epochs.append(r.epoch),
    )
    assert epochs[0] == {"after epoch 0": 1, "after epoch 2": 3, "within epoch 4": 4}[kill]
    assert same(resumed, undisturbed)
    assert timeless(got) == timeless(expected)
    # A finished run is not trained again.
    again = make()
    assert timeless(
        fit(again, split.train, split.valid, CONFIG, checkpoints=tmp_path, progress=stop)
    ) == timeless(got)
    assert same(again, undisturbed)


def test_rarer_checkpoints_change_nothing_but_the_epoch_resumed_from(
    make: Maker, split: Split, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"checkpoint_every": 3})
    undisturbed, killed, resumed = make(), make(), make()
    fit(undisturbed, split.train, split.valid, config)

    def stop(record: EpochRecord) -> None:
        if record.epoch == 4:
            raise Killed

    with pytest.raises(Killed):
        fit(killed, split.train, split.valid, config, checkpoints=tmp_path, progress=stop)
    epochs: list[int] = []
    fit(
        resumed,
        split.train,
        split.valid,
        config,
        checkpoints=tmp_path,
        progress=lambda r: epochs.append(r.epoch),
    )
    assert epochs[0] == 3
    assert same(resumed, undisturbed)


def test_a_checkpoint_of_other_settings_is_refused(split: Split, tmp_path: Path) -> None:
    def make(reg: float) -> LightGCN:
        return LightGCN(LightGCNConfig(embedding_size=4, reg=reg), split.train)

    short = CONFIG.model_copy(update={"epochs": 1})
    fit(make(0.1), split.train, split.valid, short, checkpoints=tmp_path)
    with pytest.raises(RunFolderError) as caught:
        fit(
            make(0.1),
            split.train,
            split.valid,
            short.model_copy(update={"learning_rate": 0.5}),
            checkpoints=tmp_path,
        )
    assert "train.learning_rate: 0.02 there, 0.5 here" in caught.value.why
    with pytest.raises(RunFolderError) as caught:
        fit(make(0.2), split.train, split.valid, short, checkpoints=tmp_path)
    assert "model_config" in caught.value.why
    with pytest.raises(RunFolderError) as caught:
        fit(make(0.1), split.train, None, short, checkpoints=tmp_path)
    assert "valid_data" in caught.value.why


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_nan_stops_before_the_step_and_leaves_weights_and_checkpoints(
    make: Maker, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, poison: str
) -> None:
    model, before = make(), make()
    fit(before, split.train, None, CONFIG.model_copy(update={"epochs": 2}))
    loss, starts = model.loss, []
    monkeypatch.setattr(model, "start_epoch", starts.append)
    before_start = make()
    monkeypatch.setattr(before_start, "start_epoch", starts.append)
    fit(before_start, split.train, None, CONFIG.model_copy(update={"epochs": 2}))
    starts.clear()

    def poisoned(users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        value = loss(users, positives, negatives)
        if starts[-1] < 2:
            return value
        if poison == "loss":
            return value * float("nan")
        # The square root of zero has a finite value and an infinite slope.
        return value + sum((p * 0.0).square().sum().sqrt() for p in model.parameters())

    monkeypatch.setattr(model, "loss", poisoned)
    with pytest.raises(TrainingDiverged) as caught:
        fit(model, split.train, None, CONFIG, checkpoints=tmp_path)
    assert "epoch 2, step 0" in caught.value.where
    assert same(model, before_start)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_patience_stops_and_the_best_weights_are_restored(make: Maker, split: Split) -> None:
    model = make()
    history = fit(model, split.train, split.valid, CONFIG.model_copy(update={"epochs": 60, "patience": 2}))
    metrics = [r.metric for r in history.records]
    assert history.stopped == "patience"
    assert history.best_metric == max(m for m in metrics if m is not None)
    assert history.best_epoch == metrics.index(history.best_metric)
    assert len(metrics) == history.best_epoch + 3
    assert Validation(split.train, split.valid, CONFIG.metric)(model) == history.best_metric


def test_without_validation_the_number_of_epochs_is_fixed(make: Maker, split: Split) -> None:
    for valid in (None, split.valid.take(np.zeros(len(split.valid), dtype=np.bool_))):
        history = fit(make(), split.train, valid, CONFIG)
        assert [r.metric for r in history.records] == [None] * 7
        assert (history.stopped, history.best_epoch) == ("epochs", None)


def test_validation_every_few_epochs_never_misses_the_last(make: Maker, split: Split) -> None:
    history = fit(make(), split.train, split.valid, CONFIG.model_copy(update={"evaluate_every": 3}))
    assert [r.metric is None for r in history.records] == [True, True, False, True, True, False, False]


def test_the_loss_falls(make: Maker, split: Split) -> None:
    losses = [
        r.loss for r in fit(make(), split.train, None, CONFIG.model_copy(update={"epochs": 15})).records
    ]
    assert losses[-1] < 0.8 * losses[0]


def test_closed_form_models_are_solved_and_measured(split: Split) -> None:
    model = build_model("ease", {"l2": 5.0}, split.train)
    history = fit(model, split.train, split.valid, CONFIG)
    assert history.stopped == "closed_form" and history.records == ()
    assert history.best_metric == Validation(split.train, split.valid, "ndcg@3")(model) > 0


@pytest.mark.parametrize("metric", ["ndcg", "ndcg@0", "ndcg@x", "accuracy@3"])
def test_an_unknown_metric_is_refused(metric: str) -> None:
    with pytest.raises(ValidationError, match="is no metric"):
        TrainConfig(metric=metric)
