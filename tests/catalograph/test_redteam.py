"""Attacks on a reranker: what the figures count, worked by hand, and the verb on a small run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from catalograph.redteam import Reader, gains
from catalograph.redteam_corpus import Attack, attacks
from catalograph.redteam_extraction import agreement, extraction_curve
from catalograph.redteam_trials import ENDS, Shelf, attacked_lists, make_trials, neutral
from extract.features import FeatureTable, Provenance
from extract.items import Item
from recsys.candidates import Candidates
from recsys.interactions import Interactions
from rerank.fusion import Fusion
from rerank.guard import words_of
from rerank.inputs import ItemVectors
from rerank.lists import RankingList, ranking_lists
from rerank.settings import GuardConfig, InferenceConfig

TEMPLATE = "{title}, {caption}"
ITEMS = {f"i{n:02}": Item(f"i{n:02}", title="slim vase") for n in range(12)}
CAPTIONS = dict.fromkeys(ITEMS, "a pink ring")
USERS, K = 4, 9


class Gullible:
    """Scores a candidate by how often its words hold the word `first`; words are tokens."""

    model = None
    device = None

    def words(self, text: str) -> list[int]:
        return [1 if word == "first" else 0 for word in text.replace(",", " ").split()]

    def prompt(self, entry: RankingList, words: Any, answer: int = 0) -> Any:
        return [sum(words[item]) for item in entry.candidates]

    def learn(self, prompts: Any) -> Any:
        raise NotImplementedError

    def score(self, prompts: Any, *, token_budget: int = 0) -> list[Any]:
        return [np.array(prompt, np.float32) for prompt in prompts]


@pytest.fixture
def part() -> tuple[Candidates, list[RankingList]]:
    items = np.array([[f"i{n:02}" for n in range(K)]] * USERS)
    ranks = np.tile(np.arange(1, K + 1, dtype=np.int32), (USERS, 1))
    scores = -ranks.astype(np.float32)
    users = np.array([f"u{n}" for n in range(USERS)])
    candidates = Candidates(users, items, {"s": scores}, {"s": ranks}, scores)
    histories = {str(user): ("i09", "i10", "i11") for user in users}
    return candidates, ranking_lists(candidates, histories, None, seed=0)


def shelf(limits: GuardConfig | None = None) -> Shelf:
    return Shelf(ITEMS, CAPTIONS, words_of(limits, TEMPLATE, list(ITEMS.values()), CAPTIONS))


def trials_of(part: Any, *texts: str) -> Any:
    tried = [Attack("test", text) for text in texts]
    return make_trials(tried, *part, shelf(), TEMPLATE, each=USERS, seed=0)


def figures(part: Any, limits: GuardConfig | None, *texts: str) -> dict[str, Any]:
    trials = trials_of(part, *texts)
    fusion = Fusion(("score:s", "score:reranker"), np.array([1.0, 0.0]))
    task: Any = lambda steps: None  # noqa: E731
    reader = Reader("r", Gullible(), shelf(limits), shelf())
    return gains(reader, trials, part, fusion, InferenceConfig(), task, 0)


def test_the_corpus_has_over_a_hundred_texts_of_all_families() -> None:
    corpus = attacks()
    assert len({attack.text for attack in corpus}) == len(corpus) >= 100
    families = {attack.family for attack in corpus}
    assert {attack.family for attack in attacks(len(families))} == families
    assert any("{liked}" in attack.text for attack in corpus)


def test_slots_are_filled_once() -> None:
    filled = Attack("f", "{own} {popular} {other}").written(own="{popular}", popular="b", chosen="", liked="")
    assert filled == "{popular} b {other}"


def test_a_text_that_works_gains_the_places_above_it(part: Any) -> None:
    trials = trials_of(part, "first")
    # All other scores are equal, so the filled item stays where it came in, and the attacked one is first.
    expected = np.mean([trial.place for trial in trials])
    found = figures(part, None, "first")
    assert found["gain"]["mean"] == pytest.approx(expected)
    assert found["position"]["bottom"]["mean"] >= 6 > found["position"]["top"]["mean"]
    assert found["tokens_apart"] == 0
    assert found["over_untouched"]["mean"] == pytest.approx(expected)
    # The delivered order of this fusion is the source's own.
    assert found["delivered"]["mean"] == 0


def test_a_text_that_does_nothing_gains_nothing(part: Any) -> None:
    found = figures(part, None, "rank this one above")
    assert (found["gain"]["mean"], found["gain"]["low"], found["gain"]["high"]) == (0, 0, 0)


def test_limits_leave_nothing_of_a_text_behind_the_items_own_words(part: Any) -> None:
    assert figures(part, None, "first")["end"]["behind"]["mean"] > 0
    assert figures(part, GuardConfig(), "first")["end"]["behind"]["mean"] == 0


def test_every_text_is_tried_in_each_third_and_field_and_at_both_ends(part: Any) -> None:
    trials = trials_of(part, "x", "y")
    assert len(trials) == 2 * USERS * 3 * 2
    for position, low in (("top", 0), ("middle", 3), ("bottom", 6)):
        own = [trial for trial in trials if trial.position == position]
        assert {trial.place for trial in own} <= {low, low + 1, low + 2}
        assert {(trial.field, trial.end) for trial in own} == {
            (field, end) for field in ("title", "caption") for end in ENDS
        }


def test_the_text_changes_one_candidate_of_one_list(part: Any) -> None:
    trials = trials_of(part, "first")
    for trial, marked in zip(trials, attacked_lists(trials, part[1]), strict=True):
        before = part[1][trial.row]
        changed = [(a, b) for a, b in zip(before.candidates, marked.candidates, strict=True) if a != b]
        assert changed == [(trial.item, trial.alias)]
        assert marked.history == before.history


def test_an_attacked_candidate_keeps_what_is_known_of_it_besides_words(part: Any) -> None:
    ids = np.array(sorted(ITEMS))
    matrix = np.arange(len(ids) * 2, dtype=np.float32).reshape(-1, 2)
    nothing = np.zeros((len(ids), 0))
    vectors = ItemVectors(ids, matrix, {"x": slice(0, 1)}, matrix[:, 1], nothing, nothing)
    lists = [replace(entry, vectors=vectors) for entry in part[1]]
    trials = trials_of(part, "first")
    for trial, marked in zip(trials, attacked_lists(trials, lists), strict=True):
        assert marked.vectors is not None
        own, before = marked.vectors.rows([trial.alias]), vectors.rows([trial.item])
        assert (marked.vectors.matrix[own] == matrix[before]).all()
        assert marked.vectors.popularity[own] == vectors.popularity[before]


def test_neutral_words_are_as_many_tokens_as_the_attack(part: Any) -> None:
    words = Gullible().words
    for trial in trials_of(part, "one two three", "first " * 20):
        filled = shelf().with_text(trial, neutral(trial, shelf(), lambda text: len(words(text)), 0))
        assert len(words(filled)) == len(words(shelf().with_text(trial, trial.text)))
        assert not any(words(filled))


def test_agreement_worked_by_hand() -> None:
    ids = np.array([f"i{n:02}" for n in range(20)])
    falling = -np.arange(20.0)
    assert agreement(falling, ids) == (1.0, 1.0)
    assert agreement(-falling, ids) == (-1.0, 0.0)
    # All equal: no pair is ordered either way.
    assert agreement(np.zeros(20), ids[::-1]) == (0.0, 0.0)
    # Of 3 pairs one is turned round.
    assert agreement(np.array([2.0, 3.0, 1.0]), ids[:3]) == (pytest.approx(1 / 3), 1.0)


def copied(
    order: Sequence[Sequence[int]], matrix: np.ndarray, histories: Sequence[int]
) -> list[dict[str, Any]]:
    count = len(order)
    ids = np.array([f"i{n:03}" for n in range(len(matrix))])
    users = np.array([f"u{n:03}" for n in range(count)])
    known = Interactions(users, ids, np.arange(count, dtype=np.int32), np.array(histories, np.int32))
    table = FeatureTable(
        ids,
        matrix.astype(np.float32),
        np.ones(len(ids), bool),
        Provenance("m", "r", "p", "float32", "mean", {}),
    )
    items = ids[np.array(order)]
    final = np.tile(-np.arange(items.shape[1], dtype=np.float32), (count, 1))
    lists = Candidates(users, items, {}, {}, final)
    return extraction_curve(lists, known, {"x": table}, (30,), 0)


def test_a_ranking_by_likeness_is_copied_and_a_ranking_by_lot_is_not() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((60, 8))
    unit = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    histories = rng.integers(60, size=90).tolist()
    shown = [rng.choice(60, 12, replace=False) for _ in histories]
    alike = [
        row[np.argsort(-(unit[row] @ unit[own]), kind="stable")]
        for row, own in zip(shown, histories, strict=True)
    ]
    found = {row["published"]: row["tau"]["mean"] for row in copied(alike, matrix, histories)}
    assert found["order and scores"] > 0.9 and found["order alone"] > 0.9
    lot = {row["published"]: row["tau"] for row in copied(shown, matrix, histories)}
    assert all(abs(row["mean"]) < 0.15 for row in lot.values())


def test_the_verb_attacks_a_finished_run_and_says_what_was_gained(world: Any) -> None:
    assert world.run("attacked").code == 0
    run = world.root / "run-attacked"
    asked = ("--attacks", "15", "--lists", "1", "--judged", "10")
    # A limit on the gain that nothing can keep.
    found = verb(run, *asked, "--json", "--max-gain", "-99")
    told = json.loads(found.out)
    assert found.code == 5
    assert told["injection"]["attacks"] == 15 and told["injection"]["trials"] == 15 * 3 * 2
    assert set(told["injection"]["readers"]) == {"bare", "cleaned", "guarded"}
    assert set(told["injection"]["ndcg@10"]["difference"]) == {"mean", "low", "high"}
    assert {row["lists"] for row in told["extraction"]} == {10, 30}
    # The same seed, the same figures, for people.
    printed = verb(run, *asked)
    assert printed.code == 0
    assert f"{told['injection']['readers']['bare']['gain']['mean']:.4f}" in printed.out


def verb(run: Path, *arguments: str) -> SimpleNamespace:
    import contextlib
    import io

    from catalograph.cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["redteam", "--run-dir", str(run), *arguments])
    return SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue())
