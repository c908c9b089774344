"""The picture embedding stage: a catalogue's pictures, alone or with a text each, into a store of vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.embed import Texts, texts_at
from extract.errors import InvalidData
from extract.faults import Failure
from extract.features import FeatureTable
from extract.items import Catalog
from extract.picture_engines import PictureEmbedder
from extract.picture_shards import Batch, Bench, PictureWork, items_digest, run_picture_shards
from extract.pictures import PictureLimits
from extract.stage import Progress, ShardOutput, StageResult
from extract.store import BadRow, ShardStore
from extract.vector_shards import kept_vectors, shard_bytes

STAGE = "embed"
Vector = NDArray[np.float32]


def picture_embed_parts(
    embedder: PictureEmbedder, *, batch_size: int, limits: PictureLimits | None = None
) -> dict[str, Any]:
    """The fingerprint parts of a store of picture vectors: all that decides one, except the items."""
    return {
        "stage": "embed-pictures",
        "engine": dict(embedder.fingerprint),
        "batch_size": batch_size,
        "limits": (limits or PictureLimits()).model_dump(),
    }


def picture_embed_store(
    folder: Path,
    embedder: PictureEmbedder,
    *,
    batch_size: int,
    buckets: int,
    limits: PictureLimits | None = None,
) -> ShardStore:
    """The store for picture vectors made with these settings.

    Raises:
        RunFolderError: the folder holds vectors made with others.
    """
    return ShardStore(folder, picture_embed_parts(embedder, batch_size=batch_size, limits=limits), buckets)


def embed_pictures(
    catalog: Catalog,
    texts: Texts | None,
    embedder: PictureEmbedder,
    store: ShardStore,
    *,
    batch_size: int = 16,
    limits: PictureLimits | None = None,
    max_bad: float = 0.01,
    retry_bad: bool = False,
    rehash: bool = False,
    part: tuple[int, int] = (0, 1),
    sources: Sequence[ShardStore] = (),
    decoders: int | None = 0,
    progress: Progress | None = None,
) -> StageResult:
    """Embed every picture of a catalogue; committed shards whose inputs did not change are reused.

    In a shard with changed items, only those reach the engine: vectors of equal inputs are carried over.
    An item without a picture is absent, whatever its text. A picture that cannot be used, that the engine
    fails on or gives NaN for, is quarantined with its reason, and the item is absent from the table. Equal
    pictures with equal texts are embedded once per shard.

    Args:
        catalog: I items and their pictures.
        texts: one per item [I], in the catalogue's order, or a function that gives those at some positions;
            None where the engine takes none.
        embedder: the engine.
        store: made with the same settings, by `picture_embed_store`.
        batch_size: pictures per call of the engine.
        limits: how large a picture may be.
        max_bad: share of items that may be quarantined (at least one, unless 0).
        retry_bad: work again on shards that hold quarantined items.
        rehash: read every picture to see whether it changed; otherwise size and modification time tell.
        part: ``(i, n)``: this process works on every n-th bucket beginning with i.
        sources: stores of the same settings that may hold shards this one lacks.
        decoders: processes that decode pictures within limits; 0: this one; None: one per core, at most 8.
        progress: told (items done, items in all) after each shard.

    Raises:
        InvalidData: the texts are not as many as the items.
        TooManyBadInputs: more than ``max_bad`` were quarantined.
        UnsafeInput: items name pictures, but the catalogue has no pictures.
    """
    if texts is not None and not callable(texts) and len(texts) != len(catalog):
        raise InvalidData("D108", f"{len(texts)} texts for {len(catalog)} items")
    committed = store.rows()

    def work_on(bench: Bench, bucket: int) -> _EmbedWork:
        kept = dict[str, Vector | Failure | None](kept_vectors(store, committed.get(bucket)))
        return _EmbedWork(bench, kept, embedder=embedder)

    return run_picture_shards(
        catalog,
        store,
        lambda positions, _: [text or "" for text in texts_at(texts, positions)],
        work_on,
        batch_size=batch_size,
        limits=limits,
        rehash=rehash,
        decoders=decoders,
        max_bad=max_bad,
        retry_bad=retry_bad,
        part=part,
        sources=sources,
        progress=progress,
    )


@dataclass(kw_only=True)
class _EmbedWork(PictureWork[Vector]):
    embedder: PictureEmbedder

    def make(self, batch: Batch) -> Sequence[Vector | Failure]:
        made = self.embedder.embed_pictures([image for image, _ in batch], [text for _, text in batch])
        bad = Failure("not-finite", "the vector holds NaN or infinity")
        return [vector if np.isfinite(vector).all() else bad for vector in made]

    def output(self) -> ShardOutput:
        """The shard's table as bytes, and its counts."""
        found = (vector for vector in self.outcomes.values() if isinstance(vector, np.ndarray))
        # Where vectors are there, the engine need not say how wide they are: it may not even be loaded.
        width = next((len(vector) for vector in found), None) or self.embedder.dimension
        matrix = np.zeros((len(self.items), width), np.float32)
        present, bad = np.zeros(len(self.items), bool), []
        for row, (item_id, key) in enumerate(self.items):
            outcome = self.outcomes[key]
            if isinstance(outcome, Failure):
                bad.append(BadRow(item_id, STAGE, outcome.reason, outcome.detail))
            elif outcome is not None:
                matrix[row], present[row] = outcome, True
        table = FeatureTable(tuple(item_id for item_id, _ in self.items), matrix, present)
        n_absent = len(self.items) - len(bad) - int(present.sum())
        data = shard_bytes(table, [key for _, key in self.items])
        return ShardOutput(data, "safetensors", items_digest(self.items), n_absent, bad)
