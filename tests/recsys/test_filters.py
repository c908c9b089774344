import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.errors import InvalidData
from recsys import Interactions, interactions_from
from recsys.filters import FilterConfig, filter_interactions


def chain() -> Interactions:
    """u has a b c, v has a b, w has c d: d is chosen once, and w only holds while d does."""
    return interactions_from("uuuvvww", "abcabcd", "abcdx")


def named(part: Interactions) -> list[tuple[str, str]]:
    return [(part.user_ids[u], part.item_ids[i]) for u, i in zip(part.user_rows, part.item_rows, strict=True)]


def test_the_core_is_taken_round_by_round() -> None:
    # d goes (chosen once), then w (one choice left), then c (chosen by u alone): three rounds.
    kept, counts = filter_interactions(chain(), FilterConfig(min_user=2, min_item=2))
    assert named(kept) == [("u", "a"), ("u", "b"), ("v", "a"), ("v", "b")]
    assert kept.user_ids.tolist() == ["u", "v"]
    assert kept.item_ids.tolist() == list("abcdx")
    assert (counts.n_users, counts.n_items, counts.n_interactions, counts.rounds) == (1, 2, 3, 3)


def test_once_goes_by_the_numbers_in_the_file() -> None:
    kept, counts = filter_interactions(chain(), FilterConfig(min_user=2, min_item=2, repeat=False))
    assert named(kept) == [*named(chain())[:5], ("w", "c")]
    assert (counts.n_interactions, counts.rounds) == (1, 1)


def test_nothing_asked_changes_nothing() -> None:
    whole = chain()
    assert filter_interactions(whole, FilterConfig())[0] is whole


def test_a_core_without_anybody_is_an_error() -> None:
    with pytest.raises(InvalidData) as caught:
        filter_interactions(chain(), FilterConfig(min_user=4))
    assert caught.value.code == "D203"


@given(seed=st.integers(0, 300), least=st.tuples(st.integers(1, 4), st.integers(1, 4)))
def test_the_core_is_the_largest_part_in_which_all_have_enough(seed: int, least: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    pairs = sorted({(f"u{u}", f"i{i}") for u, i in rng.integers(0, 8, (30, 2))})
    # The plain way: one user or item at a time.
    left = set(pairs)
    while True:
        few = [
            pair
            for pair in left
            if sum(p[0] == pair[0] for p in left) < least[0] or sum(p[1] == pair[1] for p in left) < least[1]
        ]
        if not few:
            break
        left.discard(few[0])
    whole = interactions_from([p[0] for p in pairs], [p[1] for p in pairs], [f"i{i}" for i in range(8)])
    config = FilterConfig(min_user=least[0], min_item=least[1])
    if not left:
        with pytest.raises(InvalidData):
            filter_interactions(whole, config)
    else:
        assert set(named(filter_interactions(whole, config)[0])) == left
