"""Limits on what an item's fields may tell the reranker, taken from what the catalogue's other items hold.

Whoever writes a title writes to the model. What a text is meant for cannot be told from what it says, so
nothing here looks for attacks: a field is cut where nearly all items' fields end, and a word that next to no
other item has in the same field is left out where that is asked for.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from extract.items import Item
from extract.prompts import plain, render_text
from rerank.settings import GuardConfig

_MARKS = ".,;:!?()[]{}<>\"'`*_#|/\\"


@dataclass(frozen=True)
class FieldGuard:
    """The limits of one field.

    Attributes:
        longest: characters; None: not cut.
        words: those that are shown, in small letters and without marks; None: all.
    """

    longest: int | None = None
    words: frozenset[str] | None = None

    def limited(self, text: str) -> str:
        """The text within its limits; cut behind a word, unless the first alone is too long."""
        shown = plain(text)
        if self.words is not None:
            shown = " ".join(word for word in shown.split() if _bare(word) in self.words)
        if self.longest is None or len(shown) <= self.longest:
            return shown
        cut = shown[: self.longest + 1].rpartition(" ")[0]
        return cut or shown[: self.longest]


def fit_field(config: GuardConfig, texts: Iterable[str]) -> FieldGuard:
    """The limits of a field that holds these texts over the catalogue; empty ones do not count."""
    cleaned = [text for text in map(plain, texts) if text]
    longest = words = None
    if config.longest is not None and cleaned:
        lengths = sorted(map(len, cleaned))
        longest = lengths[math.ceil(config.longest * len(lengths)) - 1]
    if config.least_items > 1:
        counts = Counter(word for text in cleaned for word in {_bare(word) for word in text.split()})
        words = frozenset(word for word, count in counts.items() if count >= config.least_items)
    return FieldGuard(longest, words)


class Guard:
    """Renders items within the limits of each of their fields.

    Args:
        config: which limits.
        template: of an item's text, as in `extract.prompts.render_text`.
        items: the catalogue that the limits are taken from.
        captions: by item id.
    """

    def __init__(
        self, config: GuardConfig, template: str, items: Sequence[Item], captions: Mapping[str, str]
    ) -> None:
        self._template = template
        names = sorted({name for item in items for name in item.attributes})
        self._title = fit_field(config, (item.title for item in items))
        self._text = fit_field(config, (item.text for item in items))
        self._caption = fit_field(config, captions.values())
        self._attributes = {
            name: fit_field(config, (item.attributes.get(name, "") for item in items)) for name in names
        }

    def __call__(self, item: Item, caption: str | None) -> str:
        """The item's text."""
        limited = replace(
            item,
            title=self._title.limited(item.title),
            text=self._text.limited(item.text),
            attributes={
                name: self._attributes.get(name, FieldGuard(0)).limited(value)
                for name, value in item.attributes.items()
            },
        )
        return render_text(self._template, limited, self._caption.limited(caption or ""))


Words = Callable[[Item, str | None], str]
"""What the reranker reads of an item with this caption."""


def words_of(
    config: GuardConfig | None, template: str, items: Sequence[Item], captions: Mapping[str, str]
) -> Words:
    """How an item's words are made: by the template, within limits where there are some."""
    if config is None:
        return lambda item, caption: render_text(template, item, caption)
    return Guard(config, template, items, captions)


def limited_texts(config: GuardConfig | None, texts: Mapping[str, str]) -> Mapping[str, str]:
    """Texts of one kind, by id, within the limits that they give together."""
    if config is None:
        return texts
    field = fit_field(config, texts.values())
    return {name: field.limited(text) for name, text in texts.items()}


def _bare(word: str) -> str:
    return word.strip(_MARKS).casefold()
