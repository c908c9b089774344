from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract import CAPTION_PROMPTS, ConfigError, Item, Prompt, caption_prompt, render_text

TEMPLATE = "{title}. {text} {caption}"


@pytest.mark.parametrize(
    ("item", "caption", "expected"),
    [
        (Item("1", "Lamp", "Bright."), "a red lamp", "Lamp. Bright. a red lamp"),
        (Item("1", "Lamp"), None, "Lamp."),
        (Item("1", "", "Bright."), None, "Bright."),
        (Item("1", "  ", ""), "a red lamp", "a red lamp"),
        (Item("1"), None, ""),
        (Item("1", "two  \t blanks"), None, "two blanks."),
    ],
)
def test_rendered_texts(item, caption, expected):
    assert render_text(TEMPLATE, item, caption) == expected


def test_attributes_are_listed_by_name():
    assert (
        render_text("{attributes}", Item("1", attributes={"size": "L", "colour": "red"}))
        == "colour: red; size: L"
    )


def test_one_attribute_is_found_by_name_and_an_unknown_one_is_empty():
    item = Item("1", attributes={"colour": "red", "net weight": "2 kg"})
    assert render_text("{attributes.colour}, {attributes.none}; {attributes.net weight}", item) == "red, 2 kg"
    assert render_text("{attributes.none}!", item) == ""


@given(st.text(), st.text())
def test_a_value_never_opens_another_slot(title, secret):
    item = Item("1", title + "{text}", secret + "-secret")
    assert render_text("{title}", item).count("-secret") == title.count("-secret")


def test_an_unknown_slot_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown slot \{titel\}; did you mean \{title\}"):
        Prompt("p", 1, "say {titel}")


def test_a_prompt_keeps_its_words_when_its_slots_are_empty():
    assert caption_prompt("titled").render(Item("1")).startswith("This picture shows an item titled:")


def test_prompts_are_found_by_name_or_written_out():
    assert caption_prompt("product") == CAPTION_PROMPTS["product"]
    assert caption_prompt("Describe it.").template == "Describe it."
    assert caption_prompt("描述这张图片。").name == "custom"
    with pytest.raises(ConfigError, match="unknown caption prompt `produkt`"):
        caption_prompt("produkt")


def test_keys_make_the_answer_json_and_are_named_in_the_instruction():
    assert caption_prompt("Give {keys}.", keys=["genre", "mood"]).render(Item("1")) == 'Give "genre", "mood".'
    assert caption_prompt("Give it.", keys=["genre"]).form == "json"
    assert caption_prompt("attributes").keys[:2] == ("category", "colours")
    assert caption_prompt("attributes", keys=["genre"]).keys == ("genre",)
    with pytest.raises(ConfigError, match="`product` asks for no JSON"):
        caption_prompt("product", keys=["genre"])


@pytest.mark.parametrize("change", [{"item_text": "{title}"}, {"keys": ("genre",)}])
def test_everything_that_changes_an_instruction_changes_its_part(change):
    assert caption_prompt("attributes", **change).as_part() != caption_prompt("attributes").as_part()
