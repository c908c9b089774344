"""The picture embedding stage: a catalogue's pictures, alone or with a text each, into a store of vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from extract.decoding import Decoder, decoding, next_batch
from extract.embed import Texts, texts_at
from extract.errors import InvalidData
from extract.faults import Failure, isolate
from extract.features import FeatureTable
from extract.items import Catalog, Item
from extract.picture_engines import PictureEmbedder
from extract.picture_memo import PictureMemo, check_pictures, known_input, read_input
from extract.pictures import PictureLimits
from extract.stage import Progress, ShardOutput, StageResult, run_shards
from extract.store import BadRow, ShardStore, bucket_of, content_hash
from extract.vector_shards import kept_vectors, shard_bytes

STAGE = "embed"


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
    check_pictures(catalog)
    limits, committed = limits or PictureLimits(), store.rows()
    memo = PictureMemo(store.folder / "seen", catalog.pictures, rehash=rehash)

    def members(positions: Sequence[int]) -> tuple[int, list[tuple[Item, str]]]:
        items = catalog.take(positions)
        bucket = bucket_of(items[0].item_id, store.buckets)
        memo.turn_to(bucket)
        return bucket, [(item, text or "") for item, text in zip(items, texts_at(texts, positions))]

    def digest(positions: Sequence[int]) -> str:
        # Bytes are dropped as they are read: a shard's files need not fit in memory together.
        pairs = members(positions)[1]
        keys = [known_input(*pair, memo) or read_input(*pair, memo, limits)[0] for pair in pairs]
        memo.save()
        return _digest([(item.item_id, key) for (item, _), key in zip(pairs, keys)])

    def compute(positions: Sequence[int]) -> ShardOutput:
        bucket, pairs = members(positions)
        kept = kept_vectors(store, committed.get(bucket))
        work = _ShardWork(embedder, memo, limits, kept, decoder, batch_size)
        for item, text in pairs:
            work.add(item, text)
            if len(work.waiting) == 2 * batch_size:  # one batch decodes while the model works on the other
                work.flush()
        while work.waiting:
            work.flush()
        memo.save()
        return work.output()

    with decoding(limits, decoders) as decoder:
        return run_shards(
            catalog.id_column,
            store,
            digest=digest,
            compute=compute,
            max_bad=max_bad,
            retry_bad=retry_bad,
            part=part,
            sources=sources,
            progress=progress,
        )


@dataclass
class _ShardWork:
    """One shard in work: items are added in id order, pictures wait until a batch is full."""

    embedder: PictureEmbedder
    memo: PictureMemo
    limits: PictureLimits
    kept: Mapping[str, NDArray[np.float32]]
    """Vectors by input hash that need no model."""
    decoder: Decoder
    batch_size: int
    items: list[tuple[str, str]] = field(default_factory=list)
    """Item ids with the hash of their input; items of equal hash share one outcome."""
    waiting: dict[str, tuple[Future[Image.Image], str]] = field(default_factory=dict)
    outcomes: dict[str, NDArray[np.float32] | Failure | None] = field(default_factory=dict)
    """By input hash: the vector, why there is none, or None where there is no picture."""

    def add(self, item: Item, text: str) -> None:
        """Read and decode one item's picture, unless an equal one was seen."""
        known = known_input(item, text, self.memo)
        if known is not None and self._settled(item, known):
            return
        key, data = read_input(item, text, self.memo, self.limits)
        if self._settled(item, key):
            return
        self.items.append((item.item_id, key))
        if not isinstance(data, bytes):
            self.outcomes[key] = data
            return
        self.waiting[key] = (self.decoder.submit(data), text)

    def _settled(self, item: Item, key: str) -> bool:
        """Whether an input needs no more than to be listed; then it is."""
        if key in self.kept:
            self.outcomes[key] = self.kept[key]
        if key not in self.outcomes and key not in self.waiting:
            return False
        self.items.append((item.item_id, key))
        return True

    def flush(self) -> None:
        """Embed the first pictures that wait, a whole batch of good ones if there are so many."""
        batch, refused = next_batch(self.waiting, self.batch_size)
        self.outcomes.update(refused)

        def work(pairs: Sequence[tuple[Image.Image, str]]) -> list[NDArray[np.float32]]:
            return list(self.embedder.embed_pictures([image for image, _ in pairs], [t for _, t in pairs]))

        results = isolate(work, list(batch.values())) if batch else []
        for key, vector in zip(batch, results, strict=True):
            finite = isinstance(vector, Failure) or bool(np.isfinite(vector).all())
            bad = Failure("not-finite", "the vector holds NaN or infinity")
            self.outcomes[key] = vector if finite else bad

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
        return ShardOutput(data, "safetensors", _digest(self.items), n_absent, bad)


def _digest(items: Sequence[tuple[str, str]]) -> str:
    return content_hash([[item_id, key] for item_id, key in items])
