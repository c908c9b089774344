import numpy as np
import pytest

from extract.errors import ConfigError
from extract.features import FeatureTable
from recsys import Interactions, interactions_from
from recsys.content_search import ContentSearch, ContentSearchConfig

IDS = ("a", "b", "c", "d")
# Less their mean (0, 1) over a, b, c: a (3, 4), b (-3, -4), c (0, 0); d has none.
TABLE = FeatureTable(IDS, np.float32([[3, 5], [-3, -3], [0, 1], [9, 9]]), np.array([True, True, True, False]))


def scores(train: Interactions, tables: dict[str, FeatureTable], **settings: object) -> list[float]:
    model = ContentSearch(ContentSearchConfig.model_validate(settings), train, tables)
    model.solve()
    return [float(x) for x in model.score(np.zeros(1, np.int32))[0]]


def test_scores_are_cosines_with_the_mean_of_what_was_chosen() -> None:
    assert scores(interactions_from("u", "a", IDS), {"text": TABLE}) == pytest.approx([1, -1, 0, 0])
    # The mean of a and d, which has no vector, is half of a.
    assert scores(interactions_from("uu", "ad", IDS), {"text": TABLE}) == pytest.approx([0.5, -0.5, 0, 0])


def test_modalities_are_weighed() -> None:
    # The second pairs a with c: less the mean 0, a and c (1), b and d (-1).
    other = FeatureTable(IDS, np.float32([[1], [-1], [1], [-1]]))
    train = interactions_from("u", "a", IDS)
    tables = {"text": TABLE, "sound": other}
    assert scores(train, tables) == pytest.approx([2, -2, 1, -1])
    assert scores(train, tables, weights={"text": 1, "sound": 0.5}) == pytest.approx([1.5, -1.5, 0.5, -0.5])
    with pytest.raises(ConfigError):
        scores(train, tables, weights={"text": 1})


def test_somebody_who_chose_nothing_has_equal_scores() -> None:
    train = interactions_from("uv", "ab", IDS)
    none = train.take(train.user_rows == 1)
    assert scores(none, {"text": TABLE}) == [0, 0, 0, 0]
