from pathlib import Path

import numpy as np
import pytest

from extract.errors import InvalidData
from recsys import Candidates, interactions_from, judge
from recsys.groups import activity, given, judged_by_group, popularity, read_groups, warmth

# u chose three items, v two, w one; a is chosen by all, b by two, c by one, d by nobody.
TRAIN = interactions_from("uuuvvw", "abcaba", "abcd")


def test_activity_cuts_users_into_thirds() -> None:
    assert activity(TRAIN).labels.tolist() == ["many choices", "some choices", "few choices"]


def test_users_with_equally_many_choices_are_in_one_group() -> None:
    assert len(set(activity(interactions_from("uvw", "abc", "abc")).labels.tolist())) == 1


def test_each_third_of_items_has_a_third_of_the_choices() -> None:
    # Six choices: a has the first three, b the next two, c the last.
    assert popularity(TRAIN).labels.tolist() == ["popular items", "middle items", "rare items", "rare items"]


def test_cold_items_are_those_without_a_train_choice() -> None:
    assert warmth(TRAIN).labels.tolist() == ["warm items", "warm items", "warm items", "cold items"]


def test_given_groups_leave_out_users_that_the_table_lacks(tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text("group,user_id\nold,v\nnew,u\nold,stranger\n")
    got = given(read_groups(tmp_path / "groups.csv"), TRAIN)
    assert got.labels.tolist() == ["new", "old", ""] and got.order == ("new", "old")


def test_a_table_of_other_users_is_refused() -> None:
    with pytest.raises(InvalidData, match="no user"):
        given({"stranger": "old"}, TRAIN)


def test_intersections_cross_users_and_items() -> None:
    truth = interactions_from("uvvw", "ddcb", "abcd")
    items = np.array([["d", "b"], ["c", "d"], ["a", "b"]])
    judged = judge(Candidates(np.array(list("uvw")), items, {}, {}, np.zeros((3, 2), np.float32)), truth)
    groupings = [given({"u": "one", "v": "two", "w": "two"}, TRAIN), warmth(TRAIN)]
    parts = judged_by_group(judged, groupings, TRAIN.user_rows_of(judged.user_ids))
    # "one, warm items" has no truth and is left out.
    assert list(parts) == ["one, cold items", "two, warm items", "two, cold items"]
    assert parts["one, cold items"].metrics([1]).mean()["recall@1"] == 1
    assert parts["two, warm items"].user_ids.tolist() == ["v", "w"]
    assert parts["two, warm items"].metrics([1]).per_user["recall@1"].tolist() == [1, 0]
    assert parts["two, cold items"].metrics([2]).per_user["mrr@2"].tolist() == [0.5]


def test_the_truths_of_all_groups_are_all_truths() -> None:
    truth = interactions_from("uvvw", "ddcb", "abcd")
    items = np.array([["d", "b"], ["c", "d"], ["a", "b"]])
    judged = judge(Candidates(np.array(list("uvw")), items, {}, {}, np.zeros((3, 2), np.float32)), truth)
    users = TRAIN.user_rows_of(judged.user_ids)
    for groupings in ([activity(TRAIN)], [popularity(TRAIN)], [activity(TRAIN), popularity(TRAIN)]):
        parts = judged_by_group(judged, groupings, users).values()
        assert sum(int(part.n_truth.sum()) for part in parts) == len(truth)
        assert sum(int(part.hits.sum()) for part in parts) == int(judged.hits.sum())
