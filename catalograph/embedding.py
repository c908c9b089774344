"""The embed stage: every named modality into one feature file, from texts, from pictures or ready-made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catalograph.config import FeatureConfig
from catalograph.extraction import captions, resolved, write_quarantine
from catalograph.road import Counts, Road
from extract.cards import feature_card
from extract.embed import embed_items, embed_store, embedded_table
from extract.engines import EmbedConfig, build_embedder, engine_fingerprint
from extract.errors import TooManyBadInputs
from extract.features import FeatureTable
from extract.picture_engines import PictureEmbedConfig, build_picture_embedder, picture_engine_fingerprint
from extract.picture_stage import embed_pictures, picture_embed_store
from extract.prompts import render_text
from extract.stage import StageResult
from extract.store import BadRow, ShardStore, quarantine_of, write_atomic
from extract.vectors import VectorsConfig, import_vectors


@dataclass(frozen=True, slots=True)
class Made:
    """One feature: its table, the items that failed, and n_in = n_ok + len(bad)."""

    table: FeatureTable
    bad: Sequence[BadRow]
    n_in: int
    n_absent: int

    @classmethod
    def of(cls, store: ShardStore, result: StageResult, pooling: str = "") -> Made:
        """What a store holds after a stage brought it up to date."""
        table = embedded_table(store, pooling=pooling)
        return cls(table, quarantine_of(store), result.n_in, result.n_absent)


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
    settings = _texts_of(feature)
    return {
        "template": feature.template,
        "engine": engine_fingerprint(resolved(road, settings)),
        "token_budget": settings.token_budget,
        "buckets": settings.buckets,
    }


def embed(road: Road) -> Counts:
    """Writes `NAME.safetensors` and its card `NAME.md` for each feature, and `quarantine.parquet`."""
    road.use_threads()
    made = {name: _make(road, name, feature) for name, feature in road.config.features.items()}
    for name, feature in made.items():
        feature.table.save(road.path("embed", f"{name}.safetensors"))
        facts = {**road.config.features[name].card_facts(), "quarantined": len(feature.bad)}
        card = feature_card(name, feature.table, facts)
        write_atomic(road.path("embed", f"{name}.md"), card.encode())
    bad = [row for feature in made.values() for row in feature.bad]
    write_quarantine(road.path("embed", "quarantine.parquet"), bad)
    n_in = sum(feature.n_in for feature in made.values())
    n_absent = sum(feature.n_absent for feature in made.values())
    outputs = (*(f"{name}.{kind}" for name in made for kind in ("safetensors", "md")), "quarantine.parquet")
    return Counts(n_in, n_in - len(bad), len(bad), n_absent, outputs)


def _make(road: Road, name: str, feature: FeatureConfig) -> Made:
    if feature.vectors is not None:
        return _import(road, name, feature.vectors)
    texts = _rendered(road, feature)
    folder = road.path("embed", f"store/{name}/none").parent
    if feature.pictures is not None:
        return _from_pictures(road, name, resolved(road, feature.pictures), texts, folder)
    return _from_texts(road, name, resolved(road, _texts_of(feature)), texts, folder)


def _from_texts(
    road: Road, name: str, settings: EmbedConfig, texts: Sequence[str | None], folder: Path
) -> Made:
    embedder = build_embedder(settings)
    budget = settings.token_budget
    store = embed_store(folder, embedder, buckets=settings.buckets, token_budget=budget)
    with road.progress.task(f"embed {name}", len(texts)) as task:
        result = embed_items(
            road.catalog.ids,
            texts,
            embedder,
            store,
            token_budget=budget,
            max_bad=road.config.max_bad,
            progress=task.reach,
        )
    return Made.of(store, result, getattr(embedder, "pooling", ""))


def _from_pictures(
    road: Road, name: str, settings: PictureEmbedConfig, texts: Sequence[str | None], folder: Path
) -> Made:
    embedder = build_picture_embedder(settings)
    batch, limits = settings.batch_size, settings.limits
    store = picture_embed_store(
        folder, embedder, batch_size=batch, buckets=settings.buckets, limits=limits
    )  # fmt: skip
    with road.progress.task(f"embed {name}", len(texts)) as task:
        result = embed_pictures(
            road.catalog,
            texts,
            embedder,
            store,
            batch_size=batch,
            limits=limits,
            max_bad=road.config.max_bad,
            progress=task.reach,
        )
    return Made.of(store, result)


def _import(road: Road, name: str, settings: VectorsConfig) -> Made:
    ids = road.catalog.ids
    found = import_vectors(ids, settings, road.config.data.root or Path())
    limit = road.config.max_bad
    if len(found.bad) > (max(1, int(limit * len(ids))) if limit > 0 else 0):
        raise TooManyBadInputs(
            "D110",
            f"{len(found.bad)} of {len(ids):,} imported vectors cannot be used; the limit is {limit:.1%}",
            where=f"features.{name}.vectors (first: {', '.join(row.item_id for row in found.bad[:20])})",
            why=found.bad[0].detail,
            next_step="mend the file, or raise `max_bad`",
        )
    n_absent = len(ids) - int(found.table.present.sum()) - len(found.bad)
    return Made(found.table, found.bad, len(ids), n_absent)


def _rendered(road: Road, feature: FeatureConfig) -> list[str | None]:
    if not feature.reads_text:
        return [None] * len(road.catalog)
    written = captions(road)
    return [render_text(feature.template, item, written.get(item.item_id)) for item in road.catalog]


def _texts_of(feature: FeatureConfig) -> EmbedConfig:
    if feature.embed is None:
        raise ValueError("this feature is not made from texts")
    return feature.embed
