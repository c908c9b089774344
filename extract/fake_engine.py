"""An engine without a model: for tests, and for trying all that goes on around a model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image


class FakeEngine:
    """Deterministic captions and vectors from hashes: no model, no torch, the same on every machine.

    A caption depends on the pixels and the instruction. A vector is the normalised sum of one pseudo-random
    vector per word, so texts that share words are near each other.
    """

    WORDS = (
        "red",
        "blue",
        "green",
        "striped",
        "plain",
        "dotted",
        "round",
        "square",
        "tall",
        "soft",
        "matt",
        "shiny",
    )

    def __init__(self, dimension: int = 32) -> None:
        self.dimension = dimension

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """Name, version and width."""
        return {"engine": "fake", "version": "1", "dimension": str(self.dimension)}

    def caption(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[str]:
        """Three words per picture."""
        captions = []
        for image, prompt in zip(images, prompts, strict=True):
            digest = hashlib.sha256(image.tobytes() + repr(image.size).encode() + prompt.encode()).digest()
            captions.append(
                "a " + " ".join(self.WORDS[byte % len(self.WORDS)] for byte in digest[:3]) + " thing"
            )
        return captions

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors float32 [N, D]."""
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split() or [""]:
                digest = hashlib.shake_256(word.encode()).digest(self.dimension)
                vectors[row] += np.frombuffer(digest, np.uint8).astype(np.float32) - 127.5
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
        return np.asarray(vectors / lengths, dtype=np.float32)

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """Words, at least one."""
        return [max(1, len(text.split())) for text in texts]
