import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from extract.errors import InvalidData
from recsys import Interactions, Split, SplitConfig, interactions_from, out_of_fold, split_interactions


def random_interactions(seed: int, users: int = 12, items: int = 15, timed: bool = True) -> Interactions:
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(users * items)[: rng.integers(users * 3, users * items // 2)]
    names = [f"u{p // items:02d}" for p in pairs], [f"i{p % items:02d}" for p in pairs]
    return interactions_from(
        *names,
        [f"i{n:02d}" for n in range(items)],
        timestamps=rng.integers(0, 40, len(pairs)) if timed else None,
    )


def pairs(part: Interactions) -> set[tuple[int, int]]:
    return set(zip(part.user_rows.tolist(), part.item_rows.tolist(), strict=True))


def assert_partition(split: Split, whole: Interactions) -> None:
    parts = [pairs(split.train), pairs(split.valid), pairs(split.test)]
    assert set().union(*parts) == pairs(whole)
    assert sum(map(len, parts)) == len(whole)
    for part in (split.train, split.valid, split.test):
        assert np.array_equal(part.item_ids, whole.item_ids)


@given(seed=st.integers(0, 500), method=st.sampled_from(["random", "mmrec", "leave_last_out", "global_time"]))
def test_a_split_is_a_partition_on_the_same_axes(seed: int, method: str) -> None:
    whole = random_interactions(seed)
    assert_partition(
        split_interactions(whole, SplitConfig(method=method, valid_share=0.2, test_share=0.2)), whole
    )


@given(seed=st.integers(0, 500))
def test_the_last_choice_is_in_test_and_the_one_before_in_validation(seed: int) -> None:
    whole = random_interactions(seed)
    split = split_interactions(whole, SplitConfig(method="leave_last_out"))
    trained, valid, tested = split.train.history(), split.valid.history(), split.test.history()
    for row, history in enumerate(whole.history()):
        if len(history) < 3:
            assert trained[row].tolist() == history.tolist()
        else:
            assert tested[row].tolist() == history[-1:].tolist()
            assert valid[row].tolist() == history[-2:-1].tolist()


@given(seed=st.integers(0, 500))
def test_global_time_never_parts_a_moment_nor_trains_on_the_future(seed: int) -> None:
    split = split_interactions(
        random_interactions(seed), SplitConfig(method="global_time", valid_share=0.2, test_share=0.2)
    )
    times = [part.timestamps for part in (split.train, split.valid, split.test)]
    assert times[0].max() < times[1].min() and times[1].max() < times[2].min()  # type: ignore[union-attr]


def test_random_takes_the_share_of_each_user_and_keeps_short_ones_whole() -> None:
    users = ["long"] * 20 + ["short"] * 2 + ["three"] * 3
    items = [str(n) for n in (*range(20), 0, 1, 0, 1, 2)]
    whole = interactions_from(users, items, [str(n) for n in range(20)])
    split = split_interactions(whole, SplitConfig(valid_share=0.1, test_share=0.2))
    sizes = [
        np.bincount(part.user_rows, minlength=3).tolist() for part in (split.train, split.valid, split.test)
    ]
    assert sizes == [[14, 2, 1], [2, 0, 1], [4, 0, 1]]


def test_a_seed_fixes_the_random_split_and_another_changes_it() -> None:
    whole = random_interactions(1)
    hashes = [split_interactions(whole, SplitConfig(seed=s)).test.content_hash() for s in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_labels_are_followed_and_others_dropped() -> None:
    whole = interactions_from("uuuu", "abcd", "abcd", labels=["0", "1", "2", "-1"])
    config = SplitConfig(method="label", train_labels=(0,), valid_labels=(1,), test_labels=(2,))  # type: ignore[arg-type]
    split = split_interactions(whole, config)
    assert [part.item_rows.tolist() for part in (split.train, split.valid, split.test)] == [[0], [1], [2]]


def test_validation_is_carved_out_of_train_when_no_label_says_it() -> None:
    labels = ["0"] * 10 + ["1"] * 2
    whole = interactions_from("u" * 12, "abcdefghijkl", "abcdefghijkl", labels=labels)
    split = split_interactions(
        whole, SplitConfig(method="label", train_labels=("0",), test_labels=("1",), valid_share=0.2)
    )
    assert split.test.item_rows.tolist() == [10, 11]
    assert len(split.valid) == 2
    assert_partition(split, whole)


def test_an_empty_split_names_what_it_found() -> None:
    whole = interactions_from("uu", "ab", "ab", labels=["train", "training"])
    with pytest.raises(InvalidData, match="the test split is empty") as caught:
        split_interactions(whole, SplitConfig(method="label", valid_share=0))
    assert caught.value.code == "D206"
    assert "training" in caught.value.why


@pytest.mark.parametrize("method", ["random", "leave_last_out"])
def test_users_too_short_for_any_test_row_are_an_error(method: str) -> None:
    with pytest.raises(InvalidData, match="split is empty"):
        split_interactions(interactions_from("uv", "ab", "ab", timestamps=[1, 2]), SplitConfig(method=method))


def test_one_moment_for_all_leaves_no_train() -> None:
    with pytest.raises(InvalidData, match="the train split is empty"):
        split_interactions(
            interactions_from("uvw", "aba", "ab", timestamps=[7, 7, 7]), SplitConfig(method="global_time")
        )


@pytest.mark.parametrize("method", ["leave_last_out", "global_time", "label"])
def test_a_missing_column_is_an_error_of_the_method(method: str) -> None:
    with pytest.raises(InvalidData) as caught:
        split_interactions(random_interactions(0, timed=False), SplitConfig(method=method))
    assert caught.value.code == "D207"


def test_a_share_of_zero_allows_an_empty_part() -> None:
    whole = random_interactions(2)
    split = split_interactions(whole, SplitConfig(valid_share=0))
    assert len(split.valid) == 0
    assert_partition(split, whole)


def test_impossible_shares_and_double_labels_are_refused() -> None:
    with pytest.raises(ValidationError):
        SplitConfig(valid_share=0.5, test_share=0.5)
    with pytest.raises(ValidationError):
        SplitConfig(train_labels=("x",), test_labels=("x",))


@given(seed=st.integers(0, 500), folds=st.integers(2, 5), ordered=st.booleans())
def test_a_fold_never_trains_on_what_it_holds_out(seed: int, folds: int, ordered: bool) -> None:
    train = random_interactions(seed, timed=ordered)
    made = out_of_fold(train, folds, seed, ordered)
    assert len(made) == folds
    for fold in made:
        assert not pairs(fold.train) & pairs(fold.held_out)
        held = np.unique(fold.held_out.user_rows)
        assert np.isin(held, fold.train.user_rows).all()


@given(seed=st.integers(0, 500))
def test_unordered_folds_hold_out_each_pair_once(seed: int) -> None:
    train = random_interactions(seed, timed=False)
    made = out_of_fold(train, 4, seed, False)
    long = np.bincount(train.user_rows, minlength=train.n_users)[train.user_rows] >= 2
    assert sorted(p for f in made for p in pairs(f.held_out)) == sorted(pairs(train.take(long)))
    assert all(len(f.train) + len(f.held_out) == len(train) for f in made)


def test_an_ordered_fold_holds_out_the_fth_last_and_trains_on_the_earlier_ones() -> None:
    train = interactions_from("uuuuuvvv", "abcdeabc", "abcde", timestamps=[1, 2, 3, 4, 5, 1, 2, 3])
    first, second, third = out_of_fold(train, 3, 0, True)
    assert [h.tolist() for h in first.train.history()] == [[0, 1, 2, 3], [0, 1, 2]]
    assert [h.tolist() for h in first.held_out.history()] == [[4], []]
    assert [h.tolist() for h in second.train.history()] == [[0, 1, 2], [0, 1, 2]]
    assert [h.tolist() for h in second.held_out.history()] == [[3], []]
    assert len(third.held_out) == 0


def test_one_unordered_fold_is_refused() -> None:
    with pytest.raises(InvalidData):
        out_of_fold(random_interactions(0), 1, 0, False)


@pytest.mark.parametrize(
    ("length", "expected"),
    [(2, (2, 0, 0)), (3, (1, 1, 1)), (9, (7, 1, 1)), (10, (8, 1, 1)), (15, (12, 1, 2)), (25, (20, 2, 3))],
)
def test_mmrecs_rule_takes_a_fifth_of_long_histories(length: int, expected: tuple[int, int, int]) -> None:
    # A second user gives every part a row.
    users = ["u"] * length + ["v"] * 5
    items = [str(n) for n in (*range(length), *range(5))]
    whole = interactions_from(users, items, [str(n) for n in range(25)])
    split = split_interactions(whole, SplitConfig(method="mmrec"))
    assert (
        tuple(int((part.user_rows == 0).sum()) for part in (split.train, split.valid, split.test)) == expected
    )


@given(seed=st.integers(0, 300), by=st.sampled_from(["least_chosen", "random"]))
def test_cold_items_are_tested_and_nowhere_else(seed: int, by: str) -> None:
    whole = random_interactions(seed)
    split = split_interactions(whole, SplitConfig(cold_share=0.2, cold_by=by, seed=seed))  # type: ignore[arg-type]
    assert_partition(split, whole)
    warm = set(split.train.item_rows.tolist())
    counts = np.bincount(whole.item_rows, minlength=whole.n_items)
    cold = sorted(set(split.test.item_rows.tolist()) - warm)
    assert len(cold) >= int((counts > 0).sum() * 0.2)
    gone = [row for row in cold if (split.test.item_rows == row).sum() == counts[row]]
    assert len(gone) >= int((counts > 0).sum() * 0.2)
    assert not set(gone) & set(split.valid.item_rows.tolist())
    if by == "least_chosen":
        assert np.sort(counts[gone])[0] == counts[counts > 0].min()


def test_the_least_chosen_items_are_made_cold_and_ties_go_by_the_catalogue() -> None:
    # c and d are chosen once each, and of five chosen items two fifths are two; of one fifth, c comes first.
    users, items = "uuuvvvwwwuvz", "abcabdabeeea"
    whole = interactions_from(users, items, "abcdex")
    for share, cold in ((0.2, [2]), (0.4, [2, 3])):
        split = split_interactions(whole, SplitConfig(cold_share=share, valid_share=0, test_share=0))
        assert sorted(split.test.item_rows.tolist()) == cold


def test_rows_that_a_label_drops_are_not_brought_back_as_cold() -> None:
    whole = interactions_from("uuvvw", "ababc", "abc", labels=["a", "a", "a", "c", "none"])
    config = SplitConfig(
        method="label", train_labels=("a",), test_labels=("c",), valid_share=0, cold_share=0.34
    )
    split = split_interactions(whole, config)
    assert split.test.item_rows.tolist() == [1]
