"""Words and vectors at once: silent at first, in front of the right words, learning what no word says."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from rerank.hybrid import HybridReranker, HybridScorer
from rerank.inference import score_lists
from rerank.inputs import ItemVectors
from rerank.layouts import LAYOUTS
from rerank.lists import RankingList
from rerank.prompts import PromptEncoder
from rerank.scorer import ListwiseScorer
from rerank.settings import FineTuneConfig
from rerank.token import load_trained, save_trained
from rerank.train import fine_tune

IDS = np.array([f"i{n}" for n in range(6)])
TEXTS = {item: text for item, text in zip(IDS, ["red mug", "blue lamp", "", "green rug", "red rug", "lamp"])}
VECTORS = ItemVectors(
    IDS, np.repeat(np.eye(2, dtype=np.float32), 3, axis=0), {"x": slice(0, 2)}, np.zeros(6, np.float32),
    np.zeros((6, 0)), np.zeros((6, 0)),
)  # fmt: skip


def entry_of(history, candidates, truth=None):
    count = len(candidates)
    relevance = np.array([item == truth for item in candidates], np.float32)
    inputs = np.linspace(-1, 1, 3 * count, dtype=np.float32).reshape(count, 3)
    return RankingList(
        "u", tuple(history), tuple(candidates), np.arange(count), relevance, inputs, VECTORS
    )  # fmt: skip


LISTS = [
    entry_of(["i0", "i5"], ["i1", "i2", "i3"]),
    entry_of([], ["i4", "unknown"]),
    entry_of(["i2"], ["i0"]),
]


def hybrid_of(scorer, layout="compact"):
    torch.manual_seed(0)
    encoder = PromptEncoder(scorer.encoder.tokenizer, LAYOUTS[layout], max_candidates=12, item_tokens=16)
    model = HybridReranker(copy.deepcopy(scorer.model), VECTORS.width, 3, 0.0).eval()
    return HybridScorer(model, encoder), ListwiseScorer(model.decoder, encoder)


@pytest.mark.parametrize("layout", ["compact", "recommend"])
def test_untrained_it_ranks_as_the_words_do(scorer, layout):
    hybrid, words = hybrid_of(scorer, layout)
    for own, text in zip(score_lists(hybrid, LISTS, TEXTS), score_lists(words, LISTS, TEXTS), strict=True):
        np.testing.assert_allclose(own, text, atol=1e-6)


@pytest.mark.parametrize("layout", ["compact", "recommend"])
def test_a_vector_stands_on_the_token_in_front_of_its_items_words(scorer, layout):
    hybrid, words = hybrid_of(scorer, layout)
    prompt = hybrid.prompt(LISTS[0], {item: words.words(text) for item, text in TEXTS.items()})
    # As the layout shows them: the newest first in `compact`.
    shown = ["i5", "i0"] if layout == "compact" else ["i0", "i5"]
    tokens, starts = prompt.words.tokens, prompt.words.starts
    for item, start in zip([*shown, "i1", "i2", "i3"], starts, strict=True):
        own = words.words(TEXTS[item])
        assert tokens[start : start + len(own)] == own
    assert len(set(starts)) == 5
    vectors, inputs = hybrid._known(prompt)
    assert vectors.tolist() == [VECTORS.matrix[int(i[1])].tolist() for i in [*shown, "i1", "i2", "i3"]]
    assert inputs.tolist() == LISTS[0].inputs.tolist()


def test_a_score_depends_neither_on_the_batch_nor_on_vectors_of_items_that_are_not_shown(scorer):
    hybrid, _ = hybrid_of(scorer)
    for layer in (hybrid.model.item, hybrid.model.known[-1], hybrid.model.fusion[-1]):
        torch.nn.init.normal_(layer.weight)
    together = score_lists(hybrid, LISTS, TEXTS, token_budget=10_000)
    for entry, scores in zip(LISTS, together, strict=True):
        np.testing.assert_allclose(score_lists(hybrid, [entry], TEXTS, token_budget=1)[0], scores, atol=1e-5)
    other = replace(LISTS[2], history=("i4",))
    assert not np.allclose(score_lists(hybrid, [other], TEXTS)[0], together[2])


def test_a_history_cut_to_the_context_keeps_its_own_vectors(scorer):
    hybrid, words = hybrid_of(scorer)
    whole = hybrid.prompt(LISTS[0], {item: words.words(text) for item, text in TEXTS.items()})
    hybrid._text.encoder.context = len(whole) - 1
    cut = hybrid.prompt(LISTS[0], {item: words.words(text) for item, text in TEXTS.items()})
    # The oldest choice, i0, is gone.
    assert len(cut.words.starts) == 4
    assert hybrid._known(cut)[0][0].tolist() == VECTORS.matrix[5].tolist()


def test_it_learns_what_no_word_says_and_what_was_learnt_comes_back(scorer, tmp_path):
    # The truth is the candidate of i0, i1 and i2, which only its vector tells; all texts are empty.
    rng = np.random.default_rng(0)

    def lists(count):
        pairs = [[f"i{rng.integers(3)}", f"i{3 + rng.integers(3)}"] for _ in range(count)]
        made = [entry_of([], rng.permutation(pair), pair[0]) for pair in pairs]
        return [replace(entry, inputs=np.zeros((2, 3), np.float32)) for entry in made]

    config = FineTuneConfig(
        epochs=8, batch_size=16, learning_rate=3e-3, rank_weight=30.0, loss="listnet", answer_length=1,
        patience=50,
    )  # fmt: skip
    learner, held = hybrid_of(scorer)[0], lists(24)
    history = fine_tune(learner, lists(192), held, {}, config, seed=0)
    assert history.evaluations[0]["ndcg@10"] < 0.9
    assert history.best > 0.95
    save_trained(learner, tmp_path / "w.safetensors")
    again = hybrid_of(scorer)[0]
    load_trained(again, tmp_path / "w.safetensors")
    for a, b in zip(score_lists(learner, held, {}), score_lists(again, held, {}), strict=True):
        np.testing.assert_array_equal(a, b)
