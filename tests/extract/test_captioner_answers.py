from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from extract import (
    CAPTION_PROMPTS,
    FakeEngine,
    Item,
    caption_items,
    caption_prompt,
    caption_store,
    captions_of,
    quarantine_of,
)
from extract.answers import as_text, ask, read_answer
from extract.faults import Failure

SENTENCES, TAGS = CAPTION_PROMPTS["product"], CAPTION_PROMPTS["tags"]
JSON = caption_prompt("attributes", keys=("colours", "shape"))
GOOD = '{"colours": ["red", "blue"], "shape": "round"}'


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (" A red\n\n lamp. ", "A red lamp."),
        ('"A red lamp."', "A red lamp."),
        ('"Red" and "blue"', '"Red" and "blue"'),
        ("Caption: a red lamp", "a red lamp"),
        ("**A lamp** in red", "A lamp in red"),
        ("<think>Is it red? It is.</think>\nA red lamp.", "A red lamp."),
        ("a\x1b[31m\u202e red\u200b lamp", "a[31m red lamp"),
        ("```text\nA red lamp.\n```", "A red lamp."),
    ],
)
def test_a_caption_is_one_clean_line(written, kept):
    assert read_answer(SENTENCES, written) == kept


@pytest.mark.parametrize("written", ["", " \n", "<think>hm</think> ", "\u200b\u202e", '""'])
def test_an_answer_without_words_is_an_empty_caption(written):
    assert read_answer(SENTENCES, written).reason == "empty-caption"


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("Retro, warm ,  mid-century, retro.", "retro, warm, mid-century"),
        ("- bold\n- minimal\n", "bold, minimal"),
        ("1. bold\n2) minimal", "bold, minimal"),
        ("Tags: bold; minimal", "bold, minimal"),
        (", ".join(f"tag{n}" for n in range(30)), ", ".join(f"tag{n}" for n in range(12))),
    ],
)
def test_tags_are_read_however_they_are_listed(written, kept):
    assert read_answer(TAGS, written) == kept


def test_a_sentence_is_no_tag():
    assert read_answer(TAGS, "This is a lamp that stands on a table near a window").reason == "no-tags"


@pytest.mark.parametrize(
    "written",
    [
        GOOD,
        f"Here it is:\n```json\n{GOOD}\n```\nAnything else?",
        '{"shape": " round ", "colours": ["red", "", "blue"], "price": {"from": 3}}',
        "{not json} " + GOOD,
    ],
)
def test_json_is_found_and_kept_in_the_order_of_the_keys(written):
    assert read_answer(JSON, written) == GOOD


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("a red lamp", "no JSON object"),
        (GOOD[:-1], "no JSON object"),
        ('{"colours": NaN, "shape": "round"}', "no JSON object"),
        ('["red"]', "no JSON object"),
        ('{"colours": "red"}', "keys are missing: shape"),
        ('{"colours": {"a": "red"}, "shape": "round"}', "the value of colours"),
        ('{"colours": true, "shape": "round"}', "the value of colours"),
        ('{"colours": "red", "shape": "%s"}' % ("x" * 81), "the value of shape"),
        ('{"colours": [], "shape": null}', "every value is empty"),
        ('{"a":' * 50_000, "no JSON object"),
    ],
)
def test_what_is_no_object_with_the_keys_is_refused_with_the_reason(written, problem):
    found = read_answer(JSON, written)
    assert isinstance(found, Failure) and found.reason == "invalid-answer"
    assert problem in found.detail


@given(st.text())
def test_any_answer_gives_a_line_or_a_reason(written):
    for prompt in (SENTENCES, TAGS, JSON):
        found = read_answer(prompt, written)
        assert isinstance(found, Failure) or (found.strip() and found.isprintable())


VALUES = st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text() | st.integers())


