"""Both sides of `epoch_vs_mmrec.py`, each a process that works when it is told to; nothing to run."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ITEMS, USERS = 7_050, 19_445
KS = (5, 10, 20, 50)


class Clock:
    """A side's turns: one begins with a line read and ends with its seconds written."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._seconds: dict[str, float] = {}
        self._marks = 0.0, 0.0

    def begin(self) -> None:
        """Waits for the next turn; the process ends with its input."""
        if not sys.stdin.readline():
            raise SystemExit(0)
        self._marks = time.perf_counter(), time.process_time()

    def lap(self, phase: str) -> None:
        """Notes the seconds since the last mark."""
        now = time.perf_counter(), time.process_time()
        self._seconds |= {phase: now[0] - self._marks[0], f"{phase}_cpu": now[1] - self._marks[1]}
        self._marks = time.perf_counter(), time.process_time()

    def end(self) -> None:
        """Answers."""
        self._answers.write(json.dumps(self._seconds) + "\n")
        self._answers.flush()


OURS: dict[str, dict[str, Any]] = {
    "lightgcn": {"layers": 2, "reg": 1e-4},
    "freedom": {},
    "bm3": {"layers": 1, "dropout": 0.5},
    "lirdrec": {"layers": 2, "reg": 1e-3},
}
THEIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "lightgcn": ("LightGCN", {"n_layers": 2, "reg_weight": 1e-4}),
    "freedom": ("FREEDOM", {"dropout": 0.8, "reg_weight": 1e-3}),
    "bm3": ("BM3", {"n_layers": 1, "dropout": 0.5, "reg_weight": 0.1}),
    "lirdrec": (
        "LIRDRec",
        {
            "n_ui_layers": 2,
            "reg_weight": 1e-3,
            "mm_image_weight": 0.1,
            "decay_weight": 0.9,
            "learning_rate": 1e-3,
            "weight_decay": 0.0,
        },
    ),
}
"""Settings that both sides have in common where they have a name on both."""


def our_turns(name: str, folder: Path, seed: int, clock: Clock) -> None:
    """Epochs of ours, each with a full evaluation."""
    from extract.cpu_share import keep_freed_memory
    from extract.features import FeatureTable
    from recsys import TrainConfig, id_places, interactions_from, top_k
    from recsys.metrics import METRICS, hit_matrix
    from recsys.models import build_model
    from recsys.settings import NEED_FEATURES
    from recsys.train import fit

    rows = np.loadtxt(folder / "baby.inter", dtype=np.int64, skiprows=1)
    ids = [f"{n:04d}" for n in range(ITEMS)]
    axis = {user: f"{user:05d}" for user in range(USERS)}
    parts = []
    everyone = np.unique(rows[:, 0])
    for label in (0, 1):
        own = rows[rows[:, 2] == label]
        part = interactions_from([axis[u] for u in own[:, 0]], [ids[i] for i in own[:, 1]], ids)
        if len(part.user_ids) != len(everyone) and label == 0:
            raise SystemExit("every user needs a train item")
        parts.append(part)
    train = parts[0]
    valid = interactions_on(train, parts[1])
    features = None
    if name in NEED_FEATURES:
        features = {
            kind: FeatureTable(tuple(ids), np.load(folder / f"{kind}_feat.npy")) for kind in ("image", "text")
        }
    keep_freed_memory()  # as every stage of a run does
    model = build_model(name, OURS[name], train, features, seed=seed)
    config = TrainConfig(epochs=10_000, batch_size=2048, learning_rate=1e-3, seed=seed)
    seen, truth, places = train.matrix(), valid.matrix(), id_places(train.item_ids)
    users = np.unique(valid.user_rows)
    n_truth = np.diff(truth.indptr).astype(np.int64)[users]

    def after_epoch(_: Any) -> None:
        clock.lap("train")
        listed, _ = top_k(model, users, seen, max(KS), places=places)
        hits = hit_matrix(listed, users, truth)
        for k in KS:
            for metric in ("recall", "ndcg", "precision", "map_mmrec"):
                METRICS[metric](hits, n_truth, k).mean()
        clock.lap("evaluate")
        clock.end()
        clock.begin()

    clock.begin()
    fit(model, train, None, config, progress=after_epoch)


def interactions_on(train: Any, part: Any) -> Any:
    """The same pairs on the axes of `train`."""
    from dataclasses import replace

    return replace(
        part,
        user_ids=train.user_ids,
        user_rows=train.user_rows_of(part.user_ids)[part.user_rows],
        item_ids=train.item_ids,
    )


def their_turns(name: str, folder: Path, peer: Path, seed: int, clock: Clock) -> None:
    """Epochs of MMRec, each with one evaluation of its validation users."""
    from unittest.mock import MagicMock

    import torch
    from scipy import fft, sparse

    vars(np)["float"] = float
    if not hasattr(sparse.dok_matrix, "_update"):
        sparse.dok_matrix._update = lambda self, data: self._dict.update(data)
    for missing in ("lmdb", "matplotlib", "matplotlib.pyplot", "torchvision"):
        sys.modules[missing] = MagicMock()
    sys.modules["torchvision.transforms"] = sys.modules["torchvision.transforms.functional"] = MagicMock()
    sys.modules["torch_dct"] = MagicMock(dct=lambda x, norm: torch.from_numpy(fft.dct(x.numpy(), norm=norm)))
    os.chdir(peer / "src")
    sys.path.insert(0, str(peer / "src"))
    from utils.configurator import Config
    from utils.dataloader import EvalDataLoader, TrainDataLoader
    from utils.dataset import RecDataset
    from utils.utils import get_model, get_trainer, init_seed

    model_name, settings = THEIRS[name]
    config = Config(model_name, "baby", {"gpu_id": 0, "use_gpu": False, "data_path": f"{folder.parent}/"})
    config.final_config_dict.update(settings | {"seed": seed})
    init_seed(seed)
    dataset = RecDataset(config)
    train_set, valid_set, _ = dataset.split()
    # Its counts are taken while it is printed.
    for part in (dataset, train_set, valid_set):
        str(part)
    train = TrainDataLoader(config, train_set, batch_size=2048, shuffle=True)
    valid = EvalDataLoader(config, valid_set, additional_dataset=train_set, batch_size=4096)
    train.pretrain_setup()
    model = get_model(model_name)(config, train)
    trainer = get_trainer()(config, model)

    while True:
        clock.begin()
        model.pre_epoch_processing()
        trainer._train_epoch(train, 0)
        clock.lap("train")
        trainer.evaluate(valid)
        clock.lap("evaluate")
        clock.end()
