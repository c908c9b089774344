"""The embed stage: every named modality into one feature file, from texts, from pictures or ready-made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from catalograph.extraction import write_quarantine
from catalograph.feature_config import FeatureConfig
from catalograph.filling import fill_feature, resolved, text_pooling, texts_of
from catalograph.road import Counts, Road
from extract.cards import feature_card
from extract.embed import save_embedded
from extract.engines import engine_fingerprint
from extract.errors import TooManyBadInputs
from extract.features import FeatureTable
from extract.picture_engines import picture_engine_fingerprint
from extract.stage import allowed_bad
from extract.store import BadRow, quarantine_of, write_atomic
from extract.vectors import VectorsConfig, import_vectors


def embed_parts(road: Road) -> dict[str, Any]:
    """What the features are made from."""
    return {
        "catalog": road.catalog_parts(),
        "caption": road.hash_of("caption"),
        "features": {name: _parts(road, feature) for name, feature in road.config.features.items()},
    }


def _parts(road: Road, feature: FeatureConfig) -> dict[str, Any]:
    if feature.vectors is not None:
        folder = road.config.data.root or Path()
        files = [road.run.input_hash(folder / name) for name in feature.vectors.files()]
        return {"files": files, "vectors": feature.vectors.model_dump(mode="json")}
    if feature.pictures is not None:
        pictures = road.config.data.pictures_path
        return {
            "template": feature.template if feature.reads_text else None,
            "pictures": None if pictures is None else road.run.input_hash(pictures),
            "engine": picture_engine_fingerprint(resolved(road, feature.pictures)),
            "batch_size": feature.pictures.batch_size,
            "limits": feature.pictures.limits.model_dump(),
            "buckets": feature.pictures.buckets,
        }
    settings = texts_of(feature)
    return {
        "template": feature.template,
        "engine": engine_fingerprint(resolved(road, settings)),
        "token_budget": settings.token_budget,
        "buckets": settings.buckets,
    }


def embed(road: Road) -> Counts:
    """Writes `NAME.safetensors` and its card `NAME.md` for each feature, and `quarantine.parquet`."""
    off = road.config.caption is None
    captions = None if off else pq.read_table(road.path("caption", "captions.parquet"))
    counts, bad = Counts(0, 0, 0, 0, ()), list[BadRow]()
    for name, feature in road.config.features.items():
        file = road.path("embed", f"{name}.safetensors")
        if feature.vectors is not None:
            n_absent, failed = _import(road, name, feature.vectors, file)
        else:
            store, result = fill_feature(road, name, captions)
            pooling = "" if feature.embed is None else text_pooling(resolved(road, feature.embed))
            save_embedded(store, file, pooling=pooling)
            n_absent, failed = result.n_absent, quarantine_of(store)
        card = feature_card(
            name, FeatureTable.load(file), {**feature.card_facts(), "quarantined": len(failed)}
        )
        write_atomic(road.path("embed", f"{name}.md"), card.encode())
        bad += failed
        counts = Counts(
            counts.n_in + len(road.catalog),
            counts.n_ok + len(road.catalog) - len(failed),
            counts.n_quarantined + len(failed),
            counts.n_absent + n_absent,
            (*counts.outputs, file.name, f"{name}.md"),
        )
    write_quarantine(road.path("embed", "quarantine.parquet"), bad)
    return replace(counts, outputs=(*counts.outputs, "quarantine.parquet"))


def _import(road: Road, name: str, settings: VectorsConfig, file: Path) -> tuple[int, Sequence[BadRow]]:
    """Writes the feature file; how many items have no vector, and those whose vector cannot be used."""
    ids = road.catalog.ids
    found = import_vectors(ids, settings, road.config.data.root or Path())
    limit = road.config.max_bad
    if len(found.bad) > allowed_bad(len(ids), limit):
        raise TooManyBadInputs(
            "D110",
            f"{len(found.bad)} of {len(ids):,} imported vectors cannot be used; the limit is {limit:.1%}",
            where=f"features.{name}.vectors (first: {', '.join(row.item_id for row in found.bad[:20])})",
            why=found.bad[0].detail,
            next_step="mend the file, or raise `max_bad`",
        )
    found.table.save(file)
    return len(ids) - int(found.table.present.sum()) - len(found.bad), found.bad
