"""The picture embedding stage: a catalogue's pictures, alone or with a text each, into a store of vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from extract.errors import InvalidData, UnsafeInput
from extract.faults import Failure, isolate
from extract.features import FeatureTable
from extract.items import Catalog
from extract.picture_engines import PictureEmbedder
from extract.pictures import BadPicture, PictureLimits, decode_picture
from extract.stage import Progress, ShardOutput, StageResult, run_shards
from extract.store import BadRow, ShardStore, content_hash

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
    texts: Sequence[str | None],
    embedder: PictureEmbedder,
    store: ShardStore,
    *,
    batch_size: int = 16,
    limits: PictureLimits | None = None,
    max_bad: float = 0.01,
    retry_bad: bool = False,
    part: tuple[int, int] = (0, 1),
    progress: Progress | None = None,
) -> StageResult:
    """Embed every picture of a catalogue; committed shards whose inputs did not change are reused.

    An item without a picture is absent, whatever its text. A picture that cannot be used, that the engine
    fails on or gives NaN for, is quarantined with its reason, and the item is absent from the table. Equal
    pictures with equal texts are embedded once per shard.

    Args:
        catalog: I items and their pictures.
        texts: one per item [I], in the catalogue's order; None where the engine takes none.
        embedder: the engine.
        store: made with the same settings, by `picture_embed_store`.
        batch_size: pictures per call of the engine.
        limits: how large a picture may be.
        max_bad: share of items that may be quarantined (at least one, unless 0).
        retry_bad: work again on shards that hold quarantined items.
        part: ``(i, n)``: this process works on every n-th bucket beginning with i.
        progress: told (items done, items in all) after each shard.

    Raises:
        InvalidData: the texts are not as many as the items.
        TooManyBadInputs: more than ``max_bad`` were quarantined.
        UnsafeInput: items name pictures, but the catalogue has no pictures.
    """
    if len(texts) != len(catalog):
        raise InvalidData("D108", f"{len(texts)} texts for {len(catalog)} items")
    if catalog.pictures is None and catalog.table["picture"].null_count < len(catalog):
        raise UnsafeInput(
            "U404",
            "items name pictures, but no folder of pictures is given",
            next_step="set `pictures` to the folder or zip file the names are relative to",
        )
    reader = _Reader(catalog, texts, limits or PictureLimits())

    def digest(positions: Sequence[int]) -> str:
        # Bytes are dropped as they are read: a shard's files need not fit in memory together.
        return _digest([(item_id, key) for item_id, key, _, _ in map(reader.read, positions)])

    def compute(positions: Sequence[int]) -> ShardOutput:
        work = _ShardWork(embedder, reader.limits)
        for position in positions:
            work.add(*reader.read(position))
            if len(work.waiting) == batch_size:
                work.flush()
        work.flush()
        return work.output()

    return run_shards(
        catalog.ids,
        store,
        digest=digest,
        compute=compute,
        max_bad=max_bad,
        retry_bad=retry_bad,
        part=part,
        progress=progress,
    )


@dataclass(frozen=True)
class _Reader:
    """Items' inputs by position."""

    catalog: Catalog
    texts: Sequence[str | None]
    limits: PictureLimits

    def read(self, position: int) -> tuple[str, str, str, bytes | Failure | None]:
        """The item's id, the hash of its input, its text, and its picture, why there is none, or None."""
        item, text = self.catalog.take([position])[0], self.texts[position] or ""
        if item.picture is None or self.catalog.pictures is None:
            return item.item_id, content_hash([text, "absent"]), text, None
        try:
            data = self.catalog.pictures.read(item.picture, self.limits)
            return item.item_id, content_hash([text, content_hash(data)]), text, data
        except BadPicture as bad:
            key = content_hash([text, f"{bad.reason}: {bad.detail}"])
            return item.item_id, key, text, Failure(bad.reason, bad.detail)


@dataclass
class _ShardWork:
    """One shard in work: items are added in id order, pictures wait until a batch is full."""

    embedder: PictureEmbedder
    limits: PictureLimits
    items: list[tuple[str, str]] = field(default_factory=list)
    """Item ids with the hash of their input; items of equal hash share one outcome."""
    waiting: dict[str, tuple[Image.Image, str]] = field(default_factory=dict)
    outcomes: dict[str, NDArray[np.float32] | Failure | None] = field(default_factory=dict)
    """By input hash: the vector, why there is none, or None where there is no picture."""

    def add(self, item_id: str, key: str, text: str, data: bytes | Failure | None) -> None:
        """Decode one item's picture, unless an equal one was seen."""
        self.items.append((item_id, key))
        if key in self.outcomes or key in self.waiting:
            return
        if not isinstance(data, bytes):
            self.outcomes[key] = data
            return
        try:
            self.waiting[key] = (decode_picture(data, self.limits), text)
        except BadPicture as bad:
            self.outcomes[key] = Failure(bad.reason, bad.detail)

    def flush(self) -> None:
        """Embed the waiting pictures."""

        def work(batch: Sequence[tuple[Image.Image, str]]) -> list[NDArray[np.float32]]:
            return list(self.embedder.embed_pictures([image for image, _ in batch], [t for _, t in batch]))

        results = isolate(work, list(self.waiting.values())) if self.waiting else []
        for key, vector in zip(self.waiting, results, strict=True):
            finite = isinstance(vector, Failure) or bool(np.isfinite(vector).all())
            bad = Failure("not-finite", "the vector holds NaN or infinity")
            self.outcomes[key] = vector if finite else bad
        self.waiting = {}

    def output(self) -> ShardOutput:
        """The shard's table as bytes, and its counts."""
        matrix = np.zeros((len(self.items), self.embedder.dimension), np.float32)
        present, bad = np.zeros(len(self.items), bool), []
        for row, (item_id, key) in enumerate(self.items):
            outcome = self.outcomes[key]
            if isinstance(outcome, Failure):
                bad.append(BadRow(item_id, STAGE, outcome.reason, outcome.detail))
            elif outcome is not None:
                matrix[row], present[row] = outcome, True
        table = FeatureTable(tuple(item_id for item_id, _ in self.items), matrix, present)
        n_absent = len(self.items) - len(bad) - int(present.sum())
        return ShardOutput(table.to_bytes(), "safetensors", _digest(self.items), n_absent, bad)


def _digest(items: Sequence[tuple[str, str]]) -> str:
    return content_hash([[item_id, key] for item_id, key in items])
