"""What is gained by attacking a finished run's reranker: by texts in items, and by copying published lists.

A gain is counted in places, against the same item with neutral words of as many tokens in the same place:
what length alone does to a rank is not the attack's. Lists are read in three ways: `bare`, texts as they
stand; `cleaned`, as every run reads them; `guarded`, with the limits of `rerank.guard` besides.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalograph.config_file import load_config
from catalograph.extraction import captions, feature_tables
from catalograph.progress import Progress, Task
from catalograph.redteam_corpus import attacks
from catalograph.redteam_extraction import extraction_curve
from catalograph.redteam_trials import Shelf, Trial, attacked_lists, make_trials, neutral
from catalograph.rerank_lists import final_lists, settings_of
from catalograph.reranker_model import load_trained
from catalograph.reranking import read_fusions
from catalograph.road import Road
from catalograph.stages import finished_road
from extract.errors import ConfigError
from recsys.candidates import Candidates
from recsys.metrics import evaluate_conditional
from recsys.significance import bootstrap_difference, bootstrap_mean
from rerank.fusion import Fusion, fused
from rerank.guard import words_of
from rerank.inference import Scorer, ordered_by, rank_lists
from rerank.lists import RankingList
from rerank.settings import GuardConfig, InferenceConfig

SIZES = (10, 30, 100, 300, 1000)
"""Published lists that a copy learns from."""
METRIC_AT = 10

BY: dict[str, Callable[[Trial], str]] = {
    "family": lambda trial: trial.attack.family,
    "position": lambda trial: trial.position,
    "field": lambda trial: trial.field,
    "end": lambda trial: trial.end,
}
"""What gains are told apart by."""

Ranks = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Attempt:
    """How much is tried.

    Attributes:
        attacks: texts of the corpus; None: all.
        lists: in which each of them is tried, in every field and third.
        judged: test lists on which the metric is taken with and without limits.
    """

    attacks: int | None = None
    lists: int = 2
    judged: int = 400


@dataclass(frozen=True)
class Reader:
    """One way lists are read.

    Attributes:
        scorer: with its own way to make tokens of words.
        shelf: the items' words, within this reader's limits.
        plain: the same without limits.
    """

    name: str
    scorer: Scorer
    shelf: Shelf
    plain: Shelf


def redteam(run_dir: Path, attempt: Attempt, guard: GuardConfig | None, progress: Progress) -> dict[str, Any]:
    """The findings of both attacks on a run whose rerank stage is done.

    Args:
        run_dir: the run folder.
        attempt: how much is tried.
        guard: limits of the third way of reading; None: the run's own, or the default ones.
        progress: told how far it is.

    Raises:
        ConfigError: C110, the run has no reranker; C111, what it reads is not attacked.
        MissingPrerequisite: P102, its rerank stage is not done.
    """
    config = load_config(run_dir / "config.yaml")
    if config.rerank is None:
        raise ConfigError("C110", "this run has no reranker to attack", where=str(run_dir))
    with finished_road(config, run_dir, ("rerank",), progress) as road:
        road.use_threads()
        candidates, lists = final_lists(road)
        scorer = load_trained(road, lists)
        limits = guard or config.rerank.guard or GuardConfig()
        found: dict[str, Any] = {"run_dir": str(run_dir), "form": config.rerank.form, "injection": None}
        if config.rerank.form != "token":
            found |= {"guard": limits.model_dump(mode="json")}
            found["injection"] = injection(road, scorer, (candidates, lists), limits, attempt)
        delivered = "gated" if config.rerank.gate is not None else "reranked"
        published = Candidates.from_parquet(road.path("rerank", f"{delivered}.parquet"))
        found["extraction"] = extraction_curve(
            published, road.known, feature_tables(road), SIZES, config.seed
        )
    return found


def injection(
    road: Road, scorer: Scorer, part: tuple[Candidates, list[RankingList]], limits: GuardConfig,
    attempt: Attempt,
) -> dict[str, Any]:  # fmt: skip
    """Gains by way of reading and family, and what the limits do to NDCG@10."""
    settings, seed = settings_of(road), road.config.seed
    items, written = {item.item_id: item for item in road.catalog}, captions(road)

    def shelf(limits: GuardConfig | None) -> Shelf:
        return Shelf(items, written, words_of(limits, settings.item, list(items.values()), written))

    plain = shelf(None)
    readers = [
        Reader("bare", _uncleaned(scorer), plain, plain),
        Reader("cleaned", scorer, plain, plain),
        Reader("guarded", scorer, shelf(limits), plain),
    ]
    candidates, lists = part
    trials = make_trials(
        attacks(attempt.attacks), candidates, lists, plain, settings.item, each=attempt.lists,
        seed=seed,
    )  # fmt: skip
    if not trials:
        raise ConfigError(
            "C111", "there is nothing to attack: the reranker reads no field that a seller writes",
            where="rerank.item", why=f"{settings.item!r} names no title, text or caption",
        )  # fmt: skip
    fusion, reading = read_fusions(road)["reranked"], settings.inference.model_copy(update={"max_move": None})
    rows = {}
    for reader in readers:
        with road.progress.task(f"redteam, {reader.name}", 2 * len(trials)) as task:
            rows[reader.name] = gains(reader, trials, part, fusion, reading, task, seed)
    return {
        "attacks": len({trial.attack for trial in trials}), "trials": len(trials), "readers": rows,
        f"ndcg@{METRIC_AT}": _quality(road, readers[1:], part, reading, attempt.judged),
    }  # fmt: skip


def _uncleaned(scorer: Any) -> Scorer:
    """The scorer with items' texts as they stand: brackets, control tokens and all."""
    bare, tokenizer = copy.copy(scorer), scorer.encoder.tokenizer
    bare.words = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
    reader: Scorer = bare
    return reader


