"""The caption stage, and what both extraction stages share; vectors are made in `catalograph.embedding`."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from catalograph.road import Counts, Road
from extract.caption import caption_items, caption_store, captions_of
from extract.engines import CaptionConfig, EmbedConfig, build_captioner, engine_fingerprint
from extract.features import FeatureTable
from extract.picture_engines import PictureEmbedConfig
from extract.prompts import caption_prompt
from extract.stage import StageResult
from extract.store import BadRow, quarantine_of, write_atomic

PACKAGED = "demo:"
Settings = TypeVar("Settings", CaptionConfig, EmbedConfig, PictureEmbedConfig)


def model_folder(reference: str) -> str:
    """The folder of a model that ships with the demo, such as `demo:captioner`; other references as is."""
    if not reference.startswith(PACKAGED):
        return reference
    return str(Path(__file__).parent / "demo" / "weights" / reference.removeprefix(PACKAGED))


def caption_parts(road: Road) -> dict[str, Any]:
    """What the captions are made from."""
    settings = _caption_settings(road)
    pictures = road.config.data.pictures_path
    return {
        "catalog": road.catalog_parts(),
        "pictures": None if pictures is None else road.run.input_hash(pictures),
        "engine": engine_fingerprint(settings),
        "prompt": caption_prompt(settings.prompt).as_part(),
        "batch_size": settings.batch_size,
        "limits": settings.limits.model_dump(),
        "buckets": settings.buckets,
    }


def caption(road: Road) -> Counts:
    """Writes `captions.parquet` and `quarantine.parquet`; the shards below `store/` survive a kill."""
    road.use_threads()
    settings = _caption_settings(road)
    captioner, prompt = build_captioner(settings), caption_prompt(settings.prompt)
    folder = road.path("caption", "store/none").parent
    store = caption_store(
        folder,
        captioner,
        prompt=prompt,
        batch_size=settings.batch_size,
        buckets=settings.buckets,
        limits=settings.limits,
    )
    with road.progress.task("caption", len(road.catalog)) as task:
        result = caption_items(
            road.catalog, captioner, store, prompt=prompt, batch_size=settings.batch_size,
            limits=settings.limits, max_bad=road.config.max_bad, progress=task.reach,
        )  # fmt: skip
    written = captions_of(store)
    _write_table(
        road.path("caption", "captions.parquet"),
        {"item_id": list(written), "caption": list(written.values())},
    )
    write_quarantine(road.path("caption", "quarantine.parquet"), quarantine_of(store))
    return _counts(result, ("captions.parquet", "quarantine.parquet"))


def captions(road: Road) -> dict[str, str]:
    """Item id to caption; empty where captions are off."""
    if road.config.caption is None:
        return {}
    table = pq.read_table(road.path("caption", "captions.parquet"))
    return dict(zip(table["item_id"].to_pylist(), table["caption"].to_pylist(), strict=True))


def feature_tables(road: Road) -> dict[str, FeatureTable]:
    """The features by name."""
    return {
        name: FeatureTable.load(road.path("embed", f"{name}.safetensors")) for name in road.config.features
    }


def quarantined(road: Road) -> list[dict[str, str]]:
    """Rows item_id, stage, reason, detail of both extraction stages."""
    rows: list[dict[str, str]] = []
    for stage in ("caption", "embed"):
        if road.is_done(stage):
            rows += pq.read_table(road.path(stage, "quarantine.parquet")).to_pylist()
    return rows


def _caption_settings(road: Road) -> CaptionConfig:
    if road.config.caption is None:
        raise ValueError("this run has no captioner")
    return resolved(road, road.config.caption)


def resolved(road: Road, settings: Settings) -> Settings:
    """The settings with the run's device and a folder for a packaged model."""
    update = {"model": model_folder(settings.model)}
    if settings.device == "auto":
        update["device"] = road.config.device
    return settings.model_copy(update=update)


def _counts(result: StageResult, outputs: tuple[str, ...]) -> Counts:
    return Counts(result.n_in, result.n_ok, result.n_quarantined, result.n_absent, outputs)


def write_quarantine(path: Path, rows: list[BadRow]) -> None:
    """Writes rows item_id, stage, reason, detail as Parquet, sorted."""
    names = ("item_id", "stage", "reason", "detail")
    ordered = sorted(rows, key=lambda row: (row.stage, row.item_id))
    _write_table(path, {name: [str(getattr(row, name)) for row in ordered] for name in names})


def _write_table(path: Path, columns: Mapping[str, list[str]]) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}), sink)
    write_atomic(path, sink.getvalue())
