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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from torch.nn.functional import softplus
from uplift import UNFINISHED, Pause, difference, note
from uplift import Bench as Uplift

from catalograph.demo import prepare_demo
from catalograph.filling import model_folder
from catalograph.progress import Progress
from catalograph.rerank_lists import final_lists, item_texts, training_lists, validation_lists
from catalograph.retrieval import source_names
from catalograph.road import Road
from catalograph.stages import STAGES, finished_road, run_stages
from recsys.candidates import Candidates
from recsys.interactions import Interactions
from recsys.metrics import evaluate
from rerank.diagnosis import arrived
from rerank.fusion import fit_fusion, fused
from rerank.hybrid import build_hybrid_scorer
from rerank.inference import Scorer, ordered_by, rank_lists
from rerank.lambdamart import LambdaMart
from rerank.lists import RankingList
from rerank.losses import LOSSES, listnet
from rerank.scorer import load_scorer, with_lora
from rerank.settings import RerankConfig
from rerank.teacher import taught
from rerank.token import build_token_scorer, load_trained, save_trained
from rerank.train import fine_tune, ndcg_of

Scores = list[np.ndarray]


@dataclass(frozen=True)
class Trial:
    """One way to train: settings that differ from the case's own, and what the settings cannot say.

    Attributes:
        changes: by dotted key of the section `rerank`.
        tweak: changes a scorer before it is trained.
        prepare: changes a scorer and the loss, told the lists that training will see.
        reads: name of a trained trial whose weights are read in another way, by `changes` of `inference`.
    """

    changes: Mapping[str, Any] = field(default_factory=dict)
    tweak: Callable[[Any], None] | None = None
    prepare: Callable[[Any, int], None] | None = None
    reads: str | None = None


@dataclass(frozen=True, eq=False)
class Case:
    """The lists of one data set and seed.

    Attributes:
        base: what trials change.
        held: the validation lists as candidates, `valid` as lists; likewise `shown` and `test`.
        tag: of the files of its trials.
    """

    folder: Path
    seed: int
    cut: int
    base: RerankConfig
    lists: list[RankingList]
    valid: list[RankingList]
    test: list[RankingList]
    texts: Mapping[str, str]
    held: Candidates
    shown: Candidates
    truth: Interactions
    sources: Sequence[str]
    tag: str = ""

    def settings(self, trial: Trial) -> RerankConfig:
        """The settings of a trial."""
        raw = self.base.model_dump()
        for key, value in trial.changes.items():
            *path, last = key.split(".")
            part = raw
            for name in path:
                part = part[name]
            part[last] = value
        return RerankConfig.model_validate(raw)

    @cached_property
    def relevance(self) -> np.ndarray:
        """Relevance [V, K] of the held lists, in arriving order."""
        table = np.zeros(self.held.items.shape, np.float32)
        for row, entry in enumerate(self.valid):
            table[row, entry.places] = entry.relevance
        return table

    def measured(self, ordered: Candidates) -> np.ndarray:
        """NDCG at the cut of each test user."""
        return evaluate(ordered, self.truth, (self.cut,)).per_user[f"ndcg@{self.cut}"]

    def validated(self, scores: Scores) -> float:
        """Mean NDCG at the cut of the validation lists."""
        return float(
            np.mean([ndcg_of(s, arrived(e), self.cut) for s, e in zip(scores, self.valid, strict=True)])
        )

    def with_sources(self, valid: Scores | None, test: Scores | None) -> np.ndarray:
        """The test users' NDCG under a linear fusion of the sources, and of the model where there is one."""
        held, relevance, shown, names = self.held, self.relevance, self.shown, list(self.sources)
        if valid is not None and test is not None:
            table = np.stack([np.pad(s, (0, held.k - len(s)), constant_values=np.nan) for s in valid])
            order = np.argsort(-np.nan_to_num(table, nan=-np.inf), axis=1, kind="stable")
            held, relevance = (
                held.reordered(order, "reranker", table), np.take_along_axis(relevance, order, 1)
            )  # fmt: skip
            shown, names = ordered_by(shown, test, "reranker"), [*names, "reranker"]
        return self.measured(fused(shown, fit_fusion(held, relevance, names), "fused"))


