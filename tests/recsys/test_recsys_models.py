import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from extract.errors import ConfigError, InvalidData, MissingPrerequisite
from extract.features import FeatureTable
from recsys import Interactions, interactions_from
from recsys.models import MODELS, build_model, load_model, save_model
from recsys.train import TrainConfig, fit

ROWS = np.arange(24, dtype=np.int32)
SHORT = TrainConfig(epochs=2, batch_size=64)
Tables = dict[str, FeatureTable]


@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_scores_all_items_and_survives_saving(
    name: str, checkerboard: Interactions, parity: Tables, tmp_path: Path
) -> None:
    model = build_model(name, {}, checkerboard, parity)
    fit(model, checkerboard, None, SHORT)
    scores = model.score(ROWS)
    assert scores.shape == (24, 20) and scores.dtype == np.float32
    save_model(model, tmp_path / "m")
    assert np.array_equal(load_model(tmp_path / "m", checkerboard, parity).score(ROWS), scores)


@pytest.mark.parametrize("name", list(MODELS))
def test_user_blocks_do_not_change_a_score(name: str, checkerboard: Interactions, parity: Tables) -> None:
    model = build_model(name, {}, checkerboard, parity)
    fit(model, checkerboard, None, SHORT)
    assert np.concatenate([model.score(ROWS[:5]), model.score(ROWS[5:])]) == pytest.approx(
        model.score(ROWS), rel=1e-4, abs=1e-4
    )


def test_a_model_does_not_load_on_other_items_or_features(
    checkerboard: Interactions, parity: Tables, tmp_path: Path
) -> None:
    model = build_model("lirdrec", {}, checkerboard, parity)
    save_model(model, tmp_path)
    swapped = Interactions(
        checkerboard.user_ids, checkerboard.item_ids[::-1], checkerboard.user_rows, checkerboard.item_rows
    )
    with pytest.raises(InvalidData) as caught:
        load_model(tmp_path, swapped, parity)
    assert "axes" in caught.value.why
    other = parity | {
        "text": FeatureTable(parity["text"].ids, parity["text"].matrix * 2, parity["text"].present)
    }
    with pytest.raises(InvalidData) as caught:
        load_model(tmp_path, checkerboard, other)
    assert "features" in caught.value.why


def test_damaged_weights_are_noticed(checkerboard: Interactions, tmp_path: Path) -> None:
    model = build_model("ease", {}, checkerboard)
    fit(model, checkerboard, None, SHORT)
    save_model(model, tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    with pytest.raises(InvalidData, match="does not fit"):
        load_model(tmp_path, checkerboard)


def test_a_missing_model_is_a_missing_prerequisite(checkerboard: Interactions, tmp_path: Path) -> None:
    with pytest.raises(MissingPrerequisite):
        load_model(tmp_path, checkerboard)


def test_unknown_names_and_settings_are_config_errors(checkerboard: Interactions) -> None:
    with pytest.raises(ConfigError) as caught:
        build_model("lightgnc", {}, checkerboard)
    assert caught.value.next_step == "did you mean `lightgcn`?"
    with pytest.raises(ConfigError) as caught:
        build_model("lightgcn", {"layer": 2}, checkerboard)
    assert "layer" in caught.value.why


def test_the_card_says_what_was_built(checkerboard: Interactions, tmp_path: Path) -> None:
    save_model(build_model("lightgcn", {"layers": 1}, checkerboard), tmp_path)
    card = json.loads((tmp_path / "model.json").read_text())
    assert card["model"] == "lightgcn" and card["config"]["layers"] == 1


def test_the_nouns_import_no_torch() -> None:
    code = "import recsys, sys; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_user_without_choices_gets_scores_from_every_model(parity: Tables) -> None:
    ids = list(parity["text"].ids)
    whole = interactions_from("uuuvvvww", ids[:3] + ids[3:6] + ids[:2], ids)
    train = whole.take(whole.user_rows != 2)
    for name in MODELS:
        model = build_model(name, {}, train, parity)
        fit(model, train, None, SHORT)
        assert np.isfinite(model.score(np.array([2], np.int32))).all()
