"""The caption stage: pictures of a catalogue into a shard store of captions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from extract.answers import ask
from extract.caption_shards import CaptionMemory, caption_bytes, kept_captions
from extract.decoding import Decoder, decoding, next_batch
from extract.engines import Captioner, batch_invariant
from extract.faults import Failure, isolate
from extract.items import Catalog, Item
from extract.picture_memo import PictureMemo, check_pictures, known_input, read_input
from extract.pictures import PictureLimits
from extract.prompts import Prompt
from extract.stage import Progress, ShardOutput, StageResult, run_shards
from extract.store import BadRow, ShardStore, bucket_of, content_hash

STAGE = "caption"


def caption_parts(
    captioner: Captioner, *, prompt: Prompt, batch_size: int, limits: PictureLimits | None = None
) -> dict[str, Any]:
    """The fingerprint parts of a caption store: everything that decides a caption, except the items."""
    return {
        "stage": STAGE,
        "engine": dict(captioner.fingerprint),
        "prompt": prompt.as_part(),
        "batch_size": batch_size,
        "limits": (limits or PictureLimits()).model_dump(),
    }


def caption_store(
    folder: Path,
    captioner: Captioner,
    *,
    prompt: Prompt,
    batch_size: int,
    buckets: int,
    limits: PictureLimits | None = None,
) -> ShardStore:
    """The store for captions made with these settings.

    Raises:
        RunFolderError: the folder holds captions made with others.
    """
    parts = caption_parts(captioner, prompt=prompt, batch_size=batch_size, limits=limits)
    return ShardStore(folder, parts, buckets)


def caption_items(
    catalog: Catalog,
    captioner: Captioner,
    store: ShardStore,
    *,
    prompt: Prompt,
    batch_size: int = 8,
    limits: PictureLimits | None = None,
    max_bad: float = 0.01,
    retry_bad: bool = False,
    part: tuple[int, int] = (0, 1),
    sources: Sequence[ShardStore] = (),
    rehash: bool = False,
    decoders: int | None = 0,
    progress: Progress | None = None,
) -> StageResult:
    """Caption every picture of a catalogue; committed shards whose inputs did not change are reused.

    In a shard with changed items, only those reach the engine: captions of equal inputs are carried over.
    A picture whose size and modification time are those of the last run is not read again.
    An item without a picture is absent, not bad. A picture that cannot be used, and an item the engine fails
    on, is quarantined with its reason; its neighbours are not touched. Equal pictures with equal instructions
    are captioned once per shard, and once per store where the engine's captions do not depend on the batch.

    Args:
        catalog: items and their pictures.
        captioner: the engine.
        store: made with the same settings, by `caption_store`.
        prompt: the instruction; its slots are filled from the item.
        batch_size: pictures per call of the engine.
        limits: how large a picture may be.
        max_bad: share of items that may be quarantined (at least one, unless 0).
        retry_bad: work again on shards that hold quarantined items.
        part: ``(i, n)``: this process works on every n-th bucket beginning with i.
        sources: stores of the same settings that may hold shards this one lacks.
        rehash: read every picture, whatever its size and time.
        decoders: processes that decode pictures within limits; 0: this one; None: one per core, at most 8.
        progress: told (items done, items in all) after each shard.

    Raises:
        TooManyBadInputs: more than ``max_bad`` were quarantined.
        UnsafeInput: items name pictures, but the catalogue has no pictures.
    """
    check_pictures(catalog)
    limits, committed = limits or PictureLimits(), store.rows()
    memo = PictureMemo(store.folder / "seen", catalog.pictures, rehash=rehash)
    memory = CaptionMemory(store, committed) if batch_invariant(captioner.fingerprint) else None

    def members(positions: Sequence[int]) -> tuple[int, list[Item]]:
        items = catalog.take(positions)
        bucket = bucket_of(items[0].item_id, store.buckets)
        memo.turn_to(bucket)
        return bucket, items

    def digest(positions: Sequence[int]) -> str:
        _, items = members(positions)
        texts = [(item, prompt.render(item)) for item in items]
        keys = [known_input(*pair, memo) or read_input(*pair, memo, limits)[0] for pair in texts]
        memo.save()
        return _shard_sha256(zip(items, keys))

    def compute(positions: Sequence[int]) -> ShardOutput:
        bucket, items = members(positions)
        work = _ShardWork(captioner, prompt, memo, limits, decoder, batch_size, memory)
        work.outcomes.update(kept_captions(store, committed.get(bucket)))
        for item in items:
            work.add(item)
            if len(work.waiting) == 2 * batch_size:  # one batch decodes while the model works on the other
                work.flush()
        while work.waiting:
            work.flush()
        memo.save()
        return work.output()

    with decoding(limits, decoders, lambda: getattr(captioner, "picture_fit", None)) as decoder:
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

    captioner: Captioner
    prompt: Prompt
    memo: PictureMemo
    limits: PictureLimits
    decoder: Decoder
    batch_size: int
    memory: CaptionMemory | None
    items: list[tuple[Item, str]] = field(default_factory=list)
    """Items with the hash of their input; items of equal hash share one outcome."""
    waiting: dict[str, tuple[Future[Image.Image], str]] = field(default_factory=dict)
    outcomes: dict[str, str | Failure | None] = field(default_factory=dict)
    """By input hash: the caption, why there is none, or None where there is no picture."""

    def add(self, item: Item) -> None:
        """Read one item's picture and have it decoded, unless an equal one was seen."""
        text = self.prompt.render(item)
        known = known_input(item, text, self.memo)
        if known in self.outcomes:
            self.items.append((item, known))
            return
        key, data = read_input(item, text, self.memo, self.limits)
        if key not in self.outcomes and key not in self.waiting:
            equal = self.memory.get(key) if self.memory is not None else None
            if equal is not None:
                self.outcomes[key] = equal
            elif isinstance(data, bytes):
                self.waiting[key] = (self.decoder.submit(data), text)
            else:
                self.outcomes[key] = data
        self.items.append((item, key))

    def flush(self) -> None:
        """Caption the first pictures that wait, a whole batch of good ones if there are so many."""
        batch, refused = next_batch(self.waiting, self.batch_size)
        self.outcomes.update(refused)
        if not batch:
            return

        def work(pairs: Sequence[tuple[Image.Image, str]]) -> list[str | Failure]:
            return ask(self.captioner, self.prompt, pairs)

        for key, result in zip(batch, isolate(work, list(batch.values())), strict=True):
            self.outcomes[key] = result
            if isinstance(result, str) and self.memory is not None:
                self.memory.add(key, result)

    def output(self) -> ShardOutput:
        """The shard's Parquet bytes and counts."""
        rows, bad = [], []
        for item, key in self.items:
            outcome = self.outcomes[key]
            status = "bad" if isinstance(outcome, Failure) else "absent" if outcome is None else "ok"
            caption = outcome if isinstance(outcome, str) else None
            rows.append({"item_id": item.item_id, "caption": caption, "status": status, "input_sha256": key})
            if isinstance(outcome, Failure):
                bad.append(BadRow(item.item_id, STAGE, outcome.reason, outcome.detail))
        return ShardOutput(
            data=caption_bytes(rows),
            suffix="parquet",
            input_sha256=_shard_sha256(self.items),
            n_absent=sum(row["status"] == "absent" for row in rows),
            bad=bad,
        )


def _shard_sha256(items: Iterable[tuple[Item, str]]) -> str:
    return content_hash([[item.item_id, key] for item, key in items])
