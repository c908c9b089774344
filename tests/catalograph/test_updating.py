"""`extract` on a store: what reaches a model when the catalogue changes, parts, merging, runs on top."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import importlib.util
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from catalograph.cli import main
from catalograph.updating import hold
from extract.errors import RunFolderError
from extract.fake_engine import FakeEngine
from extract.store import bucket_of

BUCKETS = 8


@dataclass
class Shop:
    """A catalogue on disk that can be edited, and `catalograph extract` on it."""

    root: Path
    rows: dict[str, dict[str, str]] = field(default_factory=dict)
    captioned: list[tuple[int, int]] = field(default_factory=list)
    """Sizes of the pictures that reached the captioner: every item's is its own."""
    embedded: list[str] = field(default_factory=list)
    """Texts that reached an embedder."""

    def put(self, name: str, size: tuple[int, int]) -> None:
        """Adds an item, or replaces its picture by one of another size."""
        shade = int(hashlib.sha256(f"{name}{size}".encode()).hexdigest()[:2], 16)
        pixels = np.random.default_rng(shade).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        (self.root / "pictures").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(self.root / "pictures" / f"{name}.png")
        self.rows[name] = {"item_id": name, "title": f"the {name}", "photo": f"{name}.png"}
        self.write()

    def write(self, **changes: Any) -> None:
        """Writes the catalogue and the configuration with `changes` to the captioner."""
        with (self.root / "items.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["item_id", "title", "photo"])
            writer.writeheader()
            writer.writerows(self.rows.values())
        fake = {"engine": "fake", "buckets": BUCKETS}
        config = {
            "data": {
                "catalog": "items.csv",
                "pictures": "pictures",
                "interactions": "clicks.csv",
                "catalog_columns": {"picture": "photo"},
            },
            "caption": {**fake, "prompt": "plain", "batch_size": 4, **changes},
            "features": {
                "titles": {"template": "{title}", "embed": fake},
                "all": {"template": "{title} {caption}", "embed": fake},
            },
            "retrievers": {"pop": {"model": "popularity"}},
        }
        (self.root / "clicks.csv").write_text("user_id,item_id\nu,item-1\n")
        (self.root / "shop.yaml").write_text(yaml.safe_dump(config))

    def extract(self, *arguments: str, store: str | None = "store") -> tuple[int, dict[str, Any]]:
        """Exit code and result of `catalograph extract --json`; what the engines saw is forgotten first."""
        self.captioned.clear()
        self.embedded.clear()
        chosen = [] if store is None else ["--store", str(self.root / store)]
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            command = ["extract", "-c", str(self.root / "shop.yaml"), "--json", *chosen, *arguments]
            code = main(command)
        return code, json.loads(out.getvalue() or "{}")

    def files(self, store: str = "store") -> dict[str, bytes]:
        """Every file of data below a store, by its relative name."""
        root = self.root / store
        return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("shards/*") if p.is_file()}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    made = Shop(tmp_path)
    caption, embed = FakeEngine.caption, FakeEngine.embed

    def watched_caption(self: FakeEngine, images: Any, prompts: Any) -> list[str]:
        made.captioned.extend(image.size for image in images)
        return caption(self, images, prompts)

    def watched_embed(self: FakeEngine, texts: Any) -> Any:
        made.embedded.extend(texts)
        return embed(self, texts)

    monkeypatch.setattr(FakeEngine, "caption", watched_caption)
    monkeypatch.setattr(FakeEngine, "embed", watched_embed)
    for number in range(40):
        made.put(f"item-{number}", (10 + number, 9))
    return made


def buckets_of(*names: str) -> set[int]:
    return {bucket_of(name, BUCKETS) for name in names}


def test_one_replaced_ten_added_ten_removed_exactly_those_reach_a_model(shop: Shop) -> None:
    code, result = shop.extract("--update")
    assert code == 0 and result["stages"]["caption"]["ok"] == 40
    before = shop.files()
    shop.put("item-30", (200, 9))
    for number in range(10):
        shop.put(f"new-{number}", (100 + number, 9))
        del shop.rows[f"item-{number}"]
    shop.write()
    code, result = shop.extract("--update")
    assert code == 0 and result["stages"]["caption"]["ok"] == 40
    assert sorted(shop.captioned) == sorted([(200, 9), *((100 + number, 9) for number in range(10))])
    # Ten new titles, ten new captions, and the replaced picture's caption; its title did not change.
    assert len(shop.embedded) == 21
    assert sum("item-30" in text for text in shop.embedded) == 1
    after = shop.files()
    fresh, _ = shop.extract("--update", store="fresh")
    assert fresh == 0 and after == shop.files("fresh")
    left = [f"item-{number}" for number in range(10)]
    touched = buckets_of("item-30", *left, *(f"new-{number}" for number in range(10)))
    for name in before:
        assert int(Path(name).name[:5]) in touched or before[name] == after[name]


