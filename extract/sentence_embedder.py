"""Vectors from a sentence-transformers model, in this process."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from extract.engines import EmbedConfig, engine_fingerprint
from extract.errors import MissingPrerequisite
from extract.faults import HalvingBatch, describe
from extract.models import find_model


class SentenceEmbedder:
    """A sentence-transformers model loaded from local files: safetensors only, no code of the repository.

    Raises:
        MissingPrerequisite: the model is not there or cannot be loaded.
    """

    def __init__(self, config: EmbedConfig) -> None:
        files = find_model(config.model, config.revision)
        self.fingerprint: Mapping[str, str] = engine_fingerprint(config, files)
        self._config = config
        device = None if config.device == "auto" else config.device
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._model: Any = SentenceTransformer(
                    str(files.folder),
                    device=device,
                    trust_remote_code=False,
                    local_files_only=True,
                    truncate_dim=config.truncate_dim,
                    model_kwargs={"dtype": config.dtype, "use_safetensors": True},
                )
        except (OSError, ValueError, ImportError, AttributeError) as error:
            raise MissingPrerequisite(
                "M303",
                "not a sentence-transformers model we can load",
                where=config.model,
                why=describe(error),
            ) from error
        if config.max_tokens is not None:
            self._model.max_seq_length = min(
                config.max_tokens, self._model.max_seq_length or config.max_tokens
            )
        self._halving = HalvingBatch(self._embed_batch, _release)

    @property
    def dimension(self) -> int:
        """D, the width of a vector."""
        width = self._model.get_embedding_dimension()
        return int(width) if self._config.truncate_dim is None else min(int(width), self._config.truncate_dim)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors float32 [N, D] of one padded batch; when memory runs out the batch is halved.

        Raises:
            ResourceExhausted: a single text does not fit in memory.
        """
        rows: list[NDArray[np.float32]] = self._halving(list(texts))
        return np.stack(rows) if rows else np.zeros((0, self.dimension), np.float32)

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text with the prompt before it, cut at the model's limit."""
        if not texts:
            return []
        prefixed = [self._config.prompt + text for text in texts]
        limit = self._model.max_seq_length
        cut = {"truncation": True, "max_length": limit} if limit else {}
        return [len(ids) for ids in self._model.tokenizer(prefixed, **cut)["input_ids"]]

    def _embed_batch(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        vectors = self._model.encode(
            list(texts),
            prompt=self._config.prompt or None,
            batch_size=len(texts),
            normalize_embeddings=self._config.normalize,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return list(np.asarray(vectors, dtype=np.float32))


def _release() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
