"""Texts that a seller may write to be ranked first, by family, written for this product.

They lie in `redteam_corpus.json`, beside this file, with slots for what the attacker knows: {own} is the
item's own text, {popular} the words that histories hold most often. {chosen}, what the person chose last, and
{liked}, the words of that person's history, are for an attacker who knows whom the list is for, which the
writer of a text that everybody sees does not.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

FILE = Path(__file__).with_name("redteam_corpus.json")


@dataclass(frozen=True, slots=True)
class Attack:
    """One text of the corpus."""

    family: str
    text: str

    def written(self, **slots: str) -> str:
        """The text with its slots filled, once: what fills one opens no other."""
        return re.sub(r"\{(own|chosen|liked|popular)\}", lambda found: slots[found[1]], self.text)


def attacks(most: int | None = None) -> list[Attack]:
    """The corpus, at most so many texts: the families take turns, so that a few texts still show each."""
    families: dict[str, list[str]] = json.loads(FILE.read_text(encoding="utf-8"))
    columns = ([Attack(family, text) for text in texts] for family, texts in families.items())
    turns = chain.from_iterable(zip_longest(*columns))
    return [attack for attack in turns if attack is not None][:most]
