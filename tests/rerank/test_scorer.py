"""The scorer: one forward pass, last hidden state times identifier rows, whatever the batch."""

import numpy as np
import pytest
import torch

from extract.embed import token_batches
from rerank.scorer import with_lora
from rerank.settings import LoraConfig


@pytest.fixture
def lists(scorer):
    item = scorer.encoder.item
    words = ["red mug", "blue lamp", "green rug", "red lamp", "blue rug and more words than the others"]
    return [
        scorer.encoder.encode([item(w) for w in words[:history]], [item(w) for w in words[:count]])
        for history, count in [(0, 2), (3, 5), (1, 1), (5, 4), (2, 3)]
    ]


def test_a_score_is_the_logit_a_plain_forward_gives_the_identifier(scorer, lists):
    for prompt, scores in zip(lists, scorer.score(lists), strict=True):
        logits = scorer.model(torch.tensor([prompt.tokens])).logits[0, -1]
        expected = logits[scorer.encoder.identifiers[: prompt.candidates]].detach().numpy()
        np.testing.assert_allclose(scores, expected, atol=1e-5)


@pytest.mark.parametrize("budget", [1, 90, 200, 10_000])
def test_scores_do_not_depend_on_the_batch(scorer, lists, budget):
    alone = [scorer.score([prompt])[0] for prompt in lists]
    for scores, expected in zip(scorer.score(lists, token_budget=budget), alone, strict=True):
        np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_every_list_gets_one_score_per_candidate(scorer, lists):
    assert [len(scores) for scores in scorer.score(lists)] == [2, 5, 1, 4, 3]


def test_token_batches_cover_every_list_within_the_budget():
    lengths = [5, 50, 7, 7, 120, 30]
    batches = list(token_batches(lengths, 60))
    assert sorted(i for batch in batches for i in batch) == list(range(6))
    assert all(len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= 60 for batch in batches)


def test_a_fresh_adapter_changes_no_score_and_is_all_that_trains(scorer, lists):
    before = scorer.score(lists)
    adapted = with_lora(scorer, LoraConfig(rank=4), seed=1)
    for scores, expected in zip(adapted.score(lists), before, strict=True):
        np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert all("lora_" in name for name, p in adapted.model.named_parameters() if p.requires_grad)
