"""Does the order of models survive a split by time? MovieLens-100K, three ways.

    python benchmarks/temporal.py --data DIR --texts DIR --work DIR [--models ease ...] [--once cm3 ...]
        [--pause 540]

`--data` is ml100k_posters, `--texts` ml1m_posters, whose titles, genres and plots are the feature `plot`.
`random` holds out a tenth of each user's choices for validation and for test, `leave_last_out` the last one
and the one before, `global_time` the last tenth of all choices and the tenth before; of the users, those with
a train choice are asked for. Settings are chosen on each split's own validation by NDCG@20, then refitted on
train and validation, with three seeds where a seed matters. Test NDCG@20 and Recall@20; `rank` orders the
models of a split by NDCG@20, and `kendall` tells how far an order agrees with that of the random split (1:
the same). Every rating counts as a choice. Pieces are kept under `--work`, as by `tables.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from public_data import timed_films
from scipy.stats import kendalltau
from table_grids import METRIC, UNSEEDED, Setting, settings
from tables import Bench, Paused

from recsys.split import SplitConfig

SPLITS = ("random", "leave_last_out", "global_time")
TRAINED = {"epochs": [80], "evaluate_every": [4], "patience": [3], "metric": [METRIC], "batch_size": [4096]}
RATE = {"learning_rate": [5e-3]}
GRIDS: dict[str, list[Setting]] = {
    "popularity": settings({}),
    "item_knn": settings({"neighbours": [50, 200], "shrink": [0.0, 50.0]}),
    "ease": settings({"l2": [50.0, 100.0, 200.0, 400.0, 800.0]}),
    "sparse_ease": settings({"l2": [100.0, 200.0, 400.0], "neighbours": [200]}),
    "als": settings({"alpha0": [0.03, 0.1, 0.3], "l2": [0.003, 0.01, 0.03]}),
    "content_search": settings({}),
    "graph_filter": settings({"content_weight": [0.1, 0.3], "alpha": [0.5, 0.7], "power": [1.0, 2.0]}),
    "bpr_mf": settings({"reg": [1e-3, 1e-2]}, TRAINED | RATE),
    "lightgcn": settings({"layers": [2], "reg": [1e-4, 1e-3]}, TRAINED | RATE),
    "vbpr": settings({"reg": [1e-3, 1e-2]}, TRAINED | RATE),
    "freedom": settings({"kept_edges": [0.2, 0.5]}, TRAINED | RATE),
    "bm3": settings({"feature_weight": [0.2]}, TRAINED | {"learning_rate": [1e-2]}),
    "smore": settings({"layers": [2]}, TRAINED | RATE),
    "cm3": settings({}, TRAINED | RATE),
    "lirdrec": settings({"layers": [2], "embedding_size": [32]}, TRAINED | RATE),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/temporal"))
    parser.add_argument("--models", nargs="+", choices=list(GRIDS), default=list(GRIDS))
    parser.add_argument("--seed", type=int, default=0, help="the first of the seeds")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--once", nargs="*", choices=list(GRIDS), default=[], help="models of one seed")
    parser.add_argument("--minutes", type=float, default=5.0, help="of training, a fit at most")
    parser.add_argument("--pause", type=float, default=float("inf"), help="seconds until this call stops")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="closed forms of one setting, without features")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    names = ["popularity", "item_knn", "ease"] if chosen.quick else chosen.models
    ends, tables, paused = time.monotonic() + chosen.pause, {}, False
    chosen.work.mkdir(parents=True, exist_ok=True)
    for method in SPLITS:
        split = SplitConfig.model_validate({"method": method})
        data = timed_films(chosen.data, chosen.work, split, None if chosen.quick else chosen.texts)
        work = chosen.work / (f"{method}-quick" if chosen.quick else method)
        work.mkdir(parents=True, exist_ok=True)
        bench, rows = Bench(data, work, ends, chosen.minutes), {}
        try:
            for name in names:
                grid = GRIDS[name][:1] if chosen.quick else GRIDS[name]
                count = 1 if chosen.quick or name in UNSEEDED | {*chosen.once} else chosen.seeds
                rows[name] = bench.row(name, grid, list(range(chosen.seed, chosen.seed + count)))
        except Paused:
            paused = True
        sizes = {part: len(getattr(data.split, part)) for part in ("train", "valid", "test")}
        users = int(np.unique(data.split.test.user_rows).size)
        tables[method] = {**sizes, "test_users": users, "rows": rows}
        if paused:
            break
    sys.stdout.write(json.dumps({"paused": paused, "order": orders(tables), "splits": tables}) + "\n")


def orders(tables: dict[str, Any]) -> dict[str, Any]:
    """By split, the rank of each model by NDCG@20, and Kendall's tau with the random split."""
    found: dict[str, Any] = {}
    names = [name for name in GRIDS if all(name in table["rows"] for table in tables.values())]
    reached = {m: [table["rows"][n]["test"][METRIC] for n in names] for m, table in tables.items()}
    for method, values in reached.items():
        ranks = {names[row]: place for place, row in enumerate(np.argsort(-np.array(values)), start=1)}
        tau = float(kendalltau(reached["random"], values).statistic) if len(names) > 1 else None
        found[method] = {"rank": ranks, "kendall": tau}
    return found


if __name__ == "__main__":
    main()
