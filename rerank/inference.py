"""Reorders candidates with a listwise scorer: Candidates in, Candidates out, the same items."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from recsys.candidates import Candidates
from rerank.lists import RankingList, reshuffled, taken
from rerank.settings import InferenceConfig

Progress = Callable[[int], None]
T = TypeVar("T")

DEFAULT = InferenceConfig()

CHUNK = 256
"""Lists whose prompts are in memory at a time."""


@dataclass
class Cost:
    """What reading lists took: prompts, and their tokens (one that several prompts share counts for each)."""

    prompts: int = 0
    tokens: int = 0


class Reader(Protocol):
    """What reads lists: a scorer as it is, or `OneByOne`."""

    def words(self, text: str) -> list[int]:
        """Tokens of one item's text."""
        ...

    def prompt(self, entry: RankingList, words: Mapping[str, list[int]], answer: int = 0) -> Any:
        """One list as the model reads it, of a length in tokens; with an answer to learn from."""
        ...

    def score(self, prompts: Sequence[Any], *, token_budget: int = 8192) -> list[NDArray[np.float32]]:
        """Each list's scores [K] in the order shown."""
        ...


class Scorer(Reader, Protocol):
    """What learns to rank lists: `ListwiseScorer` by words, `TokenScorer` by vectors."""

    model: Any

    @property
    def device(self) -> Any:
        """Where the model is."""
        ...

    def learn(self, prompts: Sequence[Any]) -> tuple[Any, Any, Any]:
        """Scores [B, K] and mask [B, K] with gradients, and a language-model loss."""
        ...


@dataclass(frozen=True, slots=True)
class Singles:
    """The prompts of one list's candidates, a prompt each."""

    prompts: list[Any]

    def __len__(self) -> int:
        return sum(map(len, self.prompts))


class OneByOne:
    """A scorer that is shown one candidate at a time: the same weights without the list around it."""

    def __init__(self, scorer: Reader) -> None:
        self._scorer = scorer

    def words(self, text: str) -> list[int]:
        """Tokens of one item's text."""
        return self._scorer.words(text)

    def prompt(self, entry: RankingList, words: Mapping[str, list[int]], answer: int = 0) -> Singles:
        """A prompt for each candidate."""
        alone = (taken(entry, np.array([place])) for place in range(len(entry.candidates)))
        return Singles([self._scorer.prompt(one, words, answer) for one in alone])

    def score(self, prompts: Sequence[Singles], *, token_budget: int = 8192) -> list[NDArray[np.float32]]:
        """Each list's scores [K] in the order shown."""
        found = self._scorer.score([one for own in prompts for one in own.prompts], token_budget=token_budget)
        ends = np.cumsum([len(own.prompts) for own in prompts])
        return np.split(np.concatenate([np.zeros(0, np.float32), *found]), ends)[:-1]


class ItemWords(dict[str, list[int]]):
    """The tokens of each item's text, made once; an item without text has none."""

    def __init__(self, scorer: Reader, texts: Mapping[str, str]) -> None:
        super().__init__()
        self._words, self._texts = scorer.words, texts

    def __missing__(self, item_id: str) -> list[int]:
        self[item_id] = self._words(self._texts.get(item_id, ""))
        return self[item_id]


def score_lists(
    scorer: Reader, lists: Sequence[RankingList], texts: Mapping[str, str], *, permutations: int = 1,
    token_budget: int = 8192, progress: Progress | None = None, cost: Cost | None = None,
) -> list[NDArray[np.float32]]:  # fmt: skip
    """Each list's scores [K] in the order its candidates arrived, not the order they were shown.

    Args:
        texts: item id to the text the model reads; a missing one is shown empty.
        permutations: orders a list is shown in, its own and seeded ones; scores are means over them.
        progress: told how many lists are done.
        cost: what the prompts took is added to it.
    """
    words = ItemWords(scorer, texts)
    scores: list[NDArray[np.float32]] = []
    for chunk in _chunks(lists, CHUNK):
        views = [
            view for entry in chunk
            for view in (entry, *(reshuffled(entry, seed=[order]) for order in range(1, permutations)))
        ]  # fmt: skip
        prompts = [scorer.prompt(view, words) for view in views]
        if cost is not None:
            cost.prompts, cost.tokens = cost.prompts + len(prompts), cost.tokens + sum(map(len, prompts))
        found = scorer.score(prompts, token_budget=token_budget)
        for place, entry in enumerate(chunk):
            total = np.zeros(len(entry.candidates), np.float32)
            for own in range(place * permutations, (place + 1) * permutations):
                total[views[own].places] += found[own]
            scores.append(total / np.float32(permutations))
        if progress is not None:
            progress(len(scores))
    return scores


