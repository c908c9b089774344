"""The caption stage: pictures of a catalogue into a shard store of captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extract.answers import ask
from extract.caption_shards import CaptionMemory, caption_bytes, kept_captions
from extract.engines import Captioner, batch_invariant
from extract.faults import Failure
from extract.items import Catalog
from extract.picture_shards import Batch, Bench, PictureWork, items_digest, run_picture_shards
from extract.pictures import PictureLimits
from extract.prompts import Prompt
from extract.stage import Progress, ShardOutput, StageResult
from extract.store import BadRow, ShardStore

STAGE = "caption"


def caption_parts(
    captioner: Captioner,
    *,
    prompt: Prompt,
    batch_size: int,
    limits: PictureLimits | None = None,
    visual_tokens: int | None = None,
) -> dict[str, Any]:
    """The fingerprint parts of a caption store: everything that decides a caption, except the items."""
    return {
        "stage": STAGE,
        "engine": dict(captioner.fingerprint),
        "prompt": prompt.as_part(),
        "batch_size": batch_size,
        "limits": (limits or PictureLimits()).model_dump(),
        # Named only where it is set, so that captions made before there was such a key stay valid.
        **({} if visual_tokens is None else {"visual_tokens": visual_tokens}),
    }


def caption_store(
    folder: Path,
    captioner: Captioner,
    *,
    prompt: Prompt,
    batch_size: int,
    buckets: int,
    limits: PictureLimits | None = None,
    visual_tokens: int | None = None,
) -> ShardStore:
    """The store for captions made with these settings.

    Raises:
        RunFolderError: the folder holds captions made with others.
    """
    parts = caption_parts(
        captioner, prompt=prompt, batch_size=batch_size, limits=limits, visual_tokens=visual_tokens
    )
    return ShardStore(folder, parts, buckets)


def caption_items(
    catalog: Catalog,
    captioner: Captioner,
    store: ShardStore,
    *,
    prompt: Prompt,
    batch_size: int = 8,
    limits: PictureLimits | None = None,
    visual_tokens: int | None = None,
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
        visual_tokens: most picture tokens of a batch, padding included; None: only ``batch_size`` counts.
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
    committed = store.rows()
    memory = CaptionMemory(store, committed) if batch_invariant(captioner.fingerprint) else None

    def work_on(bench: Bench, bucket: int) -> _CaptionWork:
        kept = dict[str, str | Failure | None](kept_captions(store, committed.get(bucket)))
        return _CaptionWork(
            bench, kept, captioner=captioner, prompt=prompt, memory=memory, exact=memory is None
        )

    return run_picture_shards(
        catalog,
        store,
        lambda _, items: map(prompt.render, items),
        work_on,
        batch_size=batch_size,
        limits=limits,
        rehash=rehash,
        decoders=decoders,
        fit=lambda: getattr(captioner, "picture_fit", None),
        budget=visual_tokens,
        max_bad=max_bad,
        retry_bad=retry_bad,
        part=part,
        sources=sources,
        progress=progress,
    )


@dataclass(kw_only=True)
class _CaptionWork(PictureWork[str]):
    captioner: Captioner
    prompt: Prompt
    memory: CaptionMemory | None

    def remembered(self, key: str) -> str | None:
        return self.memory.get(key) if self.memory is not None else None

    def make(self, batch: Batch) -> Sequence[str | Failure]:
        return ask(self.captioner, self.prompt, batch)

    def remember(self, key: str, outcome: str | Failure) -> None:
        if self.memory is not None and isinstance(outcome, str):
            self.memory.add(key, outcome)

    def output(self) -> ShardOutput:
        """The shard's Parquet bytes and counts."""
        rows, bad = [], []
        for item_id, key in self.items:
            outcome = self.outcomes[key]
            status = "bad" if isinstance(outcome, Failure) else "absent" if outcome is None else "ok"
            caption = outcome if isinstance(outcome, str) else None
            rows.append({"item_id": item_id, "caption": caption, "status": status, "input_sha256": key})
            if isinstance(outcome, Failure):
                bad.append(BadRow(item_id, STAGE, outcome.reason, outcome.detail))
        return ShardOutput(
            data=caption_bytes(rows),
            suffix="parquet",
            input_sha256=items_digest(self.items),
            n_absent=sum(row["status"] == "absent" for row in rows),
            bad=bad,
        )
