"""Which option of the reranker earns its place: same lists, same budget, one thing changed at a time.

    python benchmarks/ablation.py --part forms [--work runs/ablation] [--seeds 0 1 2] [--minutes 9] [--quick]
    python benchmarks/ablation.py --part options --data shop|DIR [--only NAME ...]

`forms` lays the demo shop's lists before a fusion without a language model and before the three ways to show
an item. `options` changes one option of a form: losses, curriculum, schedules, parts of the network, ways of
reading. DIR is ml1m_posters or amazon_baby, whose lists are those of `benchmarks/uplift.py`, in the same
folder `--work`. Settings are chosen on validation; the test is read once for what was trained. Differences
are paired by user against the first row, pooled over seeds, with intervals over users and seeds. Resumable: a
call works for about `--minutes`, prints what it has, and exits 75 while trials are missing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablation_cases import Bench, Case, Trial, films_or_baby, shop
from ablation_trials import FORMS, given, growing_skips, taught_by, trials
from uplift import UNFINISHED, Pause, difference

from rerank.inference import ordered_by
from rerank.lambdamart import LambdaMart

RATES = (1e-3, 2e-3, 4e-3)
"""Learning rates that every form may choose from, on the validation lists of the first seed."""


def forms(work: Path, seeds: Sequence[int], stop: float, quick: bool) -> dict[str, Any]:
    """The demo's lists before a fusion without a language model, and before each form, alone and fused."""
    rows: dict[str, list[np.ndarray]] = {}
    chosen: dict[str, Any] = {}
    finished = True
    for seed in seeds:
        case = shop(work, seed, quick)
        bench = Bench(case, stop)
        rows.setdefault("retrieved", []).append(case.measured(case.shown))
        rows.setdefault("fused_without_llm", []).append(case.with_sources(None, None))
        for form, changes in FORMS.items():
            try:
                rates = {
                    rate: Trial({**changes, "finetune.learning_rate": rate})
                    for rate in (RATES[:1] if quick else RATES)
                    if seed == seeds[0] or rate == chosen[form]["rate"]
                }
                found = {rate: bench.scores(f"{form}-{rate:g}", trial) for rate, trial in rates.items()}
            except (Pause, KeyError):
                finished = False
                continue
            if seed == seeds[0]:
                by_rate = {rate: case.validated(scores[0]) for rate, scores in found.items()}
                chosen[form] = {"rate": max(by_rate, key=by_rate.__getitem__), "validation": by_rate}
            valid, test = found[chosen[form]["rate"]]
            rows.setdefault(form, []).append(case.measured(ordered_by(case.shown, test, form)))
            rows.setdefault(f"{form}, fused", []).append(case.with_sources(valid, test))
    pairs = [
        ("fused_without_llm", "text, fused"), ("text, fused", "hybrid, fused"),
        ("token, fused", "hybrid, fused"), ("fused_without_llm", "token, fused"), ("text", "hybrid"),
        ("token", "hybrid"),
    ]  # fmt: skip
    return {
        "finished": finished, "settings": chosen, "ndcg@10": means(rows),
        "differences": {
            f"{b} over {a}": apart(rows[a], rows[b]) for a, b in pairs if a in rows and b in rows
        },
    }  # fmt: skip


