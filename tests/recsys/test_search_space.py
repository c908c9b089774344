import pytest
from pydantic import ValidationError

from recsys.models import MODELS
from recsys.search_space import SPACES, Range
from recsys.settings import SETTINGS, TrainConfig


@pytest.mark.parametrize("name", SPACES)
def test_every_range_is_of_a_setting_and_its_ends_are_allowed(name: str) -> None:
    for key, space in SPACES[name].items():
        part, _, field = key.partition(".")
        config = SETTINGS[name] if part == "params" else TrainConfig
        for value in space.values or (space.low, space.high):
            assert getattr(config.model_validate({field: value}), field) == value


def test_models_without_a_space_have_nothing_to_search() -> None:
    assert set(MODELS) - set(SPACES) == {"popularity", "content_search"}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"low": 1},
        {"low": 2, "high": 1},
        {"low": 0, "high": 1, "log": True},
        {"low": 1, "high": 2, "values": [1]},
    ],
)
def test_a_range_that_is_none_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Range.model_validate(settings)


def test_a_range_holds_its_ends_and_a_list_its_values() -> None:
    assert Range(low=1, high=3).holds(3) and not Range(low=1, high=3).holds(4)
    assert Range(values=("a", 2)).holds(2) and not Range(values=("a",)).holds("b")
    assert not Range(low=1, high=3).holds("2")
