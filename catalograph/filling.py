"""Brings shard stores up to date with a catalogue: the captions', and each feature's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import pyarrow as pa
import pyarrow.compute as pc

from catalograph.feature_config import FeatureConfig
from catalograph.workplace import Workplace
from extract.answers import as_text
from extract.caption import caption_items, caption_parts
from extract.embed import Texts, embed_items, embed_parts
from extract.engines import (
    CaptionConfig,
    Captioner,
    EmbedConfig,
    Embedder,
    build_captioner,
    build_embedder,
    engine_fingerprint,
)
from extract.errors import InvalidData
from extract.models import find_model, pooling_of
from extract.on_demand import OnDemand
from extract.picture_engines import PictureEmbedConfig, PictureEmbedder, build_picture_embedder
from extract.picture_stage import embed_pictures, picture_embed_parts
from extract.prompts import Prompt, caption_prompt, render_text
from extract.stage import Progress, StageResult
from extract.store import ShardStore

PACKAGED = "demo:"
Settings = TypeVar("Settings", CaptionConfig, EmbedConfig, PictureEmbedConfig)


def model_folder(reference: str) -> str:
    """The folder of a model that ships with the demo, such as `demo:captioner`; other references as is."""
    if not reference.startswith(PACKAGED):
        return reference
    return str(Path(__file__).parent / "demo" / "weights" / reference.removeprefix(PACKAGED))


def resolved(work: Workplace, settings: Settings) -> Settings:
    """The settings with the run's device and a folder for a packaged model."""
    update = {"model": model_folder(settings.model)}
    if settings.device == "auto":
        update["device"] = work.config.device
    return settings.model_copy(update=update)


def caption_settings(work: Workplace) -> CaptionConfig:
    """How pictures are captioned here."""
    if work.config.caption is None:
        raise ValueError("this run has no captioner")
    return resolved(work, work.config.caption)


def prompt_of(settings: CaptionConfig) -> Prompt:
    """What the captioner is asked."""
    return caption_prompt(settings.prompt, item_text=settings.item_text, keys=settings.keys)


def captioner_of(work: Workplace) -> Captioner:
    """The captioner; its model is loaded when the first picture needs it."""
    settings = caption_settings(work)

    def build() -> Captioner:
        work.use_threads()
        return build_captioner(settings)

    return cast(Captioner, work.engine(settings, build))


def embedder_of(work: Workplace, settings: EmbedConfig) -> Embedder:
    """The embedder; its model is loaded when the first text needs it."""

    def build() -> Embedder:
        work.use_threads()
        return build_embedder(settings)

    return cast(Embedder, work.engine(settings, build))


def picture_embedder_of(work: Workplace, settings: PictureEmbedConfig) -> PictureEmbedder:
    """The embedder of pictures; its model is loaded when the first picture needs it."""

    def build() -> PictureEmbedder:
        work.use_threads()
        return build_picture_embedder(settings)

    return cast(PictureEmbedder, work.engine(settings, build))


def _caption_store_parts(work: Workplace, captioner: Captioner | OnDemand) -> dict[str, Any]:
    settings = caption_settings(work)
    prompt = prompt_of(settings)
    return caption_parts(
        captioner,
        prompt=prompt,
        batch_size=settings.batch_size,
        limits=settings.limits,
        visual_tokens=settings.visual_tokens,
    )


def captions_here(work: Workplace) -> ShardStore:
    """The store of the captions, as it is; whatever engine is in memory stays there."""
    settings = caption_settings(work)
    unloaded = OnDemand(engine_fingerprint(settings), lambda: build_captioner(settings))
    return work.shards("captions", _caption_store_parts(work, unloaded), settings.buckets)


def fill_captions(work: Workplace) -> tuple[ShardStore, StageResult]:
    """Captions every picture that has none yet."""
    settings, captioner, how = caption_settings(work), captioner_of(work), work.extraction
    parts = _caption_store_parts(work, captioner)
    store = work.shards("captions", parts, settings.buckets)
    with work.progress.task("caption", len(work.catalog)) as task:
        result = caption_items(
            work.catalog,
            captioner,
            store,
            prompt=prompt_of(settings),
            batch_size=settings.batch_size,
            limits=settings.limits,
            visual_tokens=settings.visual_tokens,
            max_bad=work.config.max_bad,
            retry_bad=how.retry_bad,
            rehash=how.rehash,
            part=how.part,
            sources=work.sources("captions", parts, settings.buckets),
            decoders=settings.decoders,
            progress=task.reach,
        )
    return store, result


