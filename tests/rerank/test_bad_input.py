"""Lists that are odd: each way of showing items gives a defined result."""

import numpy as np
import pytest
import torch

from extract.errors import InvalidData
from recsys.candidates import Candidates
from rerank.inference import rank_lists, reorder
from rerank.inputs import ItemVectors
from rerank.layouts import LAYOUTS
from rerank.lists import RankingList, ranking_lists
from rerank.losses import LOSSES
from rerank.prompts import PromptEncoder
from rerank.scorer import ListwiseScorer
from rerank.settings import FineTuneConfig, InferenceConfig, RerankConfig, TokenConfig
from rerank.token import build_token_scorer
from rerank.train import fine_tune

IDS = np.array([f"i{n}" for n in range(8)])
TEXTS = {f"i{n}": f"mug {n}" for n in range(7)} | {"i6": ""}
VECTORS = ItemVectors(
    IDS, np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32), {"x": slice(0, 4)},
    np.zeros(8, np.float32), np.zeros((8, 0)), np.zeros((8, 0)),
)  # fmt: skip
WINDOWS = InferenceConfig(window=4, stride=2, permutations=2)


def entry_of(candidates, history=("i1",), relevance=None):
    count = len(candidates)
    truth = np.zeros(count, np.float32) if relevance is None else np.array(relevance, np.float32)
    inputs = np.linspace(-1, 1, 2 * count, dtype=np.float32).reshape(count, 2)
    return RankingList("u", tuple(history), tuple(candidates), np.arange(count), truth, inputs, VECTORS)


@pytest.fixture(params=["padded", "packed", "token"])
def any_scorer(request, scorer):
    if request.param == "token":
        config = RerankConfig(form="token", token=TokenConfig(width=16, feed_forward=16, layers=1, heads=2))
        return build_token_scorer(config, entry_of(["i1", "i2"]), seed=0)
    if request.param == "packed":
        scorer.pack()
    return scorer


ODD = {
    "empty history": entry_of(["i0", "i2", "i3"], history=()),
    "fewer candidates than a window": entry_of(["i0", "i2"]),
    "one candidate": entry_of(["i4"]),
    "doubles": entry_of(["i0", "i0", "i2", "i0", "i2", "i3"]),
    "without text or features": entry_of(["i6", "i7", "unknown", "i2"], history=("unknown", "i6")),
    "longer than a window": entry_of([f"i{n % 8}" for n in range(12)]),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("config", [InferenceConfig(), WINDOWS], ids=["whole", "windows"])
def test_an_odd_list_gets_one_finite_score_per_candidate(any_scorer, name, config):
    found = rank_lists(any_scorer, [ODD[name]], TEXTS, config)[0]
    assert found.shape == (len(ODD[name].candidates),)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("config", [InferenceConfig(), WINDOWS], ids=["whole", "windows"])
def test_odd_lists_together_come_back_as_permutations(any_scorer, config):
    width = 12
    rows = [[*e.candidates, *[""] * (width - len(e.candidates))] for e in ODD.values()]
    ranks = np.tile(np.arange(1, width + 1, dtype=np.int32), (len(rows), 1))
    scores = -ranks.astype(np.float32)
    users = np.array([f"u{n}" for n in range(len(rows))])
    arrived = Candidates(users, np.array(rows), {"s": scores}, {"s": ranks}, scores)
    histories = {user: entry.history for user, entry in zip(users.tolist(), ODD.values(), strict=True)}
    inputs = np.zeros((*arrived.items.shape, 2), np.float32)
    lists = ranking_lists(arrived, histories, None, seed=0, inputs=inputs, vectors=VECTORS)
    ordered = reorder(any_scorer, arrived, lists, TEXTS, config=config)
    assert (np.sort(ordered.items, axis=1) == np.sort(arrived.items, axis=1)).all()


def test_no_lists_give_no_scores(any_scorer):
    assert rank_lists(any_scorer, [], TEXTS, WINDOWS) == []


def test_a_list_longer_than_the_context_loses_words_and_keeps_its_candidates(scorer):
    encoder = PromptEncoder(
        scorer.encoder.tokenizer, LAYOUTS["compact"], max_candidates=12, item_tokens=16, context=90
    )
    short = ListwiseScorer(scorer.model, encoder)
    long = {item: "mug lamp rug " * 20 for item in TEXTS}
    entry = entry_of([f"i{n}" for n in range(7)], history=tuple(TEXTS))
    assert len(short.prompt(entry, {i: encoder.item(long[i]) for i in long})) <= 90
    assert np.isfinite(rank_lists(short, [entry], long)[0]).all()
    encoder.context = 50
    with pytest.raises(InvalidData, match="longer than the model's context"):
        rank_lists(short, [entry_of([f"i{n % 7}" for n in range(12)])], long)


def test_a_list_longer_than_its_identifiers_says_what_to_do_and_windows_read_it(scorer):
    entry = entry_of([f"i{n % 8}" for n in range(30)])
    with pytest.raises(InvalidData, match=r"rerank\.inference\.window"):
        rank_lists(scorer, [entry], TEXTS)
    assert len(rank_lists(scorer, [entry], TEXTS, InferenceConfig(window=12))[0]) == 30


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_a_list_of_equal_labels_has_a_finite_loss_and_finite_gradients(name, label):
    scores = torch.randn(2, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = LOSSES[name](scores, torch.full((2, 5), label), torch.ones(2, 5, dtype=torch.bool))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(scores.grad).all()


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_training_on_lists_of_equal_labels_ends_with_finite_weights(label):
    lists = [entry_of(["i0", "i2", "i3"], relevance=[label] * 3) for _ in range(3)]
    config = RerankConfig(form="token", token=TokenConfig(width=16, feed_forward=16, layers=1, heads=2))
    scorer = build_token_scorer(config, lists[0], seed=0)
    fine_tune(scorer, lists, lists, {}, FineTuneConfig(epochs=1, batch_size=2), seed=0)
    assert all(torch.isfinite(weight).all() for weight in scorer.model.parameters())