def test_buckets_without_a_change_keep_their_bytes(shop: Shop) -> None:
    shop.extract("--update")
    before = shop.files()
    shop.put("item-30", (200, 9))
    _, result = shop.extract("--update")
    assert shop.captioned == [(200, 9)]
    changed = {name for name, data in shop.files().items() if data != before[name]}
    assert {int(Path(name).name[:5]) for name in changed} == buckets_of("item-30")
    assert {name.split("/")[0] for name in changed} == {"captions", "features"}
    assert result["stages"]["embed titles"]["reused"]
    assert result["stages"]["embed all"]["shards_computed"] == 1


def test_parts_in_one_store_or_merged_from_three_are_the_bytes_of_one_process(shop: Shop) -> None:
    shop.extract("--update", store="whole")
    for index in (1, 2, 3):
        assert shop.extract("--update", "--shard", f"{index}/3")[0] == 0
        assert shop.extract("--update", "--shard", f"{index}/3", store=f"part-{index}")[0] == 0
    assert shop.files() == shop.files("whole")
    merge = [part for index in (1, 2, 3) for part in ("--merge", str(shop.root / f"part-{index}"))]
    code, result = shop.extract("--update", *merge, store="merged")
    assert code == 0 and shop.captioned == shop.embedded == []
    assert all(row["reused"] for row in result["stages"].values())
    assert shop.files("merged") == shop.files("whole")


def test_a_folder_to_merge_that_holds_no_store_is_refused(shop: Shop, capsys: Any) -> None:
    code, _ = shop.extract("--update", "--merge", str(shop.root / "prat-1"), store="merged")
    assert code == 4 and "U409" in capsys.readouterr().err


def test_a_part_cannot_embed_what_no_part_here_captioned(shop: Shop, capsys: Any) -> None:
    shop.extract("--update", "--shard", "1/2", "--stage", "caption")
    code, _ = shop.extract("--update", "--stage", "embed")
    assert code == 5 and "D115" in capsys.readouterr().err
    shop.extract("--update", "--shard", "2/2", "--stage", "caption")
    assert shop.extract("--update", "--stage", "embed")[0] == 0


def hash_of(folder: Path) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["hash", "--run-dir", str(folder)]) == 0
    return out.getvalue()


def test_a_store_is_verified_and_hashed_through_the_command_line(shop: Shop, capsys: Any) -> None:
    hashes = []
    for store in ("store", "other"):
        shop.extract("--update", store=store)
        assert main(["hash", "--store", str(shop.root / store)]) == 0
        hashes.append(capsys.readouterr().out.splitlines()[-1])
        assert main(["verify", "--store", str(shop.root / store)]) == 0
    assert hashes[0] == hashes[1]
    capsys.readouterr()
    name = next(iter(shop.files()))
    (shop.root / "store" / name).write_bytes(b"junk")
    assert main(["verify", "--store", str(shop.root / "store")]) == 5
    assert "missing or damaged" in capsys.readouterr().out
    assert main(["verify", "--store", str(shop.root / "pictures")]) == 4
    assert main(["verify"]) == 2


def test_a_run_on_a_store_asks_no_model_again_and_ends_as_one_without(shop: Shop, tmp_path: Path) -> None:
    shop.extract("--run-dir", str(tmp_path / "alone"), store=None)
    assert shop.captioned and shop.embedded
    shop.extract("--update")
    code, result = shop.extract("--run-dir", str(tmp_path / "on-store"))
    assert code == 0 and shop.captioned == shop.embedded == []
    assert set(result["stages"]) == {"caption", "embed"}
    assert hash_of(tmp_path / "on-store") == hash_of(tmp_path / "alone")


