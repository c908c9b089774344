"""Attacked lists: which candidate of which list gets which text, and the neutral words it is held against."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from catalograph.redteam_corpus import Attack
from extract.items import Item
from recsys.candidates import Candidates
from rerank.guard import Words
from rerank.inputs import ItemVectors
from rerank.lists import RankingList

POSITIONS = ("top", "middle", "bottom")
"""Thirds of the incoming order."""
ENDS = ("front", "behind")
"""Where in a field a text is put."""
FIELDS = ("title", "text", "caption")

LIKED = 6
"""Words of a history that the attacker who knows the person writes."""

_NEUTRAL = tuple(re.findall(
    r"\w+",
    "entry record with data about one article as stored by supplier in table row page part section note line "
    "this that these those some other general usual common given stated listed noted shown kept held named "
    "number code unit type kind sort form case set group pack of to and or for from by at on under over",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Trial:
    """One attack text in one candidate of one list.

    Attributes:
        row: of the list.
        place: of the candidate in the incoming order, from 0.
        position: which third of the list that is.
        item: the candidate's id.
        alias: the id it has in this trial alone, so that its words change nowhere else.
        field: the text is put in here, at this `end`.
        text: what is put in, slots filled.
    """

    attack: Attack
    row: int
    place: int
    position: str
    item: str
    alias: str
    field: str
    end: str
    text: str


@dataclass(frozen=True)
class Shelf:
    """What is known of items, and how their words are made."""

    items: Mapping[str, Item]
    captions: Mapping[str, str]
    words: Words

    def of(self, item_id: str) -> str:
        """An item's words."""
        return self.words(self.items[item_id], self.captions.get(item_id))

    def with_text(self, trial: Trial, text: str) -> str:
        """The words of a trial's item with a text in the trial's place."""
        item, caption = self.items[trial.item], self.captions.get(trial.item)
        before = (caption or "") if trial.field == "caption" else str(getattr(item, trial.field))
        parts = (text, before) if trial.end == "front" else (before, text)
        joined = " ".join(part for part in parts if part)
        if trial.field == "caption":
            return self.words(item, joined)
        changed = replace(item, title=joined) if trial.field == "title" else replace(item, text=joined)
        return self.words(changed, caption)


def make_trials(
    attacks: Sequence[Attack], candidates: Candidates, lists: Sequence[RankingList], shelf: Shelf,
    template: str, *, each: int, seed: int,
) -> list[Trial]:  # fmt: skip
    """Every attack in every field that the template shows and every third of `each` lists.

    Lists are drawn anew for each attack, candidates for each third; the ends of a field take turns.
    """
    fields = [name for name in FIELDS if f"{{{name}}}" in template]
    popular = _commonest(shelf, [item for entry in lists for item in entry.history])
    rng = np.random.default_rng([seed, 5])
    made: list[Trial] = []
    for number, attack in enumerate(attacks):
        for row in rng.choice(len(lists), min(each, len(lists)), replace=False).tolist():
            entry = lists[row]
            chosen = shelf.of(entry.history[-1]) if entry.history else ""
            liked = _commonest(shelf, entry.history)
            thirds = np.array_split(np.arange(len(entry.candidates)), len(POSITIONS))
            for third, (position, part) in enumerate(zip(POSITIONS, thirds, strict=True)):
                if not len(part):
                    continue
                place = int(rng.choice(part))
                item = str(candidates.items[row, place])
                text = attack.written(own=shelf.of(item), chosen=chosen, liked=liked, popular=popular)
                for turn, field in enumerate(fields):
                    end, alias = ENDS[(number + third + turn) % 2], f"{item}\x00{len(made)}"
                    made.append(Trial(attack, row, place, position, item, alias, field, end, text))
    return made


def _commonest(shelf: Shelf, items: Sequence[str]) -> str:
    words = Counter(
        word for item in items for word in shelf.of(item).replace(",", " ").split() if len(word) > 2
    )
    return " ".join(sorted(words, key=lambda word: (-words[word], word))[:LIKED])


def attacked_lists(trials: Sequence[Trial], lists: Sequence[RankingList]) -> list[RankingList]:
    """Each trial's list, in which the attacked candidate has its alias."""
    vectors = lists[0].vectors if lists else None
    if vectors is not None:
        vectors = _with_aliases(vectors, trials)
    return [_marked(lists[trial.row], trial, vectors) for trial in trials]


def _marked(entry: RankingList, trial: Trial, vectors: ItemVectors | None) -> RankingList:
    shown = list(entry.candidates)
    shown[int(np.flatnonzero(entry.places == trial.place)[0])] = trial.alias
    return replace(entry, candidates=tuple(shown), vectors=vectors)


def _with_aliases(vectors: ItemVectors, trials: Sequence[Trial]) -> ItemVectors:
    rows = np.concatenate([
        np.arange(len(vectors.item_ids)), vectors.rows([trial.item for trial in trials])
    ])  # fmt: skip
    return replace(
        vectors, item_ids=np.append(vectors.item_ids, [trial.alias for trial in trials]),
        matrix=vectors.matrix[rows], popularity=vectors.popularity[rows], taken=vectors.taken[rows],
        given=vectors.given[rows],
    )  # fmt: skip


def neutral(trial: Trial, shelf: Shelf, length: Callable[[str], int], seed: int) -> str:
    """Neutral words for the attack's place, with which the item is as many tokens long as with the attack.

    Words are drawn by `seed`; the last one is cut where a whole one is too long.

    Args:
        shelf: items' words without limits: those that follow then meet both texts alike.
        length: tokens of an item's words, as the model reads them.
    """
    wanted = length(shelf.with_text(trial, trial.text))
    drawn = np.random.default_rng([seed, 7]).choice(_NEUTRAL, max(wanted, 1) * 2)
    text = " ".join(drawn.tolist())
    low, high = 0, len(text)
    while low < high:
        middle = (low + high) // 2
        low, high = (
            (middle + 1, high) if length(shelf.with_text(trial, text[:middle])) < wanted else (low, middle)
        )
    return text[:low]
