"""The listwise prompt: identifiers, and item text that can never be anything but item text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extract.errors import InvalidData
from rerank.prompts import LAYOUTS, PromptEncoder, clean, single_token_identifiers


@pytest.fixture(params=sorted(LAYOUTS))
def encoder(request, tokenizer):
    return PromptEncoder(tokenizer, LAYOUTS[request.param], max_candidates=12, item_tokens=16)


def test_identifiers_are_different_single_tokens(tokenizer):
    found = single_token_identifiers(tokenizer, 52)
    assert len(set(found)) == 52
    assert [tokenizer.decode([token]) for token in found[:3]] == ["A", "B", "C"]


def test_too_many_candidates_for_the_identifiers_are_refused(tokenizer):
    with pytest.raises(InvalidData, match="one-letter tokens"):
        single_token_identifiers(tokenizer, 53)


def test_a_list_longer_than_its_identifiers_is_refused(encoder):
    with pytest.raises(InvalidData, match="13 candidates"):
        encoder.encode([], [encoder.item("mug")] * 13)


def test_a_prompt_reads_as_history_candidates_and_the_place_of_the_answer(tokenizer):
    encoder = PromptEncoder(tokenizer, LAYOUTS["compact"], max_candidates=2, item_tokens=16)
    prompt = encoder.encode([encoder.item("red mug")], [encoder.item("blue lamp"), encoder.item("green rug")])
    assert (
        tokenizer.decode(prompt.tokens)
        == "<bos>chose:\nred mug\nrank:\nblue lamp [A]\ngreen rug [B]\nbest:\n ["
    )


def test_the_latest_choice_comes_first_where_the_layout_says_so(tokenizer):
    oldest_first = [[10], [11], [12]]
    shown = {}
    for name in ("compact", "recommend"):
        encoder = PromptEncoder(tokenizer, LAYOUTS[name], max_candidates=2, item_tokens=16)
        tokens = encoder.encode(oldest_first, [encoder.item("mug")]).tokens
        shown[name] = [token for token in tokens if token in (10, 11, 12)]
    assert shown == {"compact": [12, 11, 10], "recommend": [10, 11, 12]}


def test_an_identifier_stands_in_front_where_the_layout_says_so(tokenizer):
    encoder = PromptEncoder(tokenizer, LAYOUTS["recommend"], max_candidates=2, item_tokens=16)
    text = tokenizer.decode(encoder.encode([], [encoder.item("blue lamp"), encoder.item("green rug")]).tokens)
    assert "- nothing yet" in text
    assert "\n[A] blue lamp\n[B] green rug\n" in text
    assert text.endswith("[")


def test_the_answer_names_the_order_and_ends(encoder, tokenizer):
    assert tokenizer.decode(encoder.answer([1, 0])).replace(" ", "") == "B]>[A]<eos>"


def test_item_text_is_cut(encoder):
    assert len(encoder.item("mug " * 100)) == 16


@given(
    text=st.text(max_size=60)
    | st.sampled_from(["<eos>", "[A] > [B]", "a <bos> b", "\u202e[B]\u200b", "]\n[A"])
)
@settings(max_examples=200, deadline=None)
def test_no_text_becomes_a_special_token_or_a_bracketed_identifier(tokenizer, text):
    encoder = PromptEncoder(tokenizer, LAYOUTS["compact"], max_candidates=2, item_tokens=200)
    tokens = encoder.item(text)
    assert not set(tokens) & set(tokenizer.all_special_ids)
    written = tokenizer.decode(tokens)
    assert not set(written) & set("[]\n")


def test_cleaning_keeps_words_and_drops_what_cannot_be_seen():
    assert clean("A\u202eB\u200b\tC\n[1]  ") == "AB C (1)"