class Bench:
    """Trials of one case, each kept in files of its own."""

    def __init__(self, case: Case, stop: float) -> None:
        self.case, self.stop = case, stop

    def scores(self, name: str, trial: Trial) -> tuple[Scores, Scores]:
        """Validation and test scores of a trial, trained if it was not yet."""
        case, path = self.case, self.case.folder / f"{self.case.tag}{name}-{self.case.seed}.npz"
        if not path.is_file():
            scorer = self.trained(trial.reads or name, trial)
            read = partial(rank_lists, scorer, texts=case.texts, config=case.settings(trial).inference)
            found = {kind: read(lists=lists) for kind, lists in (("valid", case.valid), ("test", case.test))}
            whole = {k: np.concatenate(v) for k, v in found.items()}
            np.savez(path.with_suffix(".tmp.npz"), **whole)
            path.with_suffix(".tmp.npz").replace(path)
        stored = np.load(path)
        cuts = {
            "valid": np.cumsum([len(e.candidates) for e in case.valid])[:-1],
            "test": np.cumsum([len(e.candidates) for e in case.test])[:-1],
        }
        return np.split(stored["valid"], cuts["valid"]), np.split(stored["test"], cuts["test"])

    def trained(self, name: str, trial: Trial) -> Scorer:
        """The scorer of a trial with its trained weights."""
        case, settings = self.case, self.case.settings(trial)
        scorer = built(settings, case)
        if trial.tweak is not None:
            trial.tweak(scorer.model)
        if trial.prepare is not None:
            trial.prepare(scorer, settings.finetune.epochs * len(case.lists))
        stem = f"{case.tag}{name}-{case.seed}"
        path = case.folder / f"{stem}.safetensors"
        if not path.is_file():
            self.check()
            note(f"{case.folder.name} {case.seed} {name}: {len(case.lists)} lists")
            started, tuning = time.monotonic(), settings.finetune
            if trial.prepare is not None:
                tuning = tuning.model_copy(update={"loss": "weighted"})
            history = fine_tune(
                scorer, case.lists, case.valid, case.texts, tuning, seed=case.seed, progress=self._watch,
                # A prepared loss counts what it has seen, which no checkpoint holds.
                checkpoints=None if trial.prepare is not None else case.folder / f"{stem}-checkpoints",
            )  # fmt: skip
            note(f"{time.monotonic() - started:.0f} s, {history.evaluations}")
            save_trained(scorer, path)
        load_trained(scorer, path)
        return scorer

    def check(self) -> None:
        """Raises Pause when time is up."""
        if time.monotonic() > self.stop:
            raise Pause

    def _watch(self, step: int, total: int, losses: Any) -> None:
        if step % 25 == 0:
            self.check()


def built(settings: RerankConfig, case: Case) -> Scorer:
    """A scorer that has learned nothing yet."""
    if settings.form == "text":
        text = load_scorer(settings, max_candidates=case.shown.k)
        return with_lora(text, settings.finetune.lora, seed=case.seed)
    if settings.form == "hybrid":
        return build_hybrid_scorer(settings, case.lists[0], max_candidates=case.shown.k, seed=case.seed)
    return build_token_scorer(settings, case.lists[0], seed=case.seed)


def shop(work: Path, seed: int, quick: bool) -> Case:
    """The demo's own lists; what a soft token reads comes along."""
    folder = work / f"shop-{seed}{'-quick' * quick}"
    size = {"items": 300, "users": 300} if quick else {}
    config = prepare_demo(folder, seed=seed, **size)
    run_stages(config, folder, ["recommend"], Progress())
    assert config.rerank is not None
    base = config.rerank.model_copy(update={"model": model_folder(config.rerank.model or "")})
    token = base.token.model_copy(update={"features": ("title", "caption")})
    base = base.model_copy(update={"token": token})
    with finished_road(config, folder, ["recommend"], Progress()) as opened:
        soft = config.model_copy(update={"rerank": base.model_copy(update={"form": "hybrid"})})
        road = Road(opened.run, soft, opened.progress)
        for name in ("prepare", "caption", "embed", "train", "recommend"):
            road.enter(name, STAGES[name].folder, STAGES[name].parts(road))
        held, valid = validation_lists(road)
        shown, test = final_lists(road)
        lists = training_lists(road)[0][: 64 if quick else None]
        return Case(
            work / f"shop-trials{'-quick' * quick}", seed, 10, base, lists, valid, test, item_texts(road),
            held, shown, road.part("test"), source_names(config),
        )  # fmt: skip


FORMS: dict[str, dict[str, Any]] = {
    "text": {"form": "text"},
    "token": {
        "form": "token", "model": None, "finetune.loss": "listnet", "finetune.rank_weight": 1.0,
        "finetune.average": 0.99, "finetune.epochs": 6, "finetune.patience": 4,
    },
    "hybrid": {"form": "hybrid"},
}  # fmt: skip
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


