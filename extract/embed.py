"""The embedding stage: texts into a shard store of vectors, in batches that waste few padded tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from extract.engines import Embedder
from extract.errors import InvalidData
from extract.faults import Failure, isolate
from extract.features import FeatureTable, Provenance
from extract.stage import Progress, ShardOutput, StageResult, run_shards
from extract.store import BadRow, ShardStore, bucket_of, content_hash
from extract.vector_shards import kept_vectors, save_vectors, shard_bytes

STAGE = "embed"
TOKEN_BUDGET = 1024
"""Padded tokens per batch; measured best on a CPU, where larger batches fall out of its caches."""


def embed_texts(
    texts: Sequence[str], embedder: Embedder, *, token_budget: int = TOKEN_BUDGET
) -> NDArray[np.float32]:
    """Vectors float32 [N, D] of texts, in order; equal texts are embedded once.

    Batches are cut from the texts sorted by length, longest first (memory runs out at once or never), so
    that longest times count stays within ``token_budget``; a longer single text is a batch of its own.
    """
    unique = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    vectors = np.zeros((len(unique), embedder.dimension), np.float32)
    order = list(unique)
    for rows in token_batches(embedder.token_counts(order), token_budget):
        vectors[rows] = embedder.embed([order[row] for row in rows])
    return vectors[[unique[text] for text in texts]] if len(texts) else vectors


def token_batches(counts: Sequence[int], token_budget: int) -> Iterator[list[int]]:
    """Rows of texts with these token counts, in batches of at most ``token_budget`` padded tokens."""
    batch: list[int] = []
    for row in sorted(range(len(counts)), key=lambda row: -counts[row]):
        if batch and counts[batch[0]] * (len(batch) + 1) > token_budget:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def embed_parts(embedder: Embedder, *, token_budget: int = TOKEN_BUDGET) -> dict[str, Any]:
    """The fingerprint parts of an embedding store: everything that decides a vector, except the texts."""
    return {"stage": STAGE, "engine": dict(embedder.fingerprint), "token_budget": token_budget}


def embed_store(
    folder: Path, embedder: Embedder, *, buckets: int, token_budget: int = TOKEN_BUDGET
) -> ShardStore:
    """The store for vectors made with these settings.

    Raises:
        RunFolderError: the folder holds vectors made with others.
    """
    return ShardStore(folder, embed_parts(embedder, token_budget=token_budget), buckets)


Texts = Sequence[str | None] | Callable[[Sequence[int]], Sequence[str | None]]
"""One text per item, or a function that gives those at some positions, so that not all are in memory."""


def texts_at(texts: Texts | None, positions: Sequence[int]) -> Sequence[str | None]:
    """The texts at some positions; all None where there are none."""
    if texts is None:
        return [None] * len(positions)
    return texts(positions) if callable(texts) else [texts[row] for row in positions]


def embed_items(
    ids: Sequence[str] | pa.ChunkedArray,
    texts: Texts,
    embedder: Embedder,
    store: ShardStore,
    *,
    token_budget: int = TOKEN_BUDGET,
    max_bad: float = 0.01,
    retry_bad: bool = False,
    part: tuple[int, int] = (0, 1),
    sources: Sequence[ShardStore] = (),
    progress: Progress | None = None,
) -> StageResult:
    """Embed one text per item; committed shards whose texts did not change are reused.

    In a shard with changed items, only those reach the engine: vectors of equal texts are carried over. A
    text that is None or blank makes the item absent. A text the engine fails on, or gives NaN for, is
    quarantined, and the item is absent from the table.

    Args:
        ids: item ids [I], unique.
        texts: their texts [I].
        embedder: the engine.
        store: made with the same settings, by `embed_store`.
        token_budget: padded tokens per batch.
        max_bad: share of items that may be quarantined (at least one, unless 0).
        retry_bad: work again on shards that hold quarantined items.
        part: ``(i, n)``: this process works on every n-th bucket beginning with i.
        sources: stores of the same settings that may hold shards this one lacks.
        progress: told (items done, items in all) after each shard.

    Raises:
        InvalidData: ids are doubled, or their number is not that of the texts.
        TooManyBadInputs: more than ``max_bad`` were quarantined.
    """
    column = ids if isinstance(ids, pa.ChunkedArray) else pa.chunked_array([ids], pa.string())
    different, expected = pc.count_distinct(column).as_py(), len(column) if callable(texts) else len(texts)
    if not len(column) == different == expected:
        raise InvalidData("D108", f"{len(column)} ids ({different} different) for {expected} texts")
    committed = store.rows()

    def members(positions: Sequence[int]) -> tuple[list[str], list[str | None]]:
        found = texts_at(texts, positions)
        known = [text if text is not None and text.strip() else None for text in found]
        return column.take(pa.array(positions, pa.int64())).to_pylist(), known

    def digest(positions: Sequence[int]) -> str:
        return content_hash([list(pair) for pair in zip(*members(positions), strict=True)])

    def compute(positions: Sequence[int]) -> ShardOutput:
        names, known = members(positions)
        kept = kept_vectors(store, committed.get(bucket_of(names[0], store.buckets)))
        data, bad = _shard(names, known, kept, embedder, token_budget)
        return ShardOutput(data, "safetensors", digest(positions), known.count(None), bad)

    return run_shards(
        column,
        store,
        digest=digest,
        compute=lambda due: map(compute, due),
        max_bad=max_bad,
        retry_bad=retry_bad,
        part=part,
        sources=sources,
        progress=progress,
    )


def _shard(
    ids: Sequence[str],
    texts: Sequence[str | None],
    kept: Mapping[str, NDArray[np.float32]],
    embedder: Embedder,
    token_budget: int,
) -> tuple[bytes, list[BadRow]]:
    """A shard's file and its bad rows; ``kept`` are vectors by the hash of their text."""
    inputs = [content_hash([text]) for text in texts]
    fresh = [text for text, key in zip(texts, inputs) if text is not None and key not in kept]
    outcomes = _vectors(fresh, embedder, token_budget)
    # Where all vectors are kept, the engine need not say how wide they are: it may not even be loaded.
    width = embedder.dimension if fresh or not kept else len(next(iter(kept.values())))
    matrix = np.zeros((len(ids), width), np.float32)
    present, bad = np.zeros(len(ids), bool), []
    for row, (text, key) in enumerate(zip(texts, inputs)):
        outcome = None if text is None else kept[key] if key in kept else outcomes[text]
        if isinstance(outcome, Failure):
            bad.append(BadRow(ids[row], STAGE, outcome.reason, outcome.detail))
        elif outcome is not None:
            matrix[row], present[row] = outcome, True
    return shard_bytes(FeatureTable(tuple(ids), matrix, present), inputs), bad


