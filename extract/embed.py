"""The embedding stage: texts into a shard store of vectors, in batches that waste few padded tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.engines import Embedder
from extract.errors import InvalidData
from extract.faults import Failure, isolate
from extract.features import FeatureTable, Provenance
from extract.stage import Progress, ShardOutput, StageResult, run_shards
from extract.store import BadRow, ShardStore, content_hash

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


def embed_items(
    ids: Sequence[str],
    texts: Sequence[str | None],
    embedder: Embedder,
    store: ShardStore,
    *,
    token_budget: int = TOKEN_BUDGET,
    max_bad: float = 0.01,
    retry_bad: bool = False,
    part: tuple[int, int] = (0, 1),
    progress: Progress | None = None,
) -> StageResult:
    """Embed one text per item; committed shards whose texts did not change are reused.

    A text that is None or blank makes the item absent. A text the engine fails on, or gives NaN for, is
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
        progress: told (items done, items in all) after each shard.

    Raises:
        InvalidData: ids are doubled, or their number is not that of the texts.
        TooManyBadInputs: more than ``max_bad`` were quarantined.
    """
    if len(ids) != len(texts) or len(set(ids)) != len(ids):
        raise InvalidData("D108", f"{len(ids)} ids ({len(set(ids))} different) for {len(texts)} texts")
    known = [text if text is not None and text.strip() else None for text in texts]

    def digest(positions: Sequence[int]) -> str:
        return content_hash([[ids[row], known[row]] for row in positions])

    def compute(positions: Sequence[int]) -> ShardOutput:
        vectors, bad = _embed_shard([ids[row] for row in positions], [known[row] for row in positions])
        return ShardOutput(vectors.to_bytes(), "safetensors", digest(positions), _absent(positions), bad)

    def _absent(positions: Sequence[int]) -> int:
        return sum(known[row] is None for row in positions)

    def _embed_shard(members: list[str], texts: list[str | None]) -> tuple[FeatureTable, list[BadRow]]:
        outcomes = _vectors([text for text in texts if text is not None], embedder, token_budget)
        matrix = np.zeros((len(members), embedder.dimension), np.float32)
        present, bad = np.zeros(len(members), bool), []
        for row, text in enumerate(texts):
            outcome = None if text is None else outcomes[text]
            if isinstance(outcome, Failure):
                bad.append(BadRow(members[row], STAGE, outcome.reason, outcome.detail))
            elif outcome is not None:
                matrix[row], present[row] = outcome, True
        return FeatureTable(tuple(members), matrix, present), bad

    return run_shards(
        ids,
        store,
        digest=digest,
        compute=compute,
        max_bad=max_bad,
        retry_bad=retry_bad,
        part=part,
        progress=progress,
    )


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
    engine = store.parts.get("engine", {})
    model = str(engine.get("model", engine.get("engine", "")))
    provenance = Provenance(
        model=model,
        # A hub model's identity is REPOSITORY@COMMIT; a folder's is the hash of its content.
        revision=model.partition("@")[2],
        prompt=str(engine.get("prompt", "")) or str(engine.get("prompt_name", "")),
        dtype=str(engine.get("dtype", "")),
        pooling=str(engine.get("pooling", pooling)),
        inputs_sha256=content_hash([row.input_sha256 for row in rows]),
        fingerprint=store.fingerprint,
        settings=store.parts,
    )
    return FeatureTable(
        tuple(ids[row] for row in order),
        np.concatenate([table.matrix for table in tables])[order],
        np.concatenate([table.present for table in tables])[order],
        provenance,
    )
