"""Batch feature extraction: a catalogue's pictures and texts into captions and vectors, by id, resumable.

This module imports neither torch nor transformers; engines that need them live in their own modules.
"""

from extract.caption import caption_items, caption_parts, caption_store
from extract.caption_shards import caption_rows, caption_table, captions_of, save_captions
from extract.cards import feature_card, read_card
from extract.embed import embed_items, embed_parts, embed_store, embed_texts, embedded_table, save_embedded
from extract.engines import (
    CaptionConfig,
    Captioner,
    EmbedConfig,
    Embedder,
    build_captioner,
    build_embedder,
    engine_fingerprint,
)
from extract.errors import (
    CatalographError,
    ConfigError,
    InvalidData,
    MissingPrerequisite,
    ResourceExhausted,
    RunFolderError,
    TooManyBadInputs,
    TrainingDiverged,
    UnsafeInput,
)
from extract.export import export_features
from extract.fake_engine import FakeEngine
from extract.features import FeatureTable, Provenance
from extract.items import Catalog, CatalogColumns, Item, read_catalog
from extract.picture_engines import (
    FakePictureEngine,
    PictureEmbedConfig,
    PictureEmbedder,
    build_picture_embedder,
    picture_engine_fingerprint,
)
from extract.picture_stage import embed_pictures, picture_embed_parts, picture_embed_store
from extract.pictures import BadPicture, PictureLimits, PictureSource, decode_picture
from extract.prompts import CAPTION_PROMPTS, Prompt, caption_prompt, render_text
from extract.stage import StageResult
from extract.store import (
    BadRow,
    ShardStore,
    bucket_of,
    content_hash,
    fingerprint,
    hash_file,
    quarantine_of,
    write_atomic,
)
from extract.vectors import ImportedVectors, VectorsConfig, import_vectors

__all__ = [
    "CAPTION_PROMPTS",
    "BadPicture",
    "BadRow",
    "CaptionConfig",
    "Captioner",
    "Catalog",
    "CatalogColumns",
    "CatalographError",
    "ConfigError",
    "EmbedConfig",
    "Embedder",
    "FakeEngine",
    "FakePictureEngine",
    "FeatureTable",
    "ImportedVectors",
    "InvalidData",
    "Item",
    "MissingPrerequisite",
    "PictureEmbedConfig",
    "PictureEmbedder",
    "PictureLimits",
    "PictureSource",
    "Prompt",
    "Provenance",
    "ResourceExhausted",
    "RunFolderError",
    "ShardStore",
    "StageResult",
    "TooManyBadInputs",
    "TrainingDiverged",
    "UnsafeInput",
    "VectorsConfig",
    "bucket_of",
    "build_captioner",
    "build_embedder",
    "build_picture_embedder",
    "caption_items",
    "caption_parts",
    "caption_prompt",
    "caption_rows",
    "caption_store",
    "caption_table",
    "captions_of",
    "content_hash",
    "decode_picture",
    "embed_items",
    "embed_parts",
    "embed_pictures",
    "embed_store",
    "embed_texts",
    "embedded_table",
    "engine_fingerprint",
    "export_features",
    "feature_card",
    "fingerprint",
    "hash_file",
    "import_vectors",
    "picture_embed_parts",
    "picture_embed_store",
    "picture_engine_fingerprint",
    "quarantine_of",
    "read_card",
    "read_catalog",
    "render_text",
    "save_captions",
    "save_embedded",
    "write_atomic",
]
