"""Brings shard stores up to date with a catalogue: the captions', and each feature's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import pyarrow as pa
import pyarrow.compute as pc

from catalograph.workplace import Workplace
from extract.answers import as_text
from extract.caption import caption_items, caption_parts
from extract.embed import embed_items, embed_parts
from extract.engines import (
    CaptionConfig,
    Captioner,
    EmbedConfig,
    Embedder,
    build_captioner,
    build_embedder,
)
from extract.errors import InvalidData
from extract.prompts import Prompt, caption_prompt, render_text
from extract.stage import StageResult
from extract.store import ShardStore

PACKAGED = "demo:"
Settings = TypeVar("Settings", CaptionConfig, EmbedConfig)


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


def _caption_store_parts(work: Workplace, captioner: Captioner) -> dict[str, Any]:
    settings = caption_settings(work)
    prompt = prompt_of(settings)
    return caption_parts(captioner, prompt=prompt, batch_size=settings.batch_size, limits=settings.limits)


def captions_here(work: Workplace) -> ShardStore:
    """The store of the captions, as it is."""
    parts = _caption_store_parts(work, captioner_of(work))
    return work.shards("captions", parts, caption_settings(work).buckets)


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
            max_bad=work.config.max_bad,
            retry_bad=how.retry_bad,
            rehash=how.rehash,
            part=how.part,
            sources=work.sources("captions", parts, settings.buckets),
            progress=task.reach,
        )
    return store, result


def fill_feature(
    work: Workplace, name: str, captions: pa.Table | None, *, complete: bool = False
) -> tuple[ShardStore, StageResult]:
    """Embeds every text of one feature that has no vector yet.

    Args:
        work: settings, catalogue and place.
        name: of the feature.
        captions: columns item_id and caption; None where captions are off.
        complete: an item without a row among the captions is an error, not an item without a picture.
    """
    feature, how = work.config.features[name], work.extraction
    settings = resolved(work, feature.embed)
    embedder = embedder_of(work, settings)
    parts = embed_parts(embedder, token_budget=settings.token_budget)
    store = work.shards(f"features/{name}", parts, settings.buckets)
    with work.progress.task(f"embed {name}", len(work.catalog)) as task:
        result = embed_items(
            work.catalog.id_column,
            _texts(work, feature.template, captions, complete=complete),
            embedder,
            store,
            token_budget=settings.token_budget,
            max_bad=work.config.max_bad,
            retry_bad=how.retry_bad,
            part=how.part,
            sources=work.sources(f"features/{name}", parts, settings.buckets),
            progress=task.reach,
        )
    return store, result


def _texts(
    work: Workplace, template: str, captions: pa.Table | None, *, complete: bool
) -> Callable[[Sequence[int]], list[str | None]]:
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