def options(args: argparse.Namespace, seeds: Sequence[int], stop: float) -> dict[str, Any]:
    """Each trial's validation and test NDCG, and its difference from the first by user."""
    rows: dict[str, dict[int, np.ndarray]] = {}
    validation: dict[str, dict[int, float]] = {}
    finished = True
    of_shop = args.data == "shop"
    lists = None if of_shop else films_or_baby(args)
    for seed in seeds:
        case = shop(args.work, seed, args.quick) if lists is None else replace(lists, seed=seed)
        for name, (bench, trial) in tried(args, case, stop).items():
            if args.only and name not in args.only:
                continue
            try:
                valid, test = bench.scores(name.replace(" ", "_"), trial)
            except Pause:
                finished = False
                continue
            move = case.settings(trial).inference.max_move
            validation.setdefault(name, {})[seed] = case.validated(valid)
            ordered = ordered_by(case.shown, test, name, max_move=move)
            rows.setdefault(name, {})[seed] = case.measured(ordered)
            if move is None:
                rows.setdefault(f"{name}, fused", {})[seed] = case.with_sources(valid, test)
        trees = case.folder / f"lambdamart-{seed}.json"
        if trees.is_file() and not args.only:
            model = LambdaMart(json.loads(trees.read_text())["text"])
            valid, test = model.scores(case.valid), model.scores(case.test)
            rows.setdefault("lambdamart", {})[seed] = case.measured(ordered_by(case.shown, test, "trees"))
            rows.setdefault("lambdamart, fused", {})[seed] = case.with_sources(valid, test)
    differences = {}
    for name, found in rows.items():
        first = rows.get("base, fused" if name.endswith(", fused") else "base", {})
        both = [seed for seed in found if seed in first]
        if found is not first and both:
            # Each seed of the shop has people of its own.
            compare = apart if of_shop else difference
            differences[name] = compare([first[seed] for seed in both], [found[seed] for seed in both])
    return {
        "finished": finished, "data": args.data, "form": args.form, "lists": args.lists,
        "validation": validation,
        "test": means({name: list(found.values()) for name, found in rows.items()}),
        "differences": differences,
    }  # fmt: skip


def tried(args: argparse.Namespace, case: Case, stop: float) -> dict[str, tuple[Bench, Trial]]:
    """The trials of one seed by name, each with the bench that holds its lists."""
    if args.data != "shop":
        bench = Bench(case, stop)
        return {name: (bench, trial) for name, trial in trials("listed").items()}
    bench = Bench(replace(case, tag=f"{args.form}-"), stop)
    named = {name: (bench, trial) for name, trial in trials(args.form).items()}
    if args.form != "token" or not args.teacher:
        return named
    student, start = Bench(taught_by(Bench(case, stop), args.teacher), stop), FORMS["token"]
    for loss in ("listnet", "ranknet"):
        named[f"taught, {loss}"] = student, Trial({**start, "finetune.loss": loss})
    prepared = {"listmle": given("listmle"), "ranklist": growing_skips}
    return named | {f"taught, {n}": (student, Trial(start, prepare=p)) for n, p in prepared.items()}


def means(rows: Mapping[str, list[np.ndarray]]) -> dict[str, float]:
    """The mean of each list."""
    return {name: float(np.mean([part.mean() for part in parts])) for name, parts in rows.items()}


def apart(a: list[np.ndarray], b: list[np.ndarray]) -> dict[str, Any]:
    """b - a relative to a, where each seed has people of its own: mean and a 95 % interval over both."""
    count, rng, draws = min(len(a), len(b)), np.random.default_rng(0), []
    parts = [second - first for first, second in zip(a, b, strict=False)]
    base = float(np.mean([part.mean() for part in a[:count]]))
    for _ in range(1000):
        drawn = (parts[i] for i in rng.integers(0, count, count))
        draws.append(np.mean([part[rng.integers(0, len(part), len(part))].mean() for part in drawn]) / base)
    low, high = np.quantile(draws, [0.025, 0.975])
    mean = float(np.mean([part.mean() for part in parts]) / base)
    return {"relative": mean, "low": float(low), "high": float(high), "seeds": count}


def main() -> None:
    """Goes as far as time allows and prints what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--part", choices=["forms", "options"], default="forms")
    parser.add_argument("--data", default="shop")
    parser.add_argument("--work", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seed", type=int, help="one seed instead of --seeds")
    parser.add_argument("--only", nargs="+", help="these trials, and no LambdaMART of `uplift.py`")
    parser.add_argument("--form", choices=list(FORMS), default="token", help="of the shop's options")
    parser.add_argument("--teacher", help="a trained form of the shop, such as hybrid-0.001, to learn from")
    parser.add_argument("--lists", type=int, help="training lists at most, of a DIR")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a third of the shop, 64 lists, one seed")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    seeds = [chosen.seed] if chosen.seed is not None else chosen.seeds[:1] if chosen.quick else chosen.seeds
    stop = time.monotonic() + 60 * chosen.minutes
    if chosen.part == "forms":
        result = forms(chosen.work, seeds, stop, chosen.quick)
    else:
        result = options(chosen, seeds, stop)
    sys.stdout.write(json.dumps(result) + "\n")
    raise SystemExit(0 if result["finished"] else UNFINISHED)


if __name__ == "__main__":
    main()
