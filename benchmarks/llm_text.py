"""Do texts make better lists of films, and do those that a language model wrote?

    python benchmarks/llm_text.py --data DIR --work DIR [--models graph_filter ...] [--pause 540]

DIR holds ml1m_posters; `--work` is shared with `tables.py --table films`, whose settings and epochs, chosen
on validation with all texts, every row here has, refitted on train and validation. Models learn from
`titles`, from `plots` (titles, genres and plots, one vector), and from `told`: the same and the written texts
beside, MiniLM vectors all. In `permuted`, `noise` and `constant` the newest text of the set is replaced: by
those of other items, by normal numbers, by its mean. `ids` is the same idea without features.

NDCG@20 on test: of all choices; of the choices of popular, middle and rare items (thirds of the known
choices), found in the whole list; `matched` by popularity: lists of the items of one tenth of the known
choices, averaged over the tenths a user chose from, so that being popular helps nobody. CoLaKG's split has no
cold items, so `--cold` makes a fifth of the items cold, drawn at random, and asks among them alone, as
`cold_items.py` does. `gain` is the set as it is, less the set before it, no features and each control, paired
by user, with its 95 % interval over users and seeds; `real` says whether all of these are above 0.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cold_items
import numpy as np
import torch
from numpy.typing import NDArray
from public_data import Data, films
from table_grids import FILMS, METRIC, UNSEEDED
from tables import Bench, Paused

from extract.features import FeatureTable
from recsys import bootstrap_seeds, judge, retrieve
from recsys.groups import judged_by_group, popularity
from recsys.knock_outs import KNOCK_OUTS
from recsys.metrics import hit_matrix, ndcg
from recsys.models import load_model
from recsys.ranking import best_columns, blocks, id_places, masked_scores

Values = dict[str, NDArray[np.float64]]
K = 20
TENTHS = 10
SETS = {"ids": (), "titles": ("title",), "plots": ("plot",), "told": ("plot", "told")}
SET_BEFORE = {"titles": "ids", "plots": "titles", "told": "plots"}
# What is left of a model without its features.
IDS = {"graph_filter": "graph_filter", "vbpr": "bpr_mf"} | dict.fromkeys(
    ("freedom", "bm3", "smore", "lirdrec", "cm3"), "lightgcn"
)
MODELS = ("content_search", *IDS)


@dataclasses.dataclass(frozen=True)
class Texts:
    """The films with all texts, and the pieces of `tables.py`."""

    data: Data
    work: Path
    ends: float
    minutes: float
    chosen_with: str = "told"

    def features(self, of: str, control: str, seed: int) -> dict[str, FeatureTable]:
        """The features of a set, the newest as the control leaves it."""
        found = {name: self.data.features[name] for name in SETS[of]}
        if control != "true":
            newest = SETS[of][-1]
            found[newest] = KNOCK_OUTS[control](found[newest], seed)
        return found

    def bench(self, of: str, control: str = "true", seed: int = 0) -> Bench:
        """Where fits with these features are kept; `told` as it is has those of `tables.py`."""
        data = dataclasses.replace(self.data, features=self.features(of, control, seed))
        own = "" if (of, control) == ("told", "true") else of if control == "true" else f"{of}-{control}"
        (self.work / own).mkdir(parents=True, exist_ok=True)
        return Bench(data, self.work / own, self.ends, self.minutes)

    def values(self, model: str, of: str, control: str, seeds: list[int]) -> Values:
        """By stratum, NDCG@20 [S, N] of the seeds on test."""
        name = IDS[model] if of == "ids" else model
        _, best, _ = self.bench(self.chosen_with).chosen(name, FILMS[name], seeds[0])
        runs = []
        for seed in seeds:
            bench = self.bench(of, control, seed)
            folder, _ = bench.final(name, best, seed)
            runs.append(by_stratum(folder, bench.data))
        return {name: np.stack([run[name] for run in runs]) for name in runs[0]}

    def cold(self, model: str, of: str, control: str, seed: int) -> Values:
        """The same among cold items [1, N], with the best setting on a cold split of the train part."""
        whole = self.data.split.train.concat(self.data.split.valid, self.data.split.test)
        folder, grid = self.work / "cold", cold_items.GRIDS[model]
        outer = cold_items.Cold.split(whole, "random", seed)
        inner = cold_items.Cold.split(outer.train, "random", seed)
        told = cold_items.Bench(folder, self.features(self.chosen_with, "true", seed), self.ends)
        reached = [
            np.mean(told.piece(model, setting, inner, seed, "inner")["among_cold"][METRIC])
            for setting in (grid if len(grid) > 1 else [])
        ]
        best = grid[int(np.argmax(reached)) if reached else 0]
        given = cold_items.Bench(folder, self.features(of, control, seed), self.ends)
        return {"cold": np.array([given.piece(model, best, outer, seed, control)["among_cold"][METRIC]])}


def by_stratum(folder: Path, data: Data) -> Values:
    """Test values per user of the model kept in a folder, with these features."""
    kept = folder / "strata.npz"
    if not kept.is_file():
        model = load_model(folder, data.known, data.features)
        truth = data.split.test
        users = np.unique(truth.user_rows)
        lists = retrieve({"model": model}, data.known, truth.user_ids[users], K)
        judged = judge(lists, truth)
        groups = judged_by_group(judged, [popularity(data.known)], users)
        parts = {"all": judged} | {name: groups[name] for name in groups}
        values = {name: part.metrics((K,)).per_user[METRIC] for name, part in parts.items()}
        np.savez(kept, **values, matched=matched(model, data, users))
    return dict(np.load(kept))


def matched(model: Any, data: Data, users: NDArray[np.int64]) -> NDArray[np.float64]:
    """NDCG@20 [N] among the items of a tenth of the known choices, averaged over the tenths with a truth."""
    counts = np.bincount(data.known.item_rows, minlength=data.known.n_items)
    order = np.argsort(-counts, kind="stable")
    before = np.concatenate([[0], np.cumsum(counts[order])[:-1]])
    tenths = [order[TENTHS * before // counts.sum() == tenth] for tenth in range(TENTHS)]
    seen, truth = data.known.matrix(), data.split.test.matrix()
    total, asked = np.zeros(len(users)), np.zeros(len(users))
    for part in blocks(len(users), 512):
        rows = users[part]
        scores = masked_scores(model, rows.astype(np.int32), seen)
        for own in tenths:
            best = best_columns(scores[:, own], min(K, len(own)), id_places(data.known.item_ids[own]))
            items = np.where(best < 0, -1, own[best]).astype(np.int32)
            n_truth = np.asarray(truth[rows][:, own].sum(axis=1)).astype(np.int64)
            there = np.flatnonzero(n_truth)
            hits = hit_matrix(items[there], rows[there], truth)
            total[part][there] += ndcg(hits, n_truth[there], K)
            asked[part][there] += 1
    return total / np.maximum(asked, 1)


def compared(
    texts: Texts, model: str, of: str, controls: Sequence[str], seeds: list[int], *, cold: bool
) -> dict[str, Values]:
    """The set as it is (`true`), and what it must beat: its controls, the set before it, and no features."""
    if cold:
        arms = {control: texts.cold(model, of, control, seeds[0]) for control in ("true", *controls)}
        if (before := SET_BEFORE[of]) != "ids":
            arms[before] = texts.cold(model, before, "true", seeds[0])
        return arms
    own = seeds[:1] if model in UNSEEDED else seeds
    arms = {control: texts.values(model, of, control, own) for control in ("true", *controls)}
    for other in dict.fromkeys((SET_BEFORE[of], "ids")):
        if other != "ids" or model in IDS:
            arms[other] = texts.values(model, other, "true", own)
    return arms


def table(arms: dict[str, Values]) -> dict[str, Any]:
    """Means of `true` and what it is compared with, and the gains over each, by stratum."""
    others = [name for name in arms if name != "true"]
    result = {}
    for stratum, true in arms["true"].items():
        over = {name: bootstrap_seeds(true, arms[name][stratum]) for name in others}
        result[stratum] = {
            "mean": {name: round(float(arm[stratum].mean()), 4) for name, arm in arms.items()},
            "gain": {name: [round(v, 4) for v in (g.estimate, g.low, g.high)] for name, g in over.items()},
            "real": all(g.low > 0 for g in over.values()),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--sets", nargs="+", choices=list(SETS)[1:], default=["told", "plots", "titles"])
    parser.add_argument("--controls", nargs="*", choices=list(KNOCK_OUTS), default=list(KNOCK_OUTS))
    parser.add_argument("--cold", action="store_true", help="among cold items instead")
    parser.add_argument("--seed", type=int, default=0, help="the first of the seeds")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=15.0, help="of training, a fit at most")
    parser.add_argument("--pause", type=float, default=float("inf"), help="seconds until this call stops")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="content search with titles")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    work = chosen.work / "films"
    work.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + chosen.pause
    if chosen.quick:
        chosen.models, chosen.sets, chosen.controls = ["content_search"], ["titles"], ["permuted"]
    data = films(chosen.data, work, ("title",) if chosen.quick else ("title", "plot", "told"))
    texts = Texts(data, work, ends, chosen.minutes, "titles" if chosen.quick else "told")
    seeds = list(range(chosen.seed, chosen.seed + chosen.seeds))
    rows: dict[str, Any] = {}
    paused = False
    try:
        for model in chosen.models:
            if model in cold_items.GRIDS or not chosen.cold:
                for of in chosen.sets:
                    arms = compared(texts, model, of, chosen.controls, seeds, cold=chosen.cold)
                    rows.setdefault(model, {})[of] = table(arms)
    except Paused:
        paused = True
    sys.stdout.write(json.dumps({"paused": paused, "seeds": seeds, "rows": rows}) + "\n")


if __name__ == "__main__":
    main()
