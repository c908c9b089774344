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

`lirdrec` wants `--peer` to be a checkout of github.com/enoche/LIRDRec, which MMRec is not. Its row has the
`gemm_share`: what its matrix products would take of our training seconds at the speed of a bare product.

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
from epoch_turns import ITEMS, OURS, USERS, Clock, our_turns, their_turns
from numpy.typing import NDArray

TRAIN, VALID = 118_551, 20_559


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


def lirdrec_limit(threads: int) -> float:
    """Least processor seconds of the matrix products of an epoch: a bare product of the largest shape, timed.

    Three towers of 256 and 64 numbers; the gradient of the first layer stops at its weights.
    """
    import torch

    torch.set_num_threads(threads)
    inputs, weights = torch.randn(ITEMS, 4480), torch.randn(4480, 256)
    seconds = []
    for _ in range(6):
        began = time.process_time()
        inputs @ weights
        seconds.append(time.process_time() - began)
    first, second = 2 * (4096 + 384 + 4480), 3 * 3 * 64
    return min(seconds) * (first + second) / 4480 * -(-TRAIN // 2048)


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
            if name == "lirdrec":
                row["ours"]["gemm_share"] = round(lirdrec_limit(chosen.threads) / row["ours"]["train_cpu"], 3)
            result[name] = row
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
