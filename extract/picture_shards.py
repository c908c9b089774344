"""The loop that stages over pictures share: recognise inputs, decode ahead of the model, make shards.

A stage gives the texts that go with its pictures, and a `PictureWork` that turns batches into outcomes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Generic, TypeVar

from PIL import Image

from extract.cpu_share import half_the_threads
from extract.decoding import Decoder, FitOf, decoding, no_fit
from extract.faults import Failure, isolate
from extract.items import Catalog, Item
from extract.picture_batches import BatchPlan, Pairs
from extract.picture_memo import PictureMemo, check_pictures, known_input, read_input
from extract.pictures import PictureLimits
from extract.stage import ShardOutput, StageResult, run_shards
from extract.store import ShardStore, bucket_of, content_hash

Outcome = TypeVar("Outcome")
Batch = Sequence[tuple[Image.Image, str]]


@dataclass
class Bench:
    """What the work on a shard begins with."""

    pairs: Pairs
    """The shard's, in id order."""
    memo: PictureMemo
    limits: PictureLimits
    decoder: Decoder
    plan: BatchPlan


@dataclass
class PictureWork(ABC, Generic[Outcome]):
    """One shard in work: items are taken one by one, pictures wait until a batch is full."""

    bench: Bench
    outcomes: dict[str, Outcome | Failure | None] = field(default_factory=dict)
    """By input hash: what the model made, why there is nothing, or None where there is no picture."""
    items: list[tuple[str, str]] = field(default_factory=list)
    """Item ids with the hash of their input, as taken; items of equal hash share one outcome."""
    waiting: dict[str, tuple[Future[Image.Image], str]] = field(default_factory=dict)
    exact: bool = True
    """Whether outcomes count to the last bit: then torch keeps its threads, on which sums may depend."""
    planned: bool = False
    """Whether the items that are left are in the plan's order."""

    @abstractmethod
    def make(self, batch: Batch) -> Sequence[Outcome | Failure]:
        """What the model makes of pictures and the texts that go with them."""

    @abstractmethod
    def output(self) -> ShardOutput:
        """The shard's bytes and counts."""

    def remembered(self, key: str) -> Outcome | None:
        """An outcome of equal input from elsewhere."""
        return None

    def remember(self, key: str, outcome: Outcome | Failure) -> None:
        """Keep what was made for equal inputs elsewhere; nothing by default."""

    @property
    def all_taken(self) -> bool:
        """Whether every item was taken; pictures of some may still wait."""
        return len(self.items) == len(self.bench.pairs)

    def take(self, most: int) -> None:
        """Take items until so many pictures wait, or to the last item."""
        while len(self.waiting) < most and not self.all_taken:
            self._take(*self._queue[len(self.items)])

    @cached_property
    def _queue(self) -> list[tuple[Item, str]]:
        """The shard's items: first those known to need no model, then the others, ordered by `_plan`."""
        settled, fresh = list[tuple[Item, str]](), list[tuple[Item, str]]()
        for pair in self.bench.pairs:
            key = known_input(*pair, self.bench.memo)
            (fresh if key is None or not self._settled(key) else settled).append(pair)
        return settled + fresh

    def _plan(self) -> None:
        """Put what is left in the plan's order; not before a picture needs the model, which this may load."""
        self.planned, taken = True, len(self.items)
        self._queue[taken:] = self.bench.plan.order(self._queue[taken:])

    def _take(self, item: Item, text: str) -> None:
        """Read one item's picture and have it decoded, unless an equal one was seen."""
        memo, limits = self.bench.memo, self.bench.limits
        key, data = known_input(item, text, memo), None
        if key is None or not self._settled(key):
            key, data = read_input(item, text, memo, limits)
            if not self._settled(key):
                if isinstance(data, bytes) and not self.planned:
                    self._plan()
                    if self._queue[len(self.items)][0] is not item:
                        return  # its turn comes later
                if isinstance(data, bytes):
                    self.waiting[key] = (self.bench.decoder.submit(data), text)
                else:
                    self.outcomes[key] = data
        self.items.append((item.item_id, key))

    def flush(self) -> None:
        """Hand the first pictures that wait to the model, a whole batch of good ones if there are so many."""
        batch, refused = self.bench.plan.next_batch(self.waiting)
        self.outcomes.update(refused)
        # An equal picture of the shard before may have come through since this one was taken ahead.
        batch = {key: pair for key, pair in batch.items() if not self._settled(key)}
        if batch:
            with half_the_threads(self.bench.decoder.busy and not self.exact):
                made = isolate(self.make, list(batch.values()))
            for key, outcome in zip(batch, made, strict=True):
                self.outcomes[key] = outcome
                self.remember(key, outcome)

    def _settled(self, key: str) -> bool:
        if key not in self.outcomes and (found := self.remembered(key)) is not None:
            self.outcomes[key] = found
        return key in self.outcomes or key in self.waiting