def rank_lists(
    scorer: Reader, lists: Sequence[RankingList], texts: Mapping[str, str],
    config: InferenceConfig = DEFAULT, *, progress: Progress | None = None, cost: Cost | None = None,
) -> list[NDArray[np.float32]]:  # fmt: skip
    """Scores [K] as `score_lists` gives them; lists longer than a window are ranked by sliding windows.

    Windows go from the end of a list to its top (RankGPT, FIRST). Scores of different windows cannot be
    compared, so a list ranked by windows has minus the place as score: 0, -1, -2 ...
    """
    score = partial(
        score_lists, scorer, texts=texts, permutations=config.permutations,
        token_budget=config.token_budget, cost=cost,
    )  # fmt: skip
    long = [i for i, e in enumerate(lists) if config.window and len(e.candidates) > config.window]
    if not long:
        return score(lists, progress=progress)
    short = sorted(set(range(len(lists))) - set(long))
    done = score([lists[i] for i in short], progress=progress)
    scores = dict(zip(short, done, strict=True))
    window, count = config.window or 0, len(short)
    stride = config.stride or max(window // 2, 1)
    for chunk in _chunks(long, CHUNK // 16):
        with getattr(scorer, "remembering", nullcontext)():
            orders = _slid(score, [lists[i] for i in chunk], window, stride)
        for i, order in zip(chunk, orders, strict=True):
            scores[i] = np.empty(len(order), np.float32)
            scores[i][order] = -np.arange(len(order), dtype=np.float32)
        count += len(chunk)
        if progress is not None:
            progress(count)
    return [scores[i] for i in range(len(lists))]


def _slid(
    score: Callable[[Sequence[RankingList]], list[NDArray[np.float32]]], lists: Sequence[RankingList],
    window: int, stride: int,
) -> list[NDArray[np.int64]]:  # fmt: skip
    """Arriving places [K] of each list, best first; every list's n-th windows are scored together."""
    orders = [np.arange(len(entry.candidates)) for entry in lists]
    starts = [[*range(len(entry.candidates) - window, 0, -stride), 0] for entry in lists]
    for step in range(max(map(len, starts))):
        active = [i for i in range(len(lists)) if step < len(starts[i])]
        parts = []
        for i in active:
            shown = np.argsort(lists[i].places)[orders[i][starts[i][step] : starts[i][step] + window]]
            # A list that was shuffled stays so; one that was not is shown as it stands by now, as in FIRST.
            in_order = (np.diff(lists[i].places) > 0).all()
            parts.append(taken(lists[i], shown if in_order else np.sort(shown)))
        found = score([_renumbered(part) for part in parts])
        for i, part, scores in zip(active, parts, found, strict=True):
            where = slice(starts[i][step], starts[i][step] + window)
            own = dict(zip(part.places.tolist(), scores.tolist(), strict=True))
            values = np.array([own[place] for place in orders[i][where].tolist()])
            orders[i][where] = orders[i][where][np.argsort(-finite(values), kind="stable")]
    return orders


def _renumbered(part: RankingList) -> RankingList:
    """A part of a list as a list of its own: its scores come back in the order it is shown in."""
    return replace(part, places=np.arange(len(part.candidates)))


def reorder(
    scorer: Reader, candidates: Candidates, lists: Sequence[RankingList], texts: Mapping[str, str], *,
    name: str = "reranker", config: InferenceConfig = DEFAULT, progress: Progress | None = None,
    cost: Cost | None = None,
) -> Candidates:  # fmt: skip
    """The candidates in the order of the model's scores, which are kept under `name`.

    Always a permutation of what came in, whatever the model returns: a score that is not finite goes last,
    ties keep the incoming order.
    """
    found = rank_lists(scorer, lists, texts, config, progress=progress, cost=cost)
    return ordered_by(candidates, found, name, max_move=config.max_move)


def ordered_by(
    candidates: Candidates, found: Sequence[NDArray[np.float32]], name: str, *, max_move: int | None = None
) -> Candidates:
    """The candidates by scores [K] of each list in arriving order; ties keep the incoming order."""
    table = np.full(candidates.items.shape, -np.inf, np.float32)
    for row, scores in enumerate(found):
        table[row, : len(scores)] = finite(scores)
    order = np.argsort(-table, axis=1, kind="stable")
    return candidates.reordered(limited(order, max_move), name, table)


def finite(scores: NDArray[Any]) -> NDArray[np.float32]:
    """Scores with the lowest number in place of those that are not finite."""
    lowest = np.finfo(np.float32).min
    return np.where(np.isfinite(scores), scores, lowest).astype(np.float32)


def limited(order: NDArray[np.integer[Any]], max_move: int | None) -> NDArray[np.int64]:
    """Orders [U, K] of present places in which none moves by more than `max_move`.

    From the top, a place gets the best item that may already stand there, unless one may wait no longer. A
    place that only such limits decide costs the wanted order as little as possible from the top.
    """
    rows = np.array(order, np.int64)
    if max_move is None:
        return rows
    for row in rows:
        waiting = row.tolist()
        for place in range(len(row)):
            # The list is wanted order; at most one item is overdue, for present places are all different.
            overdue = place - max_move
            chosen = overdue if overdue in waiting else next(i for i in waiting if i <= place + max_move)
            waiting.remove(chosen)
            row[place] = chosen
    return rows


def held_within(ordered: Candidates, came_in: Candidates, name: str, max_move: int | None) -> Candidates:
    """Lists ordered by source `name`, none of whose items is more than `max_move` places from where it was.

    Args:
        came_in: the same lists before.
    """
    if max_move is None:
        return ordered
    order = np.tile(np.arange(ordered.k), (len(ordered), 1))
    for row, items in enumerate(came_in.items):
        places: dict[str, list[int]] = {}
        for place, item in enumerate(items):
            places.setdefault(str(item), []).append(place)
        order[row] = [places[str(item)].pop(0) for item in ordered.items[row]]
    back = np.argsort(order, axis=1)
    moves = np.take_along_axis(back, limited(order, max_move), axis=1)
    return ordered.reordered(moves, name, ordered.scores[name])


def _chunks(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
