"""The caption stage, and what both extraction stages share; vectors are made in `catalograph.embedding`."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from catalograph.filling import caption_settings, fill_captions, prompt_of
from catalograph.road import Counts, Finished, Road
from extract.answers import as_text
from extract.caption_shards import save_captions
from extract.engines import engine_fingerprint
from extract.features import FeatureTable
from extract.stage import StageResult
from extract.store import BadRow, quarantine_of, write_atomic


def caption_parts(road: Road) -> dict[str, Any]:
    """What the captions are made from."""
    settings = caption_settings(road)
    pictures = road.config.data.pictures_path
    return {
        "catalog": road.catalog_parts(),
        "pictures": None if pictures is None else road.run.input_hash(pictures),
        "engine": engine_fingerprint(settings),
        "prompt": prompt_of(settings).as_part(),
        "batch_size": settings.batch_size,
        "limits": settings.limits.model_dump(),
        "buckets": settings.buckets,
        **({} if settings.visual_tokens is None else {"visual_tokens": settings.visual_tokens}),
    }


def caption(road: Road) -> Counts:
    """Writes `captions.parquet` and `quarantine.parquet`; the shards below `store/` survive a kill."""
    store, result = fill_captions(road)
    save_captions(store, road.path("caption", "captions.parquet"))
    write_quarantine(road.path("caption", "quarantine.parquet"), quarantine_of(store))
    return _counts(result, ("captions.parquet", "quarantine.parquet"))


def captions(road: Road) -> dict[str, str]:
    """Item id to caption as text; empty where captions are off."""
    if road.config.caption is None:
        return {}
    prompt = prompt_of(road.config.caption)
    rows = pq.read_table(road.path("caption", "captions.parquet")).to_pylist()
    return {row["item_id"]: as_text(prompt, row["caption"]) for row in rows}


def feature_tables(road: Finished) -> dict[str, FeatureTable]:
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
