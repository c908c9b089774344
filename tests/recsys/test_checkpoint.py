from pathlib import Path

import pytest
import torch

from recsys.checkpoint import load_checkpoint, save_checkpoint


def save(folder: Path, value: float) -> None:
    save_checkpoint(
        folder, {"w": torch.tensor([value]), "half": torch.ones(2, dtype=torch.bfloat16)}, {"loss": value}
    )


def value(folder: Path) -> float | None:
    found = load_checkpoint(folder)
    return None if found is None else float(found.meta["loss"])


def test_the_newest_comes_back_exactly(tmp_path: Path) -> None:
    for number in (0.1, 0.2, 1 / 3):
        save(tmp_path, number)
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found.meta == {"loss": 1 / 3}
    assert torch.equal(found.tensors["w"], torch.tensor([1 / 3]))
    assert found.tensors["half"].dtype == torch.bfloat16
    assert len(list(tmp_path.iterdir())) == 4


def test_no_folder_is_no_checkpoint(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "none") is None


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "json cut"])
def test_a_broken_newest_gives_way_to_the_one_before(tmp_path: Path, damage: str) -> None:
    save(tmp_path, 1.0)
    save(tmp_path, 2.0)
    data = max(tmp_path.glob("*.safetensors"))
    if damage == "flipped":
        data.write_bytes(data.read_bytes()[:-1] + b"\x01")
    elif damage == "cut":
        data.write_bytes(data.read_bytes()[:10])
    elif damage == "gone":
        data.unlink()
    else:
        row = max(tmp_path.glob("*.json"))
        row.write_bytes(row.read_bytes()[:20])
    assert value(tmp_path) == 1.0
    save(tmp_path, 3.0)
    assert value(tmp_path) == 3.0


def test_tensors_without_their_json_do_not_count(tmp_path: Path) -> None:
    save(tmp_path, 1.0)
    save(tmp_path, 2.0)
    max(tmp_path.glob("*.json")).unlink()
    assert value(tmp_path) == 1.0
