"""What turns pictures into vectors: the protocol, its settings, and the engines by name.

Imports neither torch nor transformers; an engine's own module is imported when it is built.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from extract.engines import Dtype, image_backend, kernels
from extract.fake_engine import FakeEngine
from extract.faults import not_installed
from extract.models import ModelFiles, find_model
from extract.pictures import PictureLimits


class PictureEmbedder(Protocol):
    """Pictures, or pictures with a text each, in; vectors out."""

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """Everything about the engine that decides its output."""
        ...

    @property
    def dimension(self) -> int:
        """D, the width of a vector."""
        ...

    def embed_pictures(self, images: Sequence[Image.Image], texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors float32 [N, D] of one batch of RGB pictures, in order; a text may be empty."""
        ...


class PictureEmbedConfig(BaseModel):
    """How pictures are embedded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: Literal["transformers", "sentence-transformers", "fake"] = "transformers"
    """A picture encoder such as CLIP, SigLIP or DINOv2; a multimodal embedder; or hashes of pixels."""
    model: str = ""
    """A folder or a hub repository."""
    revision: str | None = None
    """Commit of the hub repository; a branch name may move under you."""
    with_text: bool = False
    """Embed the feature's text together with the picture; "sentence-transformers" only."""
    prompt: str = ""
    """Text put before every input; "sentence-transformers" only."""
    pooling: Literal["auto", "cls", "mean"] = "auto"
    """"auto" is the encoder's own vector; else the first or the mean of its last states. Encoders only."""
    normalize: bool = False
    """Scale vectors to length 1."""
    truncate_dim: int | None = Field(default=None, ge=1)
    """Keep only the first dimensions, for models trained for it."""
    batch_size: int = Field(default=16, ge=1)
    """Pictures per batch."""
    dtype: Dtype = "float32"
    """Weights' type; "auto" is the checkpoint's own."""
    device: str = "auto"
    """Torch device; "auto" is cuda where there is one, else cpu."""
    limits: PictureLimits = PictureLimits()
    """How large a picture may be."""
    decoders: int | None = Field(default=None, ge=0)
    """Processes that decode pictures, within limits; null: one per core, at most 8; 0: the run's own."""
    buckets: int = Field(default=64, ge=1)
    """Shards the items are spread over; a kill loses at most one, a new item touches one."""

    @model_validator(mode="after")
    def _keys_belong_to_the_engine(self) -> PictureEmbedConfig:
        if self.engine == "transformers" and (self.with_text or self.prompt):
            raise ValueError("a picture encoder takes no text: `with_text` and `prompt` are for the engine "
                             "sentence-transformers")  # fmt: skip
        if self.engine == "sentence-transformers" and self.pooling != "auto":
            raise ValueError("`pooling` is for picture encoders; a sentence-transformers model has its own")
        return self


def picture_engine_fingerprint(config: PictureEmbedConfig, model: ModelFiles | None = None) -> dict[str, str]:
    """Everything about an engine that decides its output, without loading the model or torch."""
    if config.engine == "fake":
        return dict(FakePictureEngine(config).fingerprint)
    model = model or find_model(config.model, config.revision)
    parts = {"engine": config.engine, "model": model.identity, "image_backend": image_backend()}
    names = ("dtype", "pooling", "prompt", "with_text", "normalize", "truncate_dim")
    return parts | kernels(config.dtype) | {name: str(getattr(config, name)) for name in names}


class FakePictureEngine:
    """Vectors from hashes of pixels and text: no model, no torch, the same on every machine."""

    dimension = 32

    def __init__(self, config: PictureEmbedConfig) -> None:
        self._with_text = config.with_text

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """Name, version and whether texts count."""
        return {"engine": "fake-pictures", "version": "1", "with_text": str(self._with_text)}

    def embed_pictures(self, images: Sequence[Image.Image], texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors float32 [N, D]."""
        words = [
            hashlib.sha256(image.tobytes() + repr(image.size).encode()).hexdigest()
            + (f" {text}" if self._with_text else "")
            for image, text in zip(images, texts, strict=True)
        ]
        return FakeEngine(self.dimension).embed(words)


def _encoder(config: PictureEmbedConfig) -> PictureEmbedder:
    from extract.picture_encoder import PictureEncoder

    return PictureEncoder(config)


def _multimodal(config: PictureEmbedConfig) -> PictureEmbedder:
    from extract.multimodal_embedder import MultimodalEmbedder

    return MultimodalEmbedder(config)


PICTURE_ENGINES: dict[str, Callable[[PictureEmbedConfig], PictureEmbedder]] = {
    "transformers": _encoder,
    "sentence-transformers": _multimodal,
    "fake": FakePictureEngine,
}


def build_picture_embedder(config: PictureEmbedConfig) -> PictureEmbedder:
    """The embedder a config names, its model loaded.

    Raises:
        MissingPrerequisite: a package or the model is missing.
    """
    try:
        return PICTURE_ENGINES[config.engine](config)
    except ImportError as error:
        raise not_installed(error) from error