def taught_by(bench: Bench, teacher: str) -> Case:
    """The shop's case with the orders of a trained form as labels of the training lists."""
    case = bench.case
    path = case.folder / f"orders-of-{teacher}-{case.seed}.npz"
    if not path.is_file():
        scorer = bench.trained(teacher, Trial(FORMS[teacher.partition("-")[0]]))
        np.savez(path, scores=np.concatenate(rank_lists(scorer, case.lists, case.texts)))
    cuts = np.cumsum([len(entry.candidates) for entry in case.lists])[:-1]
    labelled = []
    for entry, scores in zip(case.lists, np.split(np.load(path)["scores"], cuts), strict=True):
        order = np.argsort(-scores, kind="stable")
        names = np.array(entry.candidates)[np.argsort(entry.places)]
        labelled += taught([entry], {entry.user_id: names[order].tolist()})
    return replace(case, lists=labelled, tag="taught-")


def sounding(model: Any) -> None:
    """An ordinary start: the head at the candidates' places is not silent."""
    model.head.reset_parameters()


def without_numbers(model: Any) -> None:
    """No fusion of the numbers beside the decoder, which starts in the ordinary way."""
    sounding(model)
    for parameter in model.fusion.parameters():
        parameter.requires_grad_(False).zero_()


def numbers_alone(model: Any) -> None:
    """The fusion of the numbers without what the decoder sees."""
    for parameter in model.head.parameters():
        parameter.requires_grad_(False)


def by_list(weigh: Callable[[np.ndarray, Sequence[RankingList], float], np.ndarray]) -> Callable[..., Any]:
    """ListNet with a weight for each list of a pass: `weigh(losses, lists, share of training done)`."""

    def prepared(scorer: Any, steps: int) -> None:
        shown: list[RankingList] = []
        learn, passes = scorer.learn, [0]

        def remembering(prompts: Any) -> Any:
            shown[:] = [prompt.entry for prompt in prompts]
            return learn(prompts)

        def loss(scores: Any, relevance: Any, mask: Any) -> Any:
            own = [
                listnet(scores[i : i + 1], relevance[i : i + 1], mask[i : i + 1]) for i in range(len(scores))
            ]
            losses = torch.stack(own)
            passes[0] += len(own)
            weight = weigh(losses.detach().numpy(), shown, passes[0] / steps)
            return (losses * torch.from_numpy(weight).float()).mean()

        scorer.learn = remembering
        LOSSES["weighted"] = loss

    return prepared


def easy_first(losses: np.ndarray, lists: Sequence[RankingList], done: float) -> np.ndarray:
    """Curriculum by retriever ranks (MacAvaney et al. 2020, reciprocal), over the first 40 % of training.

    A list's ease is the mean over its pairs of (1 / rank of the truth - 1 / rank of the other + 1) / 2.
    """
    weights = []
    for entry in lists:
        inverse, truth = 1 / (entry.places + 1), entry.relevance > 0
        ease = (inverse[truth].mean() - inverse[~truth].mean() + 1) / 2
        weights.append(ease + (1 - ease) * min(done / 0.4, 1))
    return np.array(weights)


def linupper(losses: np.ndarray, lists: Sequence[RankingList], done: float) -> np.ndarray:
    """Loss reweighting: softmax(min(h + 1, 1) / r), h the losses scaled to [-1, 1], r from 100 to 1."""
    spread = np.ptp(losses)
    h = np.zeros(len(losses)) if spread == 0 else 2 * (losses - losses.min()) / spread - 1
    return len(losses) * softmax(np.minimum(h + 1, 1) / 100 ** (1 - min(done, 1)))


def growing_skips(scorer: Any, steps: int) -> None:
    """After RankList (arXiv 2508.09826): RankNet on pairs at most S ranks apart, S growing to all."""
    passes = [0]

    def loss(scores: Any, relevance: Any, mask: Any) -> Any:
        passes[0] += len(scores)
        order = relevance.masked_fill(~mask, -1).argsort(dim=1, descending=True, stable=True)
        ranked, label = scores.gather(1, order), relevance.gather(1, order)
        most = 1 + round(min(passes[0] / steps, 1) * (scores.shape[1] - 2))
        terms, count = scores.new_zeros(()), scores.new_zeros(())
        for skip in range(1, most + 1):
            pair = (label[:, :-skip] > label[:, skip:]) & mask.gather(1, order)[:, skip:]
            terms = terms + (softplus(ranked[:, skip:] - ranked[:, :-skip]) * pair).sum()
            count = count + pair.sum()
        return terms / count.clamp(min=1)

    LOSSES["weighted"] = loss


WEIGHTED = {"finetune.loss": "policy_gradient"}
"""Settings of a trial whose loss is `LOSSES["weighted"]`; the configuration knows no such name."""


