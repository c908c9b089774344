"""Vectors of pictures, alone or with a text each, from a multimodal model of sentence-transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from extract.errors import MissingPrerequisite
from extract.faults import HalvingBatch
from extract.inference import PICTURE, Rows, as_rows, free_memory, tried
from extract.models import find_model
from extract.picture_engines import PictureEmbedConfig, picture_engine_fingerprint
from extract.sentence_embedder import load_sentence_transformer


class MultimodalEmbedder:
    """A sentence-transformers model that takes pictures, such as CLIP or an embedder made of a VLM.

    Raises:
        MissingPrerequisite: the model is not there, cannot be loaded, or does not take what is wanted.
    """

    def __init__(self, config: PictureEmbedConfig) -> None:
        files = find_model(config.model, config.revision)
        self.fingerprint: Mapping[str, str] = picture_engine_fingerprint(config, files)
        self._config = config
        self._model: Any = load_sentence_transformer(config, str(files.folder))
        self._check_modalities()
        self._halving = HalvingBatch(self._embed_batch, free_memory)
        kind = "a multimodal sentence-transformers model"
        self.dimension = tried(
            config.model, kind, self._model, lambda: self._embed_batch([(PICTURE, "grey")])
        )

    def embed_pictures(self, images: Sequence[Image.Image], texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors float32 [N, D] of RGB pictures with their texts; when memory runs out the batch is halved.

        Raises:
            ResourceExhausted: a single picture does not fit in memory.
        """
        rows: list[NDArray[np.float32]] = self._halving(list(zip(images, texts, strict=True)))
        return np.stack(rows) if rows else np.zeros((0, self.dimension), np.float32)

    def _embed_batch(self, batch: Sequence[tuple[Image.Image, str]]) -> Rows:
        # Every input of a call must be of the same kind, so an empty text stays a text.
        both = self._config.with_text
        vectors = self._model.encode(
            [{"image": image, "text": text} if both else image for image, text in batch],
            prompt=self._config.prompt or None,
            batch_size=len(batch),
            convert_to_tensor=True,
            show_progress_bar=False,
        )
        return as_rows(vectors, normalize=self._config.normalize)

    def _check_modalities(self) -> None:
        wanted = ("image", "text") if self._config.with_text else "image"
        if not self._model.supports(wanted):
            what = "pictures together with texts" if self._config.with_text else "pictures"
            raise MissingPrerequisite(
                "M307",
                f"the model does not embed {what}",
                where=self._config.model,
                why=f"it takes: {', '.join(map(str, self._model.modalities))}",
                next_step="choose a multimodal model, or an encoder with `engine: transformers`",
            )
