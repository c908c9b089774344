"""What a reranker of soft tokens adds: over EASE, a fusion, and LambdaMART on the same lists and numbers.

    python benchmarks/uplift.py --data DIR [--work runs/uplift] [--seeds 0 1 2] [--minutes 9] [--quick]

DIR is ml1m_posters, amazon_baby (x_label_diffmm), or ml100k_posters, whose plots come from ml1m_posters
beside it. The published splits, on ml1m_posters with a tenth of train carved out for validation;
ml100k_posters is cut by two dates, and its folds hold out each person's latest choices. Lists are the 100
best of the merged list, whose weights are chosen on validation: from five out-of-fold fits for training, from
train for validation, and from train and validation for the test, which is read once. Per seed: LambdaMART,
chosen on validation; the token form; what the gate lets through, from validation lists of users whom nothing
was fitted or chosen on; and, where there are texts, the token form with them permuted across items. Each of
them also fused with the sources' scores, as the rerank stage does, weights from the lists it was chosen on.
Resumable: a call works for about `--minutes`, prints what it has, and exits 75 while pieces are missing. All
lies under `--work`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from uplift_lists import Lists, Pause, note

from extract.store import write_atomic
from recsys.candidates import Candidates
from recsys.groups import activity
from recsys.metrics import evaluate
from rerank.fusion import fit_fusion, fused
from rerank.gate import Decision, decide, gated
from rerank.inference import ordered_by, score_lists
from rerank.lambdamart import LambdaMart, fit_lambdamart
from rerank.settings import GateConfig
from rerank.token import build_token_scorer, load_trained, save_trained
from rerank.train import fine_tune

METRICS = ("ndcg@20", "recall@20")
UNFINISHED = 75
DIFFMM = {
    "recall@20": 0.0975, "ndcg@20": 0.0411,
    "note": "published, epoch chosen on test; learned from train alone, where ours know validation too",
}  # fmt: skip


class Bench(Lists):
    """The orders of one data set, each kept in a file of its own."""

    def scored(self, kind: str, seed: int, name: str = "test") -> Candidates:
        """Lists by the scores of LambdaMART or of the token form."""
        if kind == "lambdamart":
            return ordered_by(self.came_in(name), self.lambdamart(seed, name), kind)
        scores = self.reranker(seed, permuted=kind != "token", name=name)
        return ordered_by(self.came_in(name), scores, kind)

    def fusion(self, name: str, kind: str | None = None, seed: int = 0) -> Candidates:
        """Lists by linear ListNet on the sources' scores and ranks, and a reranker's beside them; its weights
        are fitted on the lists to choose by.
        """
        chosen = self.came_in("choose") if kind is None else self.scored(kind, seed, "choose")
        truths = {
            entry.user_id: dict(zip(entry.candidates, entry.relevance, strict=True))
            for entry in self.asked("choose")
        }
        rows = zip(chosen.user_ids, chosen.items, strict=True)
        relevance = np.float32([[truths[str(user)].get(item, 0.0) for item in items] for user, items in rows])
        fitted = fit_fusion(chosen, relevance, [*self.retrievers, *([kind] if kind else [])])
        return fused(self.came_in(name) if kind is None else self.scored(kind, seed, name), fitted, "fused")

    def lambdamart(self, seed: int, name: str = "test") -> list[np.ndarray]:
        """Its scores of the lists of one set."""
        path = self.work / f"lambdamart-{seed}.json"
        if not path.is_file():
            self.check()
            note(f"lambdamart {seed}")
            lists, valid = self.training(permuted=False)
            trees = fit_lambdamart(lists, valid, self.trees, seed=seed)
            write_atomic(path, json.dumps(asdict(trees)).encode())
        return LambdaMart(json.loads(path.read_text())["text"]).scores(self.asked(name))

    def gate(self, seed: int) -> tuple[Candidates, list[Decision]]:
        """The test lists as the gate gives them, and what it decided, by thirds of the train choices."""
        orders = {
            name: {
                "token_fused": self.fusion(name, "token", seed),
                "token": self.scored("token", seed, name),
                "lambdamart": self.scored("lambdamart", seed, name),
                "fused_without_llm": self.fusion(name),
            }
            for name in ("gate", "test")
        }
        held, candidates = self.came_in("gate"), self.came_in("test")
        labels = activity(self.parts[0]).labels
        groups = [labels[self.parts[0].user_rows_of(lists.user_ids)] for lists in (held, candidates)]
        values = {
            name: evaluate(ordered, self.parts[1], (20,)).per_user["ndcg@20"]
            for name, ordered in {**orders["gate"], "retrieved": held}.items()
        }
        decisions = decide(values, groups[0], GateConfig())
        return gated(candidates, orders["test"], groups[1], decisions), decisions

    def reranker(self, seed: int, *, permuted: bool, name: str = "test") -> list[np.ndarray]:
        """The token form's scores of the lists of one set."""
        piece = f"token{'-permuted' * permuted}-{seed}"
        path = self.work / f"{piece}.safetensors"
        scores_path = self.work / f"{piece}{'' if name == 'test' else '-' + name}.npz"
        if scores_path.is_file():
            return list(np.load(scores_path)["scores"])
        self.check()
        asked = self.asked(name, permuted=permuted)
        scorer = build_token_scorer(self.token, asked[0], seed=seed)
        if not path.is_file():
            lists, valid = self.training(permuted=permuted)
            size = sum(p.numel() for p in scorer.model.parameters())
            note(f"{piece}: {size:,} parameters, {len(lists)} lists")
            started = time.monotonic()
            history = fine_tune(
                scorer, lists, valid, {}, self.token.finetune, seed=seed,
                checkpoints=self.work / f"{piece}-checkpoints", progress=self._watch(piece),
            )  # fmt: skip
            note(f"{piece}: {time.monotonic() - started:.0f} s in this call")
            write_atomic(self.work / f"{piece}.json", json.dumps(asdict(history)).encode())
            save_trained(scorer, path)
        load_trained(scorer, path)
        found = score_lists(scorer, asked, {}, token_budget=8192)
        np.savez(scores_path, scores=np.stack([np.pad(s, (0, self.k - len(s))) for s in found]))
        return found

    def _watch(self, name: str) -> Callable[[int, int, Any], None]:
        def watch(step: int, total: int, losses: Any) -> None:
            if step % 25 == 0:
                note(f"{name}: step {step} of {total}, {losses['rank_loss']:.4f}")
                self.check()

        return watch

    def per_user(self, seeds: list[int], tables: dict[str, Any]) -> None:
        """Fills `tables`: list name to metric to values [seeds, users], pausing where time is up."""
        test = self.parts[2]
        for name in self.sets:
            self.candidates(name)
        candidates = self.candidates("test")

        def put(name: str, ordered: Candidates) -> None:
            found = evaluate(ordered, test, (20,)).per_user
            for metric in METRICS:
                tables.setdefault(name, {}).setdefault(metric, []).append(found[metric])

        put("ease", Candidates.from_parquet(self.work / "ease.parquet"))
        put("retrieved", candidates)
        put("fused_without_llm", self.fusion("test"))
        for kind in self.kinds:
            for seed in seeds:
                if kind == "gated":
                    ordered, self.decisions[seed] = self.gate(seed)
                elif kind.endswith("_fused"):
                    ordered = self.fusion("test", kind.removesuffix("_fused"), seed)
                else:
                    ordered = self.scored(kind, seed)
                put(kind, ordered)