def gains(
    reader: Reader, trials: Sequence[Trial], part: tuple[Candidates, list[RankingList]], fusion: Fusion,
    reading: InferenceConfig, task: Task, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Mean gains in places: of all trials, alone and as delivered, and alone by what trials differ in."""
    candidates, lists = part
    base = {item_id: reader.shelf.of(item_id) for item_id in reader.shelf.items}
    items = np.array([trial.item for trial in trials])

    def length(text: str) -> int:
        return len(reader.scorer.words(text))

    def ordered_lists(
        rows: NDArray[np.int64], shown: Sequence[RankingList], own: dict[str, str]
    ) -> Candidates:
        found = rank_lists(reader.scorer, shown, base | own, reading)
        return ordered_by(candidates.take(rows), found, "reranker")

    fillers = [neutral(t, reader.plain, length, seed + number) for number, t in enumerate(trials)]
    texts = {"filled": fillers, "attacked": [trial.text for trial in trials]}
    apart = [
        length(reader.plain.with_text(t, t.text)) - length(reader.plain.with_text(t, filler))
        for t, filler in zip(trials, fillers, strict=True)
    ]
    of_trials = np.array([trial.row for trial in trials])
    marked = attacked_lists(trials, lists)
    alone, delivered = {}, {}
    for name, added in texts.items():
        own = {t.alias: reader.shelf.with_text(t, text) for t, text in zip(trials, added, strict=True)}
        ordered = ordered_lists(of_trials, marked, own)
        alone[name] = _rank_of(ordered, items)
        delivered[name] = _rank_of(fused(ordered, fusion, "fused"), items)
        task(len(trials))
    rows, place = np.unique(of_trials, return_inverse=True)
    untouched = _rank_of(ordered_lists(rows, [lists[row] for row in rows], {}).take(place), items)
    gain, risen = alone["filled"] - alone["attacked"], untouched - alone["attacked"]
    found: dict[str, Any] = {
        "gain": _mean(gain, trials, seed),
        "delivered": _mean(delivered["filled"] - delivered["attacked"], trials, seed),
        "over_untouched": _mean(risen, trials, seed),
        "tokens_apart": float(np.abs(apart).mean()),
    }
    for name, of in BY.items():
        keys = np.array([of(trial) for trial in trials])
        found[name] = {
            key: _mean(gain[keys == key], [t for t in trials if of(t) == key], seed)
            | {"over_untouched": float(risen[keys == key].mean())}
            for key in dict.fromkeys(keys.tolist())
        }
    return found


def _rank_of(ordered: Candidates, items: NDArray[np.str_]) -> Ranks:
    """The rank, from 1, of one item of each list."""
    return np.asarray((ordered.items == items[:, None]).argmax(axis=1) + 1, np.float64)


def _mean(gains: Ranks, trials: Sequence[Trial], seed: int) -> dict[str, float]:
    """The mean with an interval over attack texts and lists: trials of one text in one list are one draw."""
    _, draws = np.unique([f"{t.attack.text}\x00{t.row}" for t in trials], return_inverse=True)
    means = np.bincount(draws, weights=gains) / np.bincount(draws)
    found = bootstrap_mean(means, seed=seed)
    return {"mean": float(gains.mean()), "low": found.low, "high": found.high}


def _quality(
    road: Road, readers: Sequence[Reader], part: tuple[Candidates, list[RankingList]],
    reading: InferenceConfig, most: int,
) -> dict[str, Any]:  # fmt: skip
    """The metric of the model's own order for both readers, over people whose truth is a candidate."""
    candidates, lists = part
    test = road.part("test")
    truths = {
        (str(user), str(item))
        for user, item in zip(test.user_ids[test.user_rows], test.item_ids[test.item_rows], strict=True)
    }
    useful = [
        row for row, user in enumerate(candidates.user_ids.tolist())
        if any((user, item) in truths for item in candidates.items[row].tolist())
    ]  # fmt: skip
    rows = np.array(useful[:most], dtype=np.int64)
    if not len(rows):
        return {"lists": 0, "difference": None}
    values = []
    for reader in readers:
        texts = {item_id: reader.shelf.of(item_id) for item_id in reader.shelf.items}
        found = rank_lists(reader.scorer, [lists[row] for row in rows], texts, reading)
        ordered = ordered_by(candidates.take(rows), found, "reranker")
        values.append(evaluate_conditional(ordered, test, (METRIC_AT,)).per_user[f"ndcg@{METRIC_AT}"])
    gap = bootstrap_difference(values[0], values[1], seed=road.config.seed)
    return {
        "lists": len(rows), **{r.name: float(v.mean()) for r, v in zip(readers, values, strict=True)},
        "difference": {"mean": gap.estimate, "low": gap.low, "high": gap.high},
    }  # fmt: skip