def test_quarantined_items_are_tried_again_in_a_run_and_the_embeddings_follow(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = FakeEngine.caption

    def moody(self: FakeEngine, images: Any, prompts: Any) -> list[str]:
        if (13, 9) in [image.size for image in images]:
            raise RuntimeError("not today")
        return whole(self, images, prompts)

    folder = str(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(FakeEngine, "caption", moody)
        code, result = shop.extract("--run-dir", folder, store=None)
        assert code == 7 and result["stages"]["caption"]["quarantined"] == 1
    code, result = shop.extract("--run-dir", folder, store=None)
    assert code == 7 and shop.captioned == []
    code, result = shop.extract("--run-dir", folder, "--retry-bad", store=None)
    assert code == 0 and shop.captioned == [(13, 9)]
    assert len(shop.embedded) == 1 and "item-3" in shop.embedded[0]
    shop.extract("--run-dir", str(tmp_path / "clean"), store=None)
    assert hash_of(tmp_path / "run") == hash_of(tmp_path / "clean")


def test_other_settings_are_kept_beside_in_one_store(shop: Shop) -> None:
    shop.extract("--update")
    first = shop.files()
    shop.write(batch_size=5)
    shop.extract("--update")
    assert shop.files().items() >= first.items()
    shop.write()
    shop.extract("--update")
    assert shop.captioned == []


def test_a_second_update_imports_no_torch_and_loads_no_model(shop: Shop) -> None:
    code = (
        "import sys; from catalograph.cli import main; code = main(sys.argv[1:]);"
        "print('torch' in sys.modules); sys.exit(code)"
    )
    command = [sys.executable, "-c", code, "extract", "-c", str(shop.root / "shop.yaml"), "--update"]
    command += ["--store", str(shop.root / "store"), "--json", "--set", "threads=1"]
    packages = os.pathsep.join(path for path in sys.path if path)
    shop.extract("--update")
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": packages})
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False"


def test_a_store_is_one_process_or_its_parts_each_once(shop: Shop, capsys: Any) -> None:
    store = shop.root / "store"
    with hold(store, (0, 1)):
        assert shop.extract("--update")[0] == 10
        assert shop.extract("--update", "--shard", "1/2")[0] == 10
    with hold(store, (0, 2)):
        assert shop.extract("--update")[0] == 10
        assert shop.extract("--update", "--shard", "1/2")[0] == 10
        assert "R101" in capsys.readouterr().err
        assert shop.extract("--update", "--shard", "2/2")[0] == 0
    with pytest.raises(RunFolderError), hold(store, (0, 1)), hold(store, (0, 1)):
        pass


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--update"], "--store"),
        (["--shard", "1/2"], "--update"),
        (["--merge", "x"], "--update"),
        (["--ray", "2"], "--update"),
        (["--update", "--store", "s", "--shard", "1/2", "--ray", "2"], "leave --shard out"),
        (["--update", "--store", "s", "--shard", "0/2"], "1 <= I <= N"),
        (["--update", "--store", "s", "--shard", "half"], "1 <= I <= N"),
        (["--stage", "train"], "caption, embed"),
    ],
)
def test_flags_that_make_no_sense_are_usage_errors(
    shop: Shop, capsys: Any, arguments: list[str], what: str
) -> None:
    assert shop.extract(*arguments, store=None)[0] == 2
    assert what in capsys.readouterr().err


def test_without_ray_the_command_that_installs_it_is_named(
    shop: Shop, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert shop.extract("--update", "--ray", "2")[0] == 3
    assert 'pip install "catalograph[ray]"' in capsys.readouterr().err


def test_two_ray_workers_give_the_bytes_of_one_process(shop: Shop) -> None:
    # In a process of its own: Ray warns a lot, and here warnings are errors.
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is an extra and not installed")
    shop.extract("--update", store="whole")
    command = [sys.executable, "-m", "catalograph", "extract", "-c", str(shop.root / "shop.yaml")]
    command += ["--update", "--ray", "2", "--store", str(shop.root / "on-ray"), "--json"]
    packages = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": packages})
    assert done.returncode == 0, done.stderr
    stages = json.loads(done.stdout)["stages"]
    assert [(row["in"], row["ok"], row["shards_computed"]) for row in stages.values()] == [(40, 40, 8)] * 3
    assert shop.files("on-ray") == shop.files("whole")
    (shop.root / "pictures" / "item-3.png").write_bytes(b"junk")
    command += ["--set", "max_bad=0"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": packages})
    assert done.returncode == 8, done.stderr
    assert json.loads(done.stdout)["error"]["code"] == "D110"
