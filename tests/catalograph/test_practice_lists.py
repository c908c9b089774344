"""The lists that the demo's language model learned from: what they show, and what they take for the truth."""

from __future__ import annotations

import numpy as np
import pytest

from catalograph.demo.practice_lists import ANSWERS, Example, Lesson, lists_of
from catalograph.demo.shop import Shop, open_shop
from catalograph.demo.train_language_model import _marks, _said_again, build_tokenizer
from rerank.prompts import LAYOUTS, PromptEncoder

LESSON = Lesson(candidates=6, history=(1, 4), batch=2)
SEED_WITH_CAPTIONS = 1


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    return PromptEncoder(build_tokenizer(), LAYOUTS["compact"], max_candidates=30, item_tokens=32)


@pytest.fixture(scope="module")
def shop() -> Shop:
    return open_shop(300, 12, dial=1.0, seed=4)


@pytest.fixture(scope="module")
def examples(shop: Shop, encoder: PromptEncoder) -> list[Example]:
    return list(lists_of(shop, encoder, LESSON, np.random.default_rng(SEED_WITH_CAPTIONS)))


def test_every_person_gives_one_list(examples: list[Example]) -> None:
    assert len(examples) == 12
    assert {len(example.utility) for example in examples} == {6}
    assert all(1 <= len(example.history) <= 4 for example in examples)


def test_the_history_is_what_came_before_the_last_choice_newest_first(
    shop: Shop, encoder: PromptEncoder, examples: list[Example]
) -> None:
    of_first = shop.chosen[shop.people == 0]
    said = [encoder.tokenizer.decode(item) for item in examples[0].history]
    expected = [f"{shop.title(row)}, {shop.trait_names(row).caption}" for row in of_first[-2::-1]]
    assert said == expected[: len(said)]


def test_candidates_are_worth_what_the_shop_says_and_were_not_chosen_before(
    shop: Shop, encoder: PromptEncoder, examples: list[Example]
) -> None:
    described = [f"{shop.title(row)}, {shop.trait_names(row).caption}" for row in range(300)]
    for person, example in enumerate(examples):
        prompt = encoder.tokenizer.decode(example.prompt.tokens)
        lines = prompt.split("rank:\n")[1].split("\nbest:")[0].split("\n")
        shown = [line.rsplit(" [", 1)[0] for line in lines]
        for text, utility in zip(shown, example.utility, strict=True):
            rows = [row for row in range(300) if described[row] == text]
            assert utility in [shop.utility_of_last[person, row] for row in rows]
        before = {described[row] for row in shop.chosen[shop.people == person][:-1]}
        assert sum(text in before for text in shown) == 0


def test_the_answer_names_the_best_candidates_in_order(examples: list[Example]) -> None:
    for example in examples:
        best = np.argsort(-example.utility)[:ANSWERS]
        named = [token for token in example.answer if token in example.identifiers]
        assert named == [example.identifiers[place] for place in best]


def test_marks_are_the_places_of_the_identifiers(examples: list[Example]) -> None:
    for example in examples:
        marks = _marks(example)
        assert [example.prompt.tokens[place] for place in marks] == example.identifiers
        assert marks == sorted(marks)


def test_a_word_of_the_latest_choice_is_said_at_every_horizon(
    encoder: PromptEncoder, examples: list[Example]
) -> None:
    width = max(len(example.prompt.tokens) for example in examples)
    inside, again = _said_again(examples, encoder, width)
    for row, example in enumerate(examples):
        for place in np.flatnonzero(inside[row]):
            token = example.prompt.tokens[place]
            held = [token in item for item in example.history]
            assert again[row, place].tolist() == pytest.approx([
                float(held[0]),
                np.mean(held[:3]),
                np.mean(held[:10]),
            ])
