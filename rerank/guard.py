"""Which words of an item's fields the reranker is shown, by what the catalogue's other items hold.

Whoever writes a title writes to the model. What a text is meant for cannot be told from what it says, so
nothing here looks for attacks: a word that too few items have in the same field is left out, whatever it is.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from extract.items import Item
from extract.prompts import plain, render_text
from rerank.settings import GuardConfig

logger = logging.getLogger(__name__)

MOST_EMPTIED = 0.2
"""Share of the texts of a field that may be left without a word before it is said aloud."""
_MARKS = ".,;:!?()[]{}<>\"'`*_#|/\\"


class FieldGuard:
    """The words of one field that are shown.

    Args:
        config: which limits.
        texts: what the field holds over the catalogue.
        name: of the field, to speak of it.
    """

    def __init__(self, config: GuardConfig, texts: Iterable[str], name: str) -> None:
        texts = [text for text in texts if text.strip()]
        counts = Counter(word for text in texts for word in {_bare(word) for word in plain(text).split()})
        self._shown = frozenset(word for word, count in counts.items() if count >= config.least_items)
        emptied = sum(not self.limited(text) for text in texts)
        if emptied > MOST_EMPTIED * len(texts):
            logger.warning(
                "rerank.guard leaves %d of %d texts of the field %s empty: their words are in fewer than %d "
                "items (a script without blanks has one word a text)",
                emptied, len(texts), name, config.least_items,
            )  # fmt: skip

    def limited(self, text: str) -> str:
        """The text without the others; small and capital letters, and marks around a word, are alike."""
        return " ".join(word for word in plain(text).split() if _bare(word) in self._shown)


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
        self._title = FieldGuard(config, (item.title for item in items), "title")
        self._text = FieldGuard(config, (item.text for item in items), "text")
        self._caption = FieldGuard(config, captions.values(), "caption")
        self._attributes = {
            name: FieldGuard(config, (item.attributes.get(name, "") for item in items), name)
            for name in names
        }

    def __call__(self, item: Item, caption: str | None) -> str:
        """The item's text."""
        attributes = {
            name: self._attributes[name].limited(value)
            for name, value in item.attributes.items()
            if name in self._attributes
        }
        limited = replace(
            item, title=self._title.limited(item.title), text=self._text.limited(item.text),
            attributes=attributes,
        )  # fmt: skip
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
    field = FieldGuard(config, texts.values(), "text")
    return {name: field.limited(text) for name, text in texts.items()}


def _bare(word: str) -> str:
    return word.strip(_MARKS).casefold() or word