def difference(a: list[np.ndarray], b: list[np.ndarray]) -> dict[str, Any]:
    """b - a relative to a: mean and a 95 % bootstrap interval over users and seeds."""
    count = min(len(a), len(b)) if len(a) > 1 else len(b)
    first = np.stack([a[i if len(a) > 1 else 0] for i in range(count)])
    change = np.stack(b[:count]) - first
    rng, draws = np.random.default_rng(0), []
    for _ in range(1000):
        users = rng.integers(0, change.shape[1], change.shape[1])
        draws.append(change[rng.integers(0, count, count)][:, users].mean() / first.mean())
    low, high = np.quantile(draws, [0.025, 0.975])
    return {"relative": float(change.mean() / first.mean()), "low": low, "high": high, "seeds": count}


def main() -> None:
    """Goes as far as time allows and prints what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/uplift"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seed", type=int, help="one seed instead of --seeds")
    parser.add_argument("--only", help="one kind of list, such as token or lambdamart_fused")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="600 users, two folds, one seed")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    seeds = [chosen.seed] if chosen.seed is not None else chosen.seeds[:1] if chosen.quick else chosen.seeds
    bench, tables, finished = Bench(chosen), {}, True
    try:
        bench.per_user(seeds, tables)
    except Pause:
        finished = False
    means = {name: {m: float(np.mean(v)) for m, v in row.items()} for name, row in tables.items()}
    pairs = [
        (a, b) for a in means for b in means if b.startswith(("token", "gated", "lambdamart_f")) and a != b
    ]
    result = {
        "data": bench.name, "finished": finished, "lists": means,
        "differences": {
            f"{b} over {a}": {m: difference(tables[a][m], tables[b][m]) for m in METRICS} for a, b in pairs
        },
        "gate": {seed: [asdict(row) for row in rows] for seed, rows in bench.decisions.items()},
        **({} if bench.films else {"diffmm": DIFFMM}),
    }  # fmt: skip
    print(json.dumps(result))
    raise SystemExit(0 if finished else UNFINISHED)


if __name__ == "__main__":
    main()
