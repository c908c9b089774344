"""Versioned prompts and text templates; slots are filled in one pass, so a title cannot open another slot."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from extract.errors import ConfigError
from extract.items import Item

_SLOT = re.compile(r"\{(attributes\.[^{}]+|\w+)\}")
_SLOT_AND_MARKS = re.compile(_SLOT.pattern + r"([.,;:]*)")
_BLANKS = re.compile(r"[ \t]+")
SLOTS = ("item_id", "title", "text", "attributes", "caption")


def check_template(template: str, slots: tuple[str, ...] = SLOTS) -> None:
    """Raise ConfigError if the template names a slot that does not exist."""
    for name in _SLOT.findall(template):
        if name not in slots and not (name.startswith("attributes.") and "attributes" in slots):
            near = difflib.get_close_matches(name, slots, n=1)
            hint = f"; did you mean {{{near[0]}}}?" if near else ""
            raise ConfigError(
                "C101", f"unknown slot {{{name}}}{hint}", why=f"known slots: {', '.join(slots)}"
            )


@dataclass(frozen=True, slots=True)
class Prompt:
    """An instruction with a name and a version; both are part of every cache key.

    ``template`` may hold the slots {title}, {text}, {attributes}, {attributes.NAME}, {item_id}.
    """

    name: str
    version: int
    template: str

    def __post_init__(self) -> None:
        check_template(self.template, SLOTS[:-1])

    def render(self, item: Item) -> str:
        """The instruction for one item."""
        return _fill(self.template, _values(item, ""))

    def as_part(self) -> dict[str, str | int]:
        """Name, version and template, for a fingerprint."""
        return {"name": self.name, "version": self.version, "template": self.template}


CAPTION_PROMPTS: dict[str, Prompt] = {
    prompt.name: prompt
    for prompt in (
        Prompt(
            "product",
            1,
            "Describe the product in this picture for a shop's catalogue: what it is, its colours, pattern,"
            " shape, material and style. One or two plain sentences. Say only what can be seen.",
        ),
        Prompt(
            "media",
            1,
            "Describe this cover or poster: what is shown, its mood, its genre and its visual style."
            " One or two plain sentences. Say only what can be seen.",
        ),
        Prompt("plain", 1, "Describe this picture in one sentence."),
        Prompt(
            "titled",
            1,
            "This picture shows an item titled: {title}. Describe what the picture adds to the title:"
            " colours, pattern, shape, material and style. One or two plain sentences. Say only what can be"
            " seen.",
        ),
    )
}


def caption_prompt(name_or_template: str) -> Prompt:
    """The built-in prompt of that name; any text of more than one word is a template (version 0).

    Raises:
        ConfigError: neither a known name nor a template.
    """
    if name_or_template in CAPTION_PROMPTS:
        return CAPTION_PROMPTS[name_or_template]
    if not re.fullmatch(r"[\w-]*", name_or_template.strip()):
        return Prompt("custom", 0, name_or_template)
    raise ConfigError(
        "C102",
        f"unknown caption prompt `{name_or_template}`",
        why=f"known: {', '.join(CAPTION_PROMPTS)}",
        next_step="name one of these, or write the instruction itself",
    )


def render_text(template: str, item: Item, caption: str | None = None) -> str:
    """The text of an item under a template such as ``{title}. {text} {caption}``.

    {attributes} is all of them, {attributes.NAME} one. Runs of blanks shrink to one, and the punctuation
    right after an empty slot goes with it. A template whose slots are all empty gives "": there is nothing to
    say about the item.
    """
    values = _values(item, caption or "")
    used = _SLOT.findall(template)
    if used and not any(values.get(name) for name in used):
        return ""
    return _fill(template, values)


def _values(item: Item, caption: str) -> dict[str, str]:
    values = {
        "item_id": item.item_id,
        "title": item.title,
        "text": item.text,
        "attributes": "; ".join(f"{name}: {value}" for name, value in sorted(item.attributes.items())),
        "caption": caption,
    }
    values |= {f"attributes.{name}": value for name, value in item.attributes.items()}
    return {name: value.strip() for name, value in values.items()}


def _fill(template: str, values: Mapping[str, str]) -> str:
    def fill(match: re.Match[str]) -> str:
        value = values.get(match[1], "")
        return value + match[2] if value else ""

    return _BLANKS.sub(" ", _SLOT_AND_MARKS.sub(fill, template)).strip()
