"""Ranking lists and their training: shuffles that can be undone, histories, resumable fine-tuning."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from extract.errors import InvalidData, TrainingDiverged
from recsys.candidates import Candidates
from recsys.interactions import Interactions
from rerank.inference import reorder, score_lists
from rerank.lists import ranking_lists, reshuffled, shown_histories
from rerank.scorer import ListwiseScorer, with_lora
from rerank.settings import FineTuneConfig, LoraConfig
from rerank.train import fine_tune, ndcg_of

ITEMS = np.array([f"i{n}" for n in range(6)])
WORDS = ["red mug", "blue mug", "red lamp", "blue lamp", "red rug", "blue rug"]
TEXTS = dict(zip(ITEMS.tolist(), WORDS, strict=True))


def interactions(pairs, *, users=("a", "b", "c"), times=None):
    rows = np.array(pairs, np.int32).reshape(-1, 2)
    stamps = None if times is None else np.array(times, np.int64)
    return Interactions(np.array(users), ITEMS, rows[:, 0], rows[:, 1], stamps)


def candidates(rows, users=("a", "b", "c")):
    items = np.array(rows)
    scores = -np.arange(items.shape[1], dtype=np.float32) + np.zeros(items.shape, np.float32)
    ranks = (1 + np.arange(items.shape[1], dtype=np.int32)) + np.zeros(items.shape, np.int32)
    return Candidates(np.array(users), items, {"s": scores}, {"s": ranks}, scores)


def test_the_latest_items_are_shown_oldest_first():
    known = interactions([(0, 5), (0, 1), (0, 3), (1, 2)], times=[30, 10, 20, 5])
    assert shown_histories(known, ["a", "b", "c"], length=2, seed=0) == {
        "a": ("i3", "i5"),
        "b": ("i2",),
        "c": (),
    }


def test_without_times_a_seeded_sample_is_shown_that_no_other_user_changes():
    known = interactions([(0, n) for n in range(6)] + [(1, 2)])
    first = shown_histories(known, ["a", "b"], length=3, seed=1)
    assert first["a"] == shown_histories(known, ["b", "a"], length=3, seed=1)["a"]
    assert len(set(first["a"])) == 3
    assert any(shown_histories(known, ["a"], length=3, seed=s)["a"] != first["a"] for s in range(2, 6))


def test_a_list_is_a_shuffle_that_its_places_undo():
    arrived = candidates([["i0", "i1", "i2", "i3"], ["i3", "i2", "", ""], ["i5", "i4", "i3", "i2"]])
    truth = interactions([(0, 2), (2, 0)])
    lists = ranking_lists(arrived, {"a": ("i5",), "b": (), "c": ()}, truth, seed=3)
    for row, entry in enumerate(lists):
        real = [str(item) for item in arrived.items[row] if item]
        restored = [""] * len(real)
        for item, place in zip(entry.candidates, entry.places, strict=True):
            restored[place] = item
        assert restored == real
    assert [entry.candidates[int(entry.relevance.argmax())] for entry in lists[:1]] == ["i2"]
    assert not lists[2].relevance.any()
    assert any(
        entry.candidates != tuple(real) for entry, real in zip(lists, arrived.items.tolist(), strict=True)
    )


def test_reshuffling_keeps_items_places_and_relevance_together():
    entry = ranking_lists(
        candidates([["i0", "i1", "i2"]], ("a",)), {"a": ()}, interactions([(0, 1)]), seed=0
    )[0]
    again = reshuffled(entry, seed=[5])
    as_set = {
        (c, int(p), float(r)) for c, p, r in zip(entry.candidates, entry.places, entry.relevance, strict=True)
    }
    assert {
        (c, int(p), float(r)) for c, p, r in zip(again.candidates, again.places, again.relevance, strict=True)
    } == as_set


def test_scores_come_back_in_the_order_the_candidates_arrived(scorer):
    arrived = candidates([["i0", "i1", "i2", "i3"]], ("a",))
    shuffles = [ranking_lists(arrived, {"a": ("i4",)}, None, seed=seed)[0] for seed in range(4)]
    for entry in shuffles:
        shown = scorer.score([
            scorer.encoder.encode(
                [scorer.encoder.item(TEXTS["i4"])], [scorer.encoder.item(TEXTS[i]) for i in entry.candidates]
            )
        ])[0]
        expected = {item: score for item, score in zip(entry.candidates, shown, strict=True)}
        found = score_lists(scorer, [entry], TEXTS)[0]
        np.testing.assert_allclose(found, [expected[i] for i in ("i0", "i1", "i2", "i3")], rtol=1e-5)


@given(seed=st.integers(0, 10_000), bad=st.sampled_from([np.nan, np.inf, -np.inf]))
@settings(max_examples=30, deadline=None)
def test_whatever_the_model_returns_the_result_is_a_permutation(seed, bad):
    rng = np.random.default_rng(seed)
    arrived = candidates([["i0", "i1", "i2", "i3"], ["i3", "i2", "", ""]], ("a", "b"))
    lists = ranking_lists(arrived, {"a": (), "b": ()}, None, seed=seed)

    class Anything:
        def words(self, text):
            return [1]

        def prompt(self, entry, words):
            return entry.candidates

        def score(self, prompts, token_budget):
            return [np.where(rng.random(len(p)) < 0.5, bad, 1.0).astype(np.float32) for p in prompts]

    ordered = reorder(Anything(), arrived, lists, TEXTS)
    assert sorted(ordered.items[0].tolist()) == ["i0", "i1", "i2", "i3"]
    assert sorted(ordered.items[1, :2].tolist()) == ["i2", "i3"]
    assert ordered.items[1, 2:].tolist() == ["", ""]


def test_ties_keep_the_incoming_order(scorer):
    arrived = candidates([["i3", "i1", "i2"]], ("a",))
    scorer.score = lambda encoded, token_budget: [np.zeros(e.candidates, np.float32) for e in encoded]
    lists = ranking_lists(arrived, {"a": ()}, None, seed=1)
    assert reorder(scorer, arrived, lists, TEXTS).items[0].tolist() == ["i3", "i1", "i2"]


def test_ndcg_of_a_list_by_hand():
    assert ndcg_of(np.array([3, 2, 1.0]), np.array([0, 1, 0.0]), 10) == pytest.approx(1 / np.log2(3))
    assert ndcg_of(np.array([3, 2, 1.0]), np.array([1, 0, 1.0]), 10) == pytest.approx(
        (1 + 0.5) / (1 + 1 / np.log2(3))
    )
    assert ndcg_of(np.array([3, 2, 1.0]), np.array([0, 0, 1.0]), 2) == 0
    assert ndcg_of(np.array([1.0]), np.array([0.0]), 10) == 0


def colour_lists(count, seed):
    """Lists where the item in the colour of the history is the truth: something only the texts tell."""
    rng = np.random.default_rng(seed)
    users = tuple(f"u{n}" for n in range(count))
    rows, histories, pairs = [], {}, []
    for row, user in enumerate(users):
        colour = rng.integers(2)
        shown = [2 * rng.integers(3), 2 * rng.integers(3) + 1]
        rows.append([ITEMS[i] for i in rng.permutation(shown)])
        histories[user] = (str(ITEMS[2 * rng.integers(3) + colour]),)
        pairs.append((row, shown[colour]))
    known = interactions(pairs, users=users)
    return ranking_lists(candidates(rows, users), histories, known, seed=seed)


SETTINGS = FineTuneConfig(
    epochs=8,
    batch_size=16,
    learning_rate=2e-2,
    rank_weight=1.0,
    answer_length=1,
    patience=50,
    lora=LoraConfig(rank=8),
)


def adapted_copy(scorer, config):
    # peft changes the model in place; a second run must not start from the first one's layers.
    fresh = ListwiseScorer(copy.deepcopy(scorer.model), scorer.encoder)
    return with_lora(fresh, config.lora, seed=0)


def run(scorer, config, checkpoints=None, **options):
    adapted = adapted_copy(scorer, config)
    history = fine_tune(
        adapted,
        colour_lists(96, 1),
        colour_lists(24, 2),
        TEXTS,
        config,
        seed=5,
        checkpoints=checkpoints,
        **options,
    )
    weights = {n: p.detach().clone() for n, p in adapted.model.named_parameters() if p.requires_grad}
    return history, weights


def test_it_learns_what_only_the_texts_tell(scorer):
    config = SETTINGS.model_copy(update={"epochs": 20, "loss": "listnet", "learning_rate": 1e-2})
    history, _ = run(scorer, config)
    assert history.best > 0.95
    assert history.evaluations[0]["ndcg@10"] < 0.9


def test_a_killed_and_resumed_fit_ends_with_the_same_weights(scorer, tmp_path):
    config = SETTINGS.model_copy(update={"epochs": 2, "lora": LoraConfig(rank=4, dropout=0.1)})
    undisturbed, expected = run(scorer, config)

    class Killed(Exception):
        pass

    def stop(step, total, losses):
        if step == 7:
            raise Killed

    with pytest.raises(Killed):
        run(scorer, config, tmp_path / "c", progress=stop)
    resumed, weights = run(scorer, config, tmp_path / "c")
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert resumed.evaluations == undisturbed.evaluations
    assert resumed.steps == undisturbed.steps


def test_a_loss_that_is_not_finite_stops_before_the_step(scorer, monkeypatch):
    monkeypatch.setitem(
        __import__("rerank.losses", fromlist=["LOSSES"]).LOSSES,
        "ranknet",
        lambda s, r, m: s.sum() * float("nan"),
    )
    adapted = with_lora(scorer, SETTINGS.lora, seed=0)
    before = {n: p.detach().clone() for n, p in adapted.model.named_parameters()}
    with pytest.raises(TrainingDiverged, match="step 0"):
        fine_tune(adapted, colour_lists(16, 1), [], TEXTS, SETTINGS, seed=0)
    assert all(torch.equal(p, before[n]) for n, p in adapted.model.named_parameters())


def test_no_list_with_a_truth_is_an_error(scorer):
    with pytest.raises(InvalidData, match="no training list"):
        fine_tune(scorer, [], [], TEXTS, SETTINGS, seed=0)


def test_the_gradient_does_not_depend_on_how_a_step_is_cut_into_passes(scorer):
    lists = colour_lists(12, 1)
    results = []
    for budget in (10_000, 60):
        config = SETTINGS.model_copy(update={"epochs": 1, "batch_size": 12, "token_budget": budget})
        adapted = adapted_copy(scorer, config)
        results.append(fine_tune(adapted, lists, [], TEXTS, config, seed=0).steps[0])
    assert results[0] == pytest.approx(results[1], abs=1e-5)
