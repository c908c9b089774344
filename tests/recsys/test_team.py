"""One training by one process and by two real ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from extract.features import FeatureTable
from recsys import Interactions
from recsys.lightgcn import LightGCN
from recsys.models import build_model
from recsys.settings import LightGCNConfig, TrainConfig
from recsys.team import Team
from recsys.train import History, assist, fit

SETTINGS = {
    "lightgcn": {"embedding_size": 4},
    "bm3": {"embedding_size": 4},
    "smore": {"embedding_size": 4, "neighbours": 3, "dropout": 0.2},
    "lirdrec": {"embedding_size": 4, "neighbours": 3},
    "cm3": {"embedding_size": 4, "neighbours": 3},
}
# 3 parts for 2 processes, and batches that do not come out even.
CONFIG = TrainConfig(epochs=3, batch_size=50, learning_rate=0.02, metric="ndcg@3", parts=3, seed=1)


def work(folder: Path, name: str, team: Team) -> None:
    """Fits one model on the files of `folder` and keeps what it ended with beside them."""
    train = Interactions.load(folder / "train.parquet")
    features = {path.stem: FeatureTable.load(path) for path in folder.glob("*.safetensors")}
    model = build_model(name, SETTINGS[name], train, features, seed=2)
    history = fit(model, train, train, CONFIG, team=team)
    np.savez(folder / f"{name}-{team.size}.npz", **model.tensors(), numbers=numbers(history))


def numbers(history: History) -> np.ndarray:
    return np.array([(r.epoch, r.loss, r.metric) for r in history.records], dtype=np.float64)


def main() -> None:
    """What `torchrun` starts twice."""
    from recsys.team import join

    torch.set_num_threads(1)
    team = join()
    if team.rank:
        for _, training in team.follow():
            assist(team, *training)
        return
    if sys.argv[2:]:
        LightGCN.loss = failing
    for name in SETTINGS:
        work(Path(sys.argv[1]), name, team)
    team.dismiss()


def failing(model: LightGCN, *batch: torch.Tensor) -> torch.Tensor:
    raise MemoryError("no memory for this part")


def test_two_processes_train_to_the_bits_of_one(
    tmp_path: Path, checkerboard: Interactions, parity: dict[str, FeatureTable]
) -> None:
    checkerboard.save(tmp_path / "train.parquet")
    for name, table in parity.items():
        table.save(tmp_path / f"{name}.safetensors")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*torchrun, __file__, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    for name in SETTINGS:
        work(tmp_path, name, Team())
        ours, theirs = (np.load(tmp_path / f"{name}-{size}.npz") for size in (1, 2))
        for key in ours.files:
            np.testing.assert_array_equal(ours[key], theirs[key], err_msg=f"{name} {key}")


def test_an_error_within_a_step_ends_all_processes_and_is_told(
    tmp_path: Path, checkerboard: Interactions
) -> None:
    checkerboard.save(tmp_path / "train.parquet")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*torchrun, __file__, str(tmp_path), "fail"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "no memory for this part" in done.stderr


@pytest.mark.parametrize("parts", [2, 7, 60])
def test_parts_of_a_loss_that_is_a_mean_add_up_to_that_of_the_batch(
    parts: int, checkerboard: Interactions
) -> None:
    models = [LightGCN(LightGCNConfig(embedding_size=4), checkerboard, seed=1) for _ in range(2)]
    batch = [torch.tensor(rows) for rows in ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [1, 2, 3, 4, 5])]
    whole, summed = (Team().backward(m, batch, n, 0, 0) for m, n in zip(models, (1, parts), strict=True))
    torch.testing.assert_close(summed, whole)
    torch.testing.assert_close(models[1].embedding.grad, models[0].embedding.grad)


if __name__ == "__main__":
    main()