def run_picture_shards(
    catalog: Catalog,
    store: ShardStore,
    texts: Callable[[Sequence[int], Sequence[Item]], Iterable[str]],
    work_on: Callable[[Bench, int], PictureWork[Any]],
    *,
    batch_size: int,
    limits: PictureLimits | None,
    rehash: bool,
    decoders: int | None,
    fit: FitOf = no_fit,
    budget: int | None = None,
    **options: Any,
) -> StageResult:
    """`run_shards` over the pictures of a catalogue.

    Args:
        catalog: items and their pictures.
        store: where shards are committed.
        texts: what goes with each picture, by positions and their items.
        work_on: the work on one bucket.
        batch_size: pictures per call of the model.
        limits: how large a picture may be.
        rehash: read every picture to see whether it changed; otherwise size and modification time tell.
        decoders: processes that decode pictures within limits; 0: this one; None: one per core, at most 8.
        fit: gives the size the model takes pictures in, asked when the first is to be decoded.
        budget: most picture tokens of a batch, where a picture's size decides how many it has.
        options: of `run_shards`.

    Raises:
        TooManyBadInputs: more than ``max_bad`` were quarantined.
        UnsafeInput: items name pictures, but the catalogue has no pictures.
    """
    check_pictures(catalog)
    limits = limits or PictureLimits()
    plan = BatchPlan(catalog.pictures, fit, batch_size, budget)

    @lru_cache(maxsize=1)  # a shard whose inputs have changed is asked for twice in a row
    def memo_of(bucket: int) -> PictureMemo:
        return PictureMemo(store.folder / "seen", bucket, catalog.pictures, rehash=rehash)

    def members(positions: Sequence[int]) -> tuple[int, list[tuple[Item, str]]]:
        items = catalog.take(positions)
        bucket = bucket_of(items[0].item_id, store.buckets)
        return bucket, list(zip(items, texts(positions, items), strict=True))

    def digest(positions: Sequence[int]) -> str:
        # Bytes are dropped as they are read: a shard's files need not fit in memory together.
        bucket, pairs = members(positions)
        memo = memo_of(bucket)
        keys = [known_input(*pair, memo) or read_input(*pair, memo, limits)[0] for pair in pairs]
        memo.save()
        return items_digest([(item.item_id, key) for (item, _), key in zip(pairs, keys)])

    def begin(positions: Sequence[int]) -> PictureWork[Any]:
        bucket, pairs = members(positions)
        return work_on(Bench(pairs, memo_of(bucket), limits, decoder, plan), bucket)

    with decoding(limits, decoders, fit) as decoder:
        return run_shards(
            catalog.id_column,
            store,
            digest=digest,
            compute=lambda due: _outputs(map(begin, due), 2 * batch_size),
            **options,
        )


def _outputs(works: Iterator[PictureWork[Any]], ahead: int) -> Iterator[ShardOutput]:
    """The output of each shard in turn; ``ahead`` pictures wait, one batch of them decodes during another.

    Towards the end of a shard those of the next one join them, or its first batch would find none ready.
    """
    work = next(works, None)
    while work is not None:
        following = None
        work.take(ahead)
        while work.waiting:
            if work.all_taken:
                following = following or next(works, None)
                if following is not None:
                    following.take(ahead - len(work.waiting))
            work.flush()
            work.take(ahead)
        work.bench.memo.save()
        work.items.sort()
        yield work.output()
        work = following or next(works, None)


def items_digest(items: Sequence[tuple[str, str]]) -> str:
    """The hash of a shard's inputs: item ids with the hash of each one's input."""
    return content_hash([list(pair) for pair in items])