def _vectors(
    texts: Sequence[str], embedder: Embedder, token_budget: int
) -> dict[str, NDArray[np.float32] | Failure]:
    order = list(dict.fromkeys(texts))
    outcomes: dict[str, NDArray[np.float32] | Failure] = {}

    def work(batch: Sequence[str]) -> Sequence[NDArray[np.float32]]:
        return list(embedder.embed(batch))

    for rows in token_batches(embedder.token_counts(order), token_budget):
        batch = [order[row] for row in rows]
        for text, vector in zip(batch, isolate(work, batch), strict=True):
            if not isinstance(vector, Failure) and not np.isfinite(vector).all():
                vector = Failure("not-finite", "the vector holds NaN or infinity")
            outcomes[text] = vector
    return outcomes


def embedded_table(store: ShardStore, *, pooling: str = "") -> FeatureTable:
    """All vectors of a store as one table, sorted by item id; absent and quarantined items are absent rows.

    ``pooling`` is written into the provenance where the store's own settings do not say it.

    Raises:
        InvalidData: a stored shard is damaged, or the store is empty.
    """
    rows = [row for row in store.rows().values() if row.n_in]
    if not rows:
        raise InvalidData("D112", "the store holds no vectors", where=str(store.folder))
    tables = [FeatureTable.from_bytes(store.read(row), row.data) for row in rows]
    ids = [item_id for table in tables for item_id in table.ids]
    order = sorted(range(len(ids)), key=ids.__getitem__)
    return FeatureTable(
        tuple(ids[row] for row in order),
        np.concatenate([table.matrix for table in tables])[order],
        np.concatenate([table.present for table in tables])[order],
        provenance_of(store, pooling),
    )


def provenance_of(store: ShardStore, pooling: str = "") -> Provenance:
    """How the vectors of a store were made."""
    engine = store.parts.get("engine", {})
    model = str(engine.get("model", engine.get("engine", "")))
    return Provenance(
        model=model,
        # A hub model's identity is REPOSITORY@COMMIT; a folder's is the hash of its content.
        revision=model.partition("@")[2],
        prompt=str(engine.get("prompt", "")) or str(engine.get("prompt_name", "")),
        dtype=str(engine.get("dtype", "")),
        pooling=str(engine.get("pooling", pooling)),
        inputs_sha256=content_hash([row.input_sha256 for row in store.rows().values() if row.n_in]),
        fingerprint=store.fingerprint,
        settings=store.parts,
    )


def save_embedded(store: ShardStore, path: Path, *, pooling: str = "") -> None:
    """Write the table of `embedded_table` as one feature file, with one shard in memory at a time."""
    save_vectors(store, path, provenance_of(store, pooling))