@given(VALUES, st.dictionaries(st.text(), VALUES))
def test_kept_json_holds_the_keys_in_order_with_texts_and_lists_of_texts(colours, more):
    found = read_answer(JSON, json.dumps(more | {"colours": colours, "shape": "round"}))
    if isinstance(found, str):
        kept = json.loads(found)
        assert list(kept) == ["colours", "shape"] and kept["shape"] == "round"
        parts = kept["colours"] if isinstance(kept["colours"], list) else [kept["colours"]]
        assert all(isinstance(part, str) and part == part.strip() and len(part) <= 80 for part in parts)
    else:
        assert found.detail.startswith("the value of colours")


def test_json_reads_as_text_without_its_empty_values():
    assert (
        as_text(JSON, '{"colours": ["red", "blue"], "shape": "round"}') == "colours: red, blue; shape: round"
    )
    assert as_text(JSON, '{"colours": [], "shape": "round"}') == "shape: round"
    assert as_text(SENTENCES, '{"a": "b"}') == '{"a": "b"}'


class Scripted(FakeEngine):
    """Answers by the picture's width, one list of answers per width; the last one stays."""

    def __init__(self, answers):
        super().__init__()
        self.answers = {width: list(texts) for width, texts in answers.items()}
        self.calls = []

    def caption(self, images, prompts):
        self.calls.append(list(zip([image.width for image in images], prompts, strict=True)))
        return [
            self.answers[image.width].pop(0)
            if len(self.answers[image.width]) > 1
            else self.answers[image.width][0]
            for image in images
        ]


def test_only_the_invalid_ones_are_asked_again_once_and_told_why():
    engine = Scripted({1: [GOOD], 2: ["no", GOOD], 3: ["no", '{"shape": "x"}', GOOD]})
    batch = [(Image.new("RGB", (width, 1)), "look") for width in (1, 2, 3)]
    answers = ask(engine, JSON, batch)
    assert answers[:2] == [GOOD, GOOD]
    assert answers[2] == Failure("invalid-answer", "keys are missing: colours")
    first, second = engine.calls
    assert [width for width, _ in first] == [1, 2, 3]
    assert [width for width, _ in second] == [2, 3]
    assert all(text.startswith("look") and "no JSON object was found" in text for _, text in second)


def test_sentences_are_never_asked_again():
    engine = Scripted({1: [""]})
    assert isinstance(ask(engine, SENTENCES, [(Image.new("RGB", (1, 1)), "look")])[0], Failure)
    assert len(engine.calls) == 1


def test_a_second_invalid_answer_is_quarantined_and_its_neighbours_are_kept(shop, tmp_path, picture_bytes):
    catalog = shop(4)
    (catalog.pictures.root / "2.png").write_bytes(picture_bytes(2, "PNG", (9, 9)))
    engine = Scripted({24: [GOOD], 9: ["no"]})
    store = caption_store(tmp_path / "s", engine, prompt=JSON, batch_size=8, buckets=1)
    result = caption_items(catalog, engine, store, prompt=JSON)
    assert (result.n_ok, result.n_quarantined) == (3, 1)
    [bad] = quarantine_of(store)
    assert (bad.item_id, bad.reason) == ("item-2", "invalid-answer")
    assert set(captions_of(store).values()) == {GOOD}


def test_a_wrong_number_of_answers_is_no_silent_shift():
    class Short(FakeEngine):
        def caption(self, images, prompts):
            return ["a lamp"]

    with pytest.raises(ValueError, match="gave 1 results for 2 items"):
        ask(Short(), SENTENCES, [(Image.new("RGB", (1, 1)), "look")] * 2)


def test_what_the_catalogue_says_stands_behind_the_instruction_as_data():
    prompt = caption_prompt("product", item_text="{title}. {text}")
    plain = CAPTION_PROMPTS["product"].render(Item("1"))
    told = prompt.render(Item("1", "Lamp\x00\u202e", "line one\nline two " + "x" * 2000))
    assert told.startswith(plain + "\n\nThe catalogue says")
    assert told.partition("instruction: ")[2].startswith("Lamp. line one line two xxx")
    assert len(told.partition("instruction: ")[2]) == 1000
    assert prompt.render(Item("1")) == plain
