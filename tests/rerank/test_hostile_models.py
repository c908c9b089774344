"""Model folders that are damaged or made to harm: refused by name, and no code of theirs is run."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from catalograph.filling import model_folder
from extract.errors import MissingPrerequisite
from rerank.scorer import load_scorer
from rerank.settings import RerankConfig


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in Path(model_folder("demo:language_model")).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def refused(folder: Path) -> MissingPrerequisite:
    with pytest.raises(MissingPrerequisite) as caught:
        load_scorer(RerankConfig(model=str(folder)), max_candidates=4)
    return caught.value


def test_pickled_weights_are_not_read(model: Path, tmp_path: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    assert refused(model).code == "M303" and not (tmp_path / "ran").exists()


def test_code_in_a_model_folder_is_not_run(model: Path, tmp_path: Path) -> None:
    card = json.loads((model / "config.json").read_text())
    code = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    card |= {"model_type": "evil", "auto_map": code, "trust_remote_code": True}
    (model / "config.json").write_text(json.dumps(card))
    (model / "evil.py").write_text(f"import os\nos.system('touch {tmp_path}/ran')\n")
    assert refused(model).code == "M303" and not (tmp_path / "ran").exists()


def test_a_chat_template_that_reaches_for_commands_is_refused(model: Path, tmp_path: Path) -> None:
    run = f"cycler.__init__.__globals__.os.system('touch {tmp_path}/ran')"
    (model / "chat_template.jinja").write_text("{{ " + run + " }}")
    found = refused(model)
    assert found.code == "M303" and "chat template" in found.what and not (tmp_path / "ran").exists()


def test_a_checkpoint_that_lacks_weights_is_refused_by_their_names(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    gone = next(name for name in sorted(weights) if "layers.0" in name)
    save_file({k: v for k, v in weights.items() if k != gone}, model / "model.safetensors", {"format": "pt"})
    found = refused(model)
    assert found.code == "M306" and gone in str(found)


@pytest.mark.parametrize("keep", [0, 100, 5000])
def test_cut_weights_are_refused(model: Path, keep: int) -> None:
    data = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(data[:keep])
    assert refused(model).code == "M303"
