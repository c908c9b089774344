"""Lists of today made from lists of yesterday are those of ranking everything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from recsys.deep_lists import DeepLists, Ranked, rank
from recsys.frozen import FrozenVectors, on_grid
from recsys.interactions import Interactions


class Day:
    """Users and items by name, with small whole vectors, so that ties are common."""

    def __init__(self, chance: np.random.Generator, n_users: int, n_items: int) -> None:
        self.chance = chance
        self.users = {f"u{n:02d}": self.vector() for n in range(n_users)}
        self.items = {f"i{n:02d}": self.vector() for n in range(n_items)}
        self.seen = {user: {item for item in self.items if chance.random() < 0.15} for user in self.users}
        self.denied: set[str] = set()
        self.born = n_items

    def vector(self) -> NDArray[np.float32]:
        return self.chance.integers(-2, 3, 3).astype(np.float32)

    def passes(self, share: float) -> None:
        """A night: of items and users, some change, leave and join; some choose, some items are denied."""
        for item in list(self.items):
            if self.chance.random() < share:
                self.items[item] = self.vector()
            elif self.chance.random() < share:
                del self.items[item]
        for _ in range(self.chance.binomial(10, share)):
            # New ids sort before, between and after the others.
            self.born += 1
            self.items[f"{'hijz'[self.born % 4]}{self.chance.integers(100):02d}x{self.born}"] = self.vector()
        for user in self.users:
            if self.chance.random() < share:
                self.users[user] = self.vector()
            if self.chance.random() < share and self.items:
                self.seen[user].add(str(self.chance.choice(sorted(self.items))))
        self.denied = {item for item in self.items if self.chance.random() < share / 2}

    def state(self) -> tuple[FrozenVectors, Interactions, NDArray[np.bool_]]:
        """The retriever, the choices on axes in an order of the day, and what is allowed."""
        ids = self.chance.permutation(sorted(self.items)).astype(np.str_)
        users = np.array(sorted(self.users), dtype=np.str_)
        place = {item: row for row, item in enumerate(ids.tolist())}
        pairs = [
            (row, place[i]) for row, user in enumerate(users.tolist()) for i in self.seen[user] if i in place
        ]
        rows = np.array(pairs, dtype=np.int32).reshape(-1, 2)
        model = FrozenVectors(
            on_grid(np.array([self.users[user] for user in users.tolist()]).reshape(-1, 3)),
            on_grid(np.array([self.items[item] for item in ids.tolist()]).reshape(-1, 3)),
            np.ones(len(ids), dtype=np.bool_),
        )
        allowed = np.array([item not in self.denied for item in ids.tolist()], dtype=np.bool_)
        return model, Interactions(users, ids, rows[:, 0], rows[:, 1]), allowed

    def expected(self, user: str, k: int) -> list[tuple[str, float]]:
        """By hand: every item that may be shown, sorted."""
        scores = {
            item: float(self.users[user] @ vector)
            for item, vector in self.items.items()
            if item not in self.seen[user] and item not in self.denied
        }
        return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))[:k]


def lists_of(ranked: Ranked, seen: Interactions, k: int) -> dict[str, list[tuple[str, float]]]:
    items, scores = ranked.best(k)
    return {
        user: [
            (str(seen.item_ids[item]), float(score)) for item, score in zip(*row, strict=True) if item >= 0
        ]
        for user, *row in zip(ranked.lists.user_ids.tolist(), items, scores, strict=True)
    }


@given(
    seed=st.integers(0, 10_000), n_items=st.integers(1, 30), k=st.integers(1, 6), spare=st.integers(0, 6),
    share=st.sampled_from([0.02, 0.1, 0.3]),
)  # fmt: skip
def test_five_nights_of_changes_give_the_lists_of_ranking_everything(
    seed: int, n_items: int, k: int, spare: int, share: float
) -> None:
    day = Day(np.random.default_rng(seed), 6, n_items)
    old: DeepLists | None = None
    for _ in range(5):
        model, seen, allowed = day.state()
        everyone = np.arange(seen.n_users, dtype=np.int32)
        ranked = rank(model, seen, everyone, k, depth=k + spare, allowed=allowed, old=old)
        assert lists_of(ranked, seen, k) == {user: day.expected(user, k) for user in day.users}
        old = ranked.lists
        day.passes(share)


def test_a_quiet_night_ranks_nobody_anew_and_a_change_only_who_it_touches() -> None:
    day = Day(np.random.default_rng(3), 20, 40)
    model, seen, _ = day.state()
    everyone = np.arange(20, dtype=np.int32)
    old = rank(model, seen, everyone, 3, depth=9).lists
    model, seen, _ = day.state()
    quiet = rank(model, seen, everyone, 3, depth=9, old=old)
    assert quiet.items_anew == 0
    assert not quiet.anew.any()
    day.users["u07"] = np.array([1, 7, 2], np.float32)
    day.items["i05"] = np.array([9, 9, 9], np.float32)
    model, seen, _ = day.state()
    ranked = rank(model, seen, everyone, 3, depth=9, old=old)
    assert ranked.items_anew == 1
    assert ranked.lists.user_ids[ranked.anew].tolist() == ["u07"]
    assert lists_of(ranked, seen, 3) == {user: day.expected(user, 3) for user in day.users}


def test_a_list_that_lost_too_much_is_ranked_anew() -> None:
    day = Day(np.random.default_rng(0), 1, 12)
    day.seen = {"u00": set()}
    day.users["u00"] = np.array([1, 0, 0], np.float32)
    day.items = {f"i{n:02d}": np.array([n, 0, 0], np.float32) for n in range(12)}
    model, seen, _ = day.state()
    old = rank(model, seen, np.zeros(1, np.int32), 2, depth=3).lists
    del day.items["i11"]
    model, seen, _ = day.state()
    one_gone = rank(model, seen, np.zeros(1, np.int32), 2, depth=3, old=old)
    assert (one_gone.anew.tolist(), lists_of(one_gone, seen, 2)["u00"]) == (
        [False],
        [("i10", 10), ("i09", 9)],
    )
    del day.items["i10"]
    model, seen, _ = day.state()
    two_gone = rank(model, seen, np.zeros(1, np.int32), 2, depth=3, old=old)
    assert two_gone.anew.all()
    assert lists_of(two_gone, seen, 2)["u00"] == [("i09", 9), ("i08", 8)]


def test_deep_lists_are_read_back_as_they_were(tmp_path: Path) -> None:
    model, seen, _ = Day(np.random.default_rng(1), 4, 9).state()
    lists = rank(model, seen, np.arange(4, dtype=np.int32), 2, depth=5).lists
    lists.save(tmp_path / "lists.npz")
    found = DeepLists.load(tmp_path / "lists.npz")
    again = rank(model, replace(seen), np.arange(4, dtype=np.int32), 2, depth=5, old=found)
    assert not again.anew.any()
    assert np.array_equal(found.items, lists.items)