def trials(base: str) -> dict[str, Trial]:
    """One option changed at a time, beginning with nothing changed."""
    start = FORMS.get(base, {})
    losses = ("ranknet", "listnet", "listmle", "lambdarank", "approx_ndcg", "policy_gradient")
    found = {"base": Trial(start)}
    for loss in losses:
        found[f"loss {loss}"] = Trial({**start, "finetune.loss": loss})
    found["permutations 4"] = Trial({**start, "inference.permutations": 4}, reads="base")
    found["windows of half"] = Trial({**start, "inference.window": 16, "inference.stride": 8}, reads="base")
    found["max_move 5"] = Trial({**start, "inference.max_move": 5}, reads="base")
    if base == "text":
        found["no language-model loss"] = Trial({**start, "finetune.rank_weight": 1e4})
        found["language-model loss alone"] = Trial({**start, "finetune.rank_weight": 0.0})
        return found
    return found | {
        "ordinary start": Trial(start, tweak=sounding),
        "without f": Trial(start, tweak=without_numbers),
        "f alone": Trial(start, tweak=numbers_alone),
        "one layer": Trial({**start, "token.layers": 1}),
        "two layers": Trial({**start, "token.layers": 2}),
        "last weights": Trial({**start, "finetune.average": 0.0}),
        "curriculum": Trial({**start, **WEIGHTED}, prepare=by_list(easy_first)),
        "reweighting": Trial({**start, **WEIGHTED}, prepare=by_list(linupper)),
    }


def options(args: argparse.Namespace, seeds: Sequence[int], stop: float) -> dict[str, Any]:
    """Each trial's validation and test NDCG, and its difference from the first by user."""
    rows: dict[str, list[np.ndarray]] = {}
    validation: dict[str, list[float]] = {}
    finished = True
    for seed in seeds:
        case = shop(args.work, seed, args.quick) if args.data == "shop" else films_or_baby(args, seed)
        base = "listed" if args.data != "shop" else args.form
        groups = [(Bench(replace(case, tag=f"{base}-"), stop), trials(base))]
        if args.data == "shop" and args.form == "token" and args.teacher:
            student = taught_by(Bench(case, stop), args.teacher)
            start = FORMS["token"]
            groups.append((
                Bench(student, stop),
                {
                    **{f"taught, {loss}": Trial({**start, "finetune.loss": loss})
                       for loss in ("listnet", "ranknet", "listmle")},
                    "taught, ranklist": Trial({**start, **WEIGHTED}, prepare=growing_skips),
                },
            ))  # fmt: skip
        for bench, named in groups:
            for name, trial in named.items():
                if args.only and name not in args.only:
                    continue
                try:
                    valid, test = bench.scores(name.replace(" ", "_"), trial)
                except Pause:
                    finished = False
                    continue
                move = case.settings(trial).inference.max_move
                validation.setdefault(name, []).append(case.validated(valid))
                ordered = ordered_by(case.shown, test, name, max_move=move)
                rows.setdefault(name, []).append(case.measured(ordered))
                if move is None:
                    rows.setdefault(f"{name}, fused", []).append(case.with_sources(valid, test))
        trees = case.folder / f"lambdamart-{seed}.json"
        if trees.is_file() and not args.only:
            model = LambdaMart(json.loads(trees.read_text())["text"])
            valid, test = model.scores(case.valid), model.scores(case.test)
            rows.setdefault("lambdamart", []).append(case.measured(ordered_by(case.shown, test, "trees")))
            rows.setdefault("lambdamart, fused", []).append(case.with_sources(valid, test))
    # Each seed of the shop has people of its own.
    apart_by = apart if args.data == "shop" else difference
    first = {name: "base, fused" if name.endswith(", fused") else "base" for name in rows}
    return {
        "finished": finished, "data": args.data, "form": args.form,
        "validation": {name: float(np.mean(values)) for name, values in validation.items()},
        "test": means(rows),
        "differences": {
            name: apart_by(rows[other][: len(rows[name])], rows[name])
            for name, other in first.items() if name != other and other in rows
        },
    }  # fmt: skip


def films_or_baby(args: argparse.Namespace, seed: int) -> Case:
    """The lists of `uplift.py`, training on at most `--lists` of them."""
    told = argparse.Namespace(
        quick=args.quick, data=Path(args.data), work=args.work, only=None, minutes=args.minutes, epochs=1
    )
    own = Uplift(told)
    lists, valid = own.training(permuted=False)
    if args.lists and len(lists) > args.lists:
        chosen = np.random.default_rng(0).choice(len(lists), args.lists, replace=False)
        lists = [lists[i] for i in np.sort(chosen)]
    held = own.candidates("valid")
    row_of = {str(user): row for row, user in enumerate(held.user_ids)}
    return Case(
        own.work, seed, 20, own.token, lists, valid, own.lists("test", permuted=False), {},
        held.take(np.array([row_of[entry.user_id] for entry in valid])), own.candidates("test"), own.parts[2],
        list(own.retrievers),
    )  # fmt: skip


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
