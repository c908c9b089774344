"""Seconds of one epoch and one full evaluation, against MMRec, on the same data in the same run.

    python benchmarks/epoch_vs_mmrec.py --peer DIR [--data DIR] [--models lightgcn] [--turns 5] [--threads 2]
        [--seed 0] [--quick]

`--peer` is a checkout of MMRec (github.com/enoche/MMRec), `--data` a folder with the amazon_baby
interactions; without it, interactions of the same size are drawn. Pictures (4096 wide) and texts (384) are
drawn: speed does not depend on what they say. Each side is a process of its own; they work in turns, never
at the same time. A turn is one training epoch (batches of 2048, 64 wide, Adam) and one evaluation of the
validation users against all items, with Recall, NDCG, Precision and MAP at 5, 10, 20 and 50. The first turn
of each is thrown away. Figures are medians of the seconds of the clock, and the least seconds of the
processor (`_cpu`): what else the machine does can only add to those.

LightGCN is the same mathematics on both sides, but for the L2 term: half the squares here, unsquared norms
there. MMRec's FREEDOM and BM3 train the raw features too, ours keep them constant as the papers' equations
do: part of those ratios is that.

MMRec breaks with today's numpy and scipy (`np.float`, `dok_matrix._update`); both names are put back before
it is imported, and packages that it imports and never uses here are stubbed.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

USERS, ITEMS, TRAIN, VALID = 19_445, 7_050, 118_551, 20_559
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
}
THEIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "lightgcn": ("LightGCN", {"n_layers": 2, "reg_weight": 1e-4}),
    "freedom": ("FREEDOM", {"dropout": 0.8, "reg_weight": 1e-3}),
    "bm3": ("BM3", {"n_layers": 1, "dropout": 0.5, "reg_weight": 0.1}),
}
"""Settings that both sides have in common where they have a name on both."""


def write_data(folder: Path, data: Path | None, seed: int) -> None:
    """`baby.inter`, `image_feat.npy` and `text_feat.npy` as MMRec reads them."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    rows = read_pairs(data) if data is not None else draw_pairs(rng)
    lines = "".join(f"{user}\t{item}\t{label}\n" for user, item, label in rows.tolist())
    (folder / "baby.inter").write_text("userID\titemID\tx_label\n" + lines)
    for name, width in (("image_feat", 4096), ("text_feat", 384)):
        np.save(folder / f"{name}.npy", rng.standard_normal((ITEMS, width), dtype=np.float32))


def read_pairs(data: Path) -> NDArray[np.int64]:
    """User, item and label (0 train, 1 validation, 2 test) of the amazon_baby interactions."""
    with gzip.open(data / "interactions.csv.gz", "rt") as lines:
        table = np.loadtxt(lines, delimiter=",", skiprows=1, dtype=np.int64)
    return table[:, :3]


def draw_pairs(rng: np.random.Generator) -> NDArray[np.int64]:
    """Baby-sized: every user has train and validation items, items follow a power law."""
    weights = 1.0 / np.arange(1, ITEMS + 1) ** 0.7
    n = TRAIN + VALID
    users = np.concatenate([np.repeat(np.arange(USERS), 3), rng.integers(0, USERS, 2 * n)])
    items = rng.choice(ITEMS, len(users), p=weights / weights.sum())
    items[:ITEMS] = rng.permutation(ITEMS)
    _, first = np.unique(users * ITEMS + items, return_index=True)
    kept = np.sort(first)[:n]
    users, items = users[kept], items[kept]
    _, one_each = np.unique(users, return_index=True)
    labels = np.zeros(n, dtype=np.int64)
    others = np.setdiff1d(np.arange(n), one_each)
    labels[rng.permutation(others)[:VALID]] = 1
    return np.stack([users, items, labels], axis=1)


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

    from scipy import sparse

    vars(np)["float"] = float
    if not hasattr(sparse.dok_matrix, "_update"):
        sparse.dok_matrix._update = lambda self, data: self._dict.update(data)
    for missing in ("lmdb", "matplotlib", "matplotlib.pyplot", "torchvision"):
        sys.modules[missing] = MagicMock()
    sys.modules["torchvision.transforms"] = sys.modules["torchvision.transforms.functional"] = MagicMock()
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


def work(side: str, name: str, folder: Path, peer: Path, threads: int, seed: int) -> None:
    """A side's process."""
    import torch

    torch.set_num_threads(threads)
    clock = Clock()
    if side == "ours":
        our_turns(name, folder, seed, clock)
    else:
        their_turns(name, folder, peer, seed, clock)


def in_turns(
    command: list[str], environment: dict[str, str], turns: int
) -> Iterator[tuple[str, dict[str, float]]]:
    """Asks both sides for a turn after the other; the first turns are not given back."""
    sides = {
        side: subprocess.Popen(
            [*command, "--side", side],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for side in ("ours", "mmrec")
    }
    try:
        for number in range(turns + 1):
            for side, process in sides.items():
                if process.stdin is None or process.stdout is None:
                    raise RuntimeError("no pipe")
                process.stdin.write("\n")
                process.stdin.flush()
                line = process.stdout.readline()
                if not line:
                    raise SystemExit(f"{side} ended early; its errors are above")
                if number:
                    yield side, json.loads(line)
    finally:
        for process in sides.values():
            process.kill()
            process.wait()


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--models", nargs="+", default=["lightgcn"], choices=list(OURS))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="LightGCN, two turns")
    parser.add_argument("--side", choices=["ours", "mmrec"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    peer = chosen.peer.absolute()
    if chosen.side:
        work(chosen.side, chosen.models[0], chosen.folder, peer, chosen.threads, chosen.seed)
        return
    turns, models = (2, ["lightgcn"]) if chosen.quick else (chosen.turns, chosen.models)
    environment = os.environ | {"OMP_NUM_THREADS": str(chosen.threads)}
    result: dict[str, Any] = {"threads": chosen.threads, "turns": turns}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "baby"
        write_data(folder, chosen.data, chosen.seed)
        for name in models:
            options = ["--models", name, "--folder", str(folder), "--peer", str(peer)]
            options += ["--threads", str(chosen.threads), "--seed", str(chosen.seed)]
            turned: dict[str, list[dict[str, float]]] = {"ours": [], "mmrec": []}
            for side, seconds in in_turns([sys.executable, __file__, *options], environment, turns):
                turned[side].append(seconds)
                sys.stderr.write(f"{name} {side}: {json.dumps(seconds)}\n")
            row: dict[str, dict[str, float]] = {
                side: {
                    key: round((min if "cpu" in key else statistics.median)(t[key] for t in both), 3)
                    for key in both[0]
                }
                for side, both in turned.items()
            }
            for side in row.values():
                side["epoch"] = side["train"] + side["evaluate"]
                side["epoch_cpu"] = side["train_cpu"] + side["evaluate_cpu"]
            row["ratio"] = {key: round(row["mmrec"][key] / row["ours"][key], 2) for key in row["ours"]}
            result[name] = row
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
