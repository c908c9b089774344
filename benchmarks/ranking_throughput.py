"""Seconds to evaluate every user against every item, and which share of that is the product of their vectors.

    python benchmarks/ranking_throughput.py [--users 100000] [--items 100000] [--seed 0] [--quick]

Draws vectors, histories and truths, ranks all items for all users with the histories masked, and takes every
metric at 10, 20 and k from that one ranking. The limit is the same product in the same tiles and threads with
nothing else done, measured in turns with the ranking, so that a busy machine slows both; `share` is limit /
(ranking + metrics), `share_cpu` the same of processor seconds, which other work on the machine moves less.
`gflops` is the rate of the bare products.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from threadpoolctl import threadpool_info, threadpool_limits

from recsys.metrics import METRICS, hit_matrix
from recsys.ranking import ITEMS, USERS, blocks, top_k_factors

TURN = 8192
"""Users per turn."""


def drawn_pairs(rng: np.random.Generator, users: int, items: int, each: int) -> sparse.csr_array:
    """About `each` items per user."""
    rows = np.repeat(np.arange(users), each)
    ones = np.ones(len(rows), dtype=np.float32)
    matrix = sparse.csr_array((ones, (rows, rng.integers(0, items, len(rows)))), shape=(users, items))
    matrix.sum_duplicates()
    return matrix


def bare_products(users: NDArray[np.float32], items: NDArray[np.float32], workers: int) -> float:
    """Seconds of all products in tiles."""

    def multiply(part: slice) -> None:
        block = np.ascontiguousarray(users[part])
        out = np.empty(len(block) * ITEMS, dtype=np.float32)
        for columns in blocks(len(items), ITEMS):
            width = columns.stop - columns.start
            tile = out[: len(block) * width].reshape(len(block), width)
            np.dot(block, items[columns].T, out=tile)

    began = time.perf_counter()
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(workers) as pool:
        list(pool.map(multiply, blocks(len(users), USERS)))
    return time.perf_counter() - began


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--history", type=int, default=50, help="masked items per user")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="10,000 users")
    chosen = parser.parse_args()
    n_users = min(chosen.users, 10_000) if chosen.quick else chosen.users
    rng = np.random.default_rng(chosen.seed)
    users, items = (rng.standard_normal((n, chosen.width), dtype=np.float32) for n in (n_users, chosen.items))
    seen = drawn_pairs(rng, n_users, chosen.items, chosen.history)
    truth = drawn_pairs(rng, n_users, chosen.items, 10)
    n_truth = np.diff(truth.indptr).astype(np.int64)
    places = rng.permutation(chosen.items)
    workers = max(lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas")
    ranking = metrics = limit = ours_cpu = limit_cpu = 0.0
    for part in blocks(n_users, TURN):
        began, began_cpu = time.perf_counter(), time.process_time()
        listed, _ = top_k_factors(users[part], items, seen[part], chosen.k, places=places)
        ranked = time.perf_counter()
        hits = hit_matrix(listed, np.arange(part.stop - part.start), truth[part])
        for k in (10, 20, chosen.k):
            for metric in METRICS.values():
                metric(hits, n_truth[part], k)
        ended, ended_cpu = time.perf_counter(), time.process_time()
        ranking, metrics = ranking + ranked - began, metrics + ended - ranked
        limit += bare_products(users[part], items, workers)
        ours_cpu += ended_cpu - began_cpu
        limit_cpu += time.process_time() - ended_cpu
    flop = 2.0 * n_users * chosen.items * chosen.width
    result = {
        "users": n_users, "items": chosen.items, "width": chosen.width, "k": chosen.k, "threads": workers,
        "seconds": round(ranking + metrics, 2), "ranking_seconds": round(ranking, 2),
        "metrics_seconds": round(metrics, 2), "limit_seconds": round(limit, 2),
        "share": round(limit / (ranking + metrics), 3), "share_cpu": round(limit_cpu / ours_cpu, 3),
        "gflops": round(flop / limit / 1e9, 1),
    }  # fmt: skip
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