def fill_feature(
    work: Workplace, name: str, captions: pa.Table | None, *, complete: bool = False
) -> tuple[ShardStore, StageResult]:
    """Embeds every text or picture of one feature that has no vector yet.

    Args:
        work: settings, catalogue and place.
        name: of the feature, which is not made of ready vectors.
        captions: columns item_id and caption; None where captions are off.
        complete: an item without a row among the captions is an error, not an item without a picture.
    """
    feature = work.config.features[name]
    texts = _texts(work, feature.template, captions if feature.reads_captions else None, complete=complete)
    with work.progress.task(f"embed {name}", len(work.catalog)) as task:
        if feature.pictures is not None:
            settings = resolved(work, feature.pictures)
            return _fill_from_pictures(
                work, name, settings, texts if feature.reads_text else None, task.reach
            )
        return _fill_from_texts(work, name, resolved(work, texts_of(feature)), texts, task.reach)


def engine_of(work: Workplace, feature: FeatureConfig) -> tuple[Embedder | PictureEmbedder, int]:
    """What makes a feature's vectors, and over how many buckets they are spread."""
    if feature.pictures is not None:
        return picture_embedder_of(work, resolved(work, feature.pictures)), feature.pictures.buckets
    settings = resolved(work, texts_of(feature))
    return embedder_of(work, settings), settings.buckets


def texts_of(feature: FeatureConfig) -> EmbedConfig:
    """The embedder's settings of a feature that is made from texts."""
    if feature.embed is None:
        raise ValueError("this feature is not made from texts")
    return feature.embed


def text_pooling(settings: EmbedConfig) -> str:
    """How the embedder makes one vector of a text, read from the model's files; the model is not loaded."""
    if settings.engine == "fake":
        return ""
    return pooling_of(find_model(settings.model, settings.revision))


def _fill_from_texts(
    work: Workplace, name: str, settings: EmbedConfig, texts: Texts, progress: Progress
) -> tuple[ShardStore, StageResult]:
    embedder, how = embedder_of(work, settings), work.extraction
    parts = embed_parts(embedder, token_budget=settings.token_budget)
    store = work.shards(f"features/{name}", parts, settings.buckets)
    result = embed_items(
        work.catalog.id_column,
        texts,
        embedder,
        store,
        token_budget=settings.token_budget,
        max_bad=work.config.max_bad,
        retry_bad=how.retry_bad,
        part=how.part,
        sources=work.sources(f"features/{name}", parts, settings.buckets),
        progress=progress,
    )
    return store, result


def _fill_from_pictures(
    work: Workplace, name: str, settings: PictureEmbedConfig, texts: Texts | None, progress: Progress
) -> tuple[ShardStore, StageResult]:
    embedder, how = picture_embedder_of(work, settings), work.extraction
    parts = picture_embed_parts(embedder, batch_size=settings.batch_size, limits=settings.limits)
    store = work.shards(f"features/{name}", parts, settings.buckets)
    result = embed_pictures(
        work.catalog,
        texts,
        embedder,
        store,
        batch_size=settings.batch_size,
        limits=settings.limits,
        max_bad=work.config.max_bad,
        retry_bad=how.retry_bad,
        rehash=how.rehash,
        part=how.part,
        sources=work.sources(f"features/{name}", parts, settings.buckets),
        decoders=settings.decoders,
        progress=progress,
    )
    return store, result


def _texts(work: Workplace, template: str, captions: pa.Table | None, *, complete: bool) -> Texts:
    """Texts of the items at some rows; only those are ever Python objects."""
    catalog = work.catalog
    if captions is None:
        return lambda rows: [render_text(template, item) for item in catalog.take(rows)]
    prompt, written = prompt_of(caption_settings(work)), captions["caption"].combine_chunks()
    places = pc.index_in(catalog.id_column, value_set=captions["item_id"].combine_chunks()).combine_chunks()

    def texts(rows: Sequence[int]) -> list[str | None]:
        found = places.take(pa.array(rows, pa.int64()))
        items = catalog.take(rows)
        if complete and found.null_count:
            lacking = [item.item_id for item, place in zip(items, found) if not place.is_valid]
            raise InvalidData(
                "D115",
                f"{len(lacking)} items have not been captioned in this store yet",
                where=f"first: {', '.join(lacking[:5])}",
                why="the buckets of captions and features differ, or the captions were made elsewhere",
                next_step="extract --stage caption for all parts, merge them, then extract --stage embed",
            )
        lines = written.take(found).to_pylist()
        read = [None if line is None else as_text(prompt, line) for line in lines]
        return [render_text(template, item, line) for item, line in zip(items, read)]

    return texts
