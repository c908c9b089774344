"""The settings of one feature: what its vectors are made from."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from extract.engines import EmbedConfig
from extract.picture_engines import PictureEmbedConfig
from extract.vectors import VectorsConfig


class FeatureConfig(BaseModel):
    """One named modality: vectors of texts, of pictures, or made elsewhere."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    template: str = "{title}. {text}"
    """Text of an item; slots {title}, {text}, {caption}, {attributes.NAME}."""
    embed: EmbedConfig | None = None
    """The embedder of texts."""
    pictures: PictureEmbedConfig | None = None
    """Instead: the embedder of pictures."""
    vectors: VectorsConfig | None = None
    """Instead: a file of ready vectors, of any modality."""

    @model_validator(mode="after")
    def _one_source(self) -> FeatureConfig:
        if sum(source is not None for source in (self.embed, self.pictures, self.vectors)) != 1:
            raise PydanticCustomError("one_source", "give one of embed, pictures and vectors")
        return self

    @property
    def reads_text(self) -> bool:
        """Whether the template decides the vectors."""
        return self.embed is not None or (self.pictures is not None and self.pictures.with_text)

    @property
    def reads_captions(self) -> bool:
        """Whether captions are part of what decides the vectors."""
        return self.reads_text and "{caption}" in self.template

    def card_facts(self) -> dict[str, Any]:
        """What a data card says beyond what the vectors' file knows."""
        source = "texts" if self.embed else "pictures" if self.pictures else "ready vectors"
        return {"made_from": source, **({"template": self.template} if self.reads_text else {})}
