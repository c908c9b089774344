"""`catalograph estimate`: a sample of whole buckets, scaled up."""

from __future__ import annotations

import contextlib
import io
import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from PIL import Image

from catalograph import filling
from catalograph.cli import main
from catalograph.estimating import _by_bucket
from extract.fake_engine import FakeEngine
from extract.store import bucket_of

ITEMS, EACH = 400, 0.004


class Clock:
    """Time that passes only when the engines say so: what is measured is exact on any machine."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Path:
    (tmp_path / "pictures").mkdir()
    lines = ["item_id,title,photo"]
    for number in range(ITEMS):
        shade = (number % 256, number // 256, 7)
        Image.new("RGB", (8, 8), shade).save(tmp_path / "pictures" / f"{number}.png")
        lines.append(f"item-{number},title {number},{number}.png")
    (tmp_path / "pictures" / "3.png").write_bytes(b"junk")
    (tmp_path / "items.csv").write_text("\n".join(lines))
    (tmp_path / "clicks.csv").write_text("user_id,item_id\nu,item-1\n")
    fake = {"engine": "fake", "buckets": 20}
    config = {
        "data": {
            "catalog": "items.csv",
            "pictures": "pictures",
            "interactions": "clicks.csv",
            "catalog_columns": {"picture": "photo"},
        },
        "caption": {**fake, "prompt": "plain", "batch_size": 4, "decoders": 0},
        "features": {
            "titles": {"template": "{title}", "embed": fake},
            "captions": {"template": "{caption}", "embed": fake},
        },
        "retrievers": {"pop": {"model": "popularity"}},
    }
    (tmp_path / "shop.yaml").write_text(yaml.safe_dump(config))
    caption = FakeEngine.caption

    def slow(self: FakeEngine, images: Any, prompts: Any) -> list[str]:
        clock.passes(EACH * len(images))
        return caption(self, images, prompts)

    monkeypatch.setattr(FakeEngine, "caption", slow)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def estimate(*arguments: str) -> dict[str, Any]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["estimate", "-c", "shop.yaml", "--json", *arguments]) == 0
    return dict(json.loads(out.getvalue()))


def test_the_rate_is_that_of_the_engine_and_the_whole_is_scaled_from_it(shop: Path) -> None:
    before = sorted(shop.rglob("*"))
    found = estimate("--seconds", "0.4", "--price", "3600")
    stage = found["stages"]["caption"]
    # 0.4 seconds at 0.004 each; the picture that is junk takes none.
    assert stage["sampled"] in (100, 101) and stage["items"] == ITEMS
    assert 1 / EACH <= stage["items_per_second"] <= 1 / EACH / 0.99
    assert stage["load_seconds"] == 0
    assert stage["seconds"] == pytest.approx(ITEMS / stage["items_per_second"], abs=0.051)
    assert found["stages"]["embed captions"]["sampled"] <= stage["sampled"]
    # Vectors take no time on this clock; at 3,600 an hour a second costs 1.
    assert found["seconds"] == stage["seconds"]
    assert found["cost"] == pytest.approx(found["seconds"], abs=0.051)
    assert found["memory_bytes"] > 2**20 and found["accelerator_bytes"] == 0
    assert sorted(shop.rglob("*")) == before


def test_an_embedder_that_two_features_share_is_loaded_and_its_time_counted_once(
    shop: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = filling.build_embedder

    def slow(settings: Any) -> Any:
        clock.passes(0.5)
        return build(settings)

    monkeypatch.setattr(filling, "build_embedder", slow)
    stages = estimate("--seconds", "0.2")["stages"]
    assert sorted(stages[f"embed {name}"]["load_seconds"] for name in ("titles", "captions")) == [0, 0.5]


def test_the_disk_is_what_a_run_then_takes(shop: Path) -> None:
    found = estimate("--seconds", "5")
    main(["extract", "-c", "shop.yaml", "--run-dir", "run", "--json"])
    stages = [path for path in (shop / "run" / "stages").rglob("*") if path.is_file()]
    taken = sum(path.stat().st_size for path in stages if path.suffix in {".parquet", ".safetensors"})
    assert 0.8 < taken / found["disk_bytes"] < 1.2


def test_a_sample_is_made_of_whole_buckets_and_of_captioned_items(shop: Path) -> None:
    ids = pa.chunked_array([[f"item-{number}" for number in range(50)]])
    rows = _by_bucket(ids, 5, None)
    assert sorted(rows) == list(range(50))
    buckets = [bucket_of(ids[row].as_py(), 5) for row in rows.tolist()]
    assert buckets == sorted(buckets)
    among = pa.chunked_array([["item-7", "item-9"]])
    assert sorted(_by_bucket(ids, 5, among)) == [7, 9]


def test_people_get_a_table_and_the_totals(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "-c", "shop.yaml", "--seconds", "0.2", "--price", "2"]) == 0
    text = capsys.readouterr().out
    assert "embed titles" in text and "hours" in text and "cost 0.00" in text


def test_an_empty_catalogue_has_nothing_to_estimate(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shop / "items.csv").write_text("item_id,title,photo\n")
    assert main(["estimate", "-c", str(shop / "shop.yaml")]) == 5
    assert "D118" in capsys.readouterr().err
