"""The configurations that ship with the product work as they stand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from catalograph.config import RunConfig
from catalograph.config_file import load_config
from catalograph.config_keys import flatten
from catalograph.demo import packaged_config
from catalograph.filling import model_folder
from extract.errors import ConfigError
from extract.models import PACKAGED
from recsys.settings import SETTINGS
from rerank.prompts import LAYOUTS

FOLDER = Path(__file__).resolve().parents[1] / "configs"
FILES = sorted(FOLDER.glob("*.yaml"))
NAMES = [path.stem for path in FILES]


def models_of(config: RunConfig) -> list[str]:
    """Every reference to a model's weights."""
    found = [feature.embed.model for feature in config.features.values()]
    found += [] if config.caption is None else [config.caption.model]
    named = None if config.rerank is None else config.rerank.model
    return found if named is None else [*found, named]


def test_the_three_configurations_are_there() -> None:
    assert {"demo", "movies", "qwen-vl-h200"} <= set(NAMES)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_a_configuration_loads(path: Path) -> None:
    config = load_config(path)
    assert config.retrievers
    for name, retriever in config.retrievers.items():
        SETTINGS[retriever.model].model_validate(retriever.params)
        assert set(retriever.features) <= set(config.features), name
    assert config.rerank is None or config.rerank.prompt in LAYOUTS


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_a_key_that_nobody_knows_is_refused_in_every_section(path: Path) -> None:
    # Loading refuses a key it does not know in any section, so a file that loads has none.
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    sections = [key for key, value in raw.items() if isinstance(value, dict)]
    for section in sections:
        with pytest.raises(ConfigError, match=r"unknown key|should be a valid dictionary"):
            load_config(path, [f"{section}.nobody_knows_this=1"])


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_models_are_packaged_or_named_by_a_repository(path: Path) -> None:
    for model in models_of(load_config(path)):
        if model.startswith("demo:"):
            assert (Path(model_folder(model)) / "config.json").is_file()
        elif model.startswith("package:"):
            assert model.removeprefix("package:") in PACKAGED
        else:
            owner, _, name = model.partition("/")
            assert owner and name and "/" not in name


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_no_configuration_holds_a_path_of_one_machine(path: Path) -> None:
    values: dict[str, Any] = flatten(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert "data.root" not in values
    assert [key for key, value in values.items() if str(value).startswith(("/", "~", ".."))] == []


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_captions_are_used_only_where_there_is_a_captioner(path: Path) -> None:
    config = load_config(path)
    templates = [feature.template for feature in config.features.values()]
    templates += [] if config.rerank is None else [config.rerank.item]
    assert (config.caption is not None) == any("{caption}" in template for template in templates)


@pytest.mark.parametrize("name", NAMES)
def test_the_product_finds_its_own_configurations(name: str) -> None:
    assert packaged_config(name).is_file()


def test_movies_takes_its_split_from_the_file_and_carves_validation_out_of_train() -> None:
    split = load_config(FOLDER / "movies.yaml").data.split
    assert (split.method, split.train_labels, split.test_labels) == ("label", ("0",), ("1",))
    assert split.valid_share == 0.1
