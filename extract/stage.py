"""The loop every batch stage shares: group, reuse what is committed, compute the rest, commit, count."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from extract.errors import TooManyBadInputs
from extract.store import BadRow, ShardRow, ShardStore, quarantine_of

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with (items done, items in all) after each shard."""


@dataclass(frozen=True, slots=True)
class StageResult:
    """What a stage did. ``n_in = n_ok + n_quarantined``; ``n_absent`` (nothing to do) is part of ``n_ok``."""

    n_in: int
    n_ok: int
    n_absent: int
    n_quarantined: int
    seconds: float
    shards_computed: int
    shards_reused: int


@dataclass(frozen=True, slots=True)
class ShardOutput:
    """What the work on one shard gave: the file's bytes, and the hash of the inputs that were really read."""

    data: bytes
    suffix: str
    input_sha256: str
    n_absent: int
    bad: Sequence[BadRow]


def run_shards(
    ids: Sequence[str] | pa.ChunkedArray,
    store: ShardStore,
    *,
    digest: Callable[[Sequence[int]], str],
    compute: Callable[[Iterator[Sequence[int]]], Iterable[ShardOutput]],
    max_bad: float = 0.01,
    retry_bad: bool = False,
    part: tuple[int, int] = (0, 1),
    sources: Sequence[ShardStore] = (),
    progress: Progress | None = None,
) -> StageResult:
    """Bring a store up to date with ``ids``: recompute what changed, leave the others untouched.

    Args:
        ids: item ids, unique; positions in them are what ``digest`` and ``compute`` get, sorted by id.
        store: where shards are committed.
        digest: hash of a shard's inputs, without doing the work.
        compute: outputs of the shards that need work, in their order; it may look ahead at the next ones, but
            an output must be a pure function of its own shard's content.
        max_bad: share of items that may be quarantined (at least one item, unless 0).
        retry_bad: compute shards with quarantined items again.
        part: ``(i, n)``, work only on every n-th bucket beginning with i, so that n processes share a store.
        sources: stores of the same fingerprint, such as those of other parts: a shard that one of them holds
            for the same inputs is taken from there.
        progress: told after each shard.

    Raises:
        TooManyBadInputs: more than ``max_bad`` were quarantined; what is committed stays.
    """
    index, parts = part
    if not 0 <= index < parts:
        raise ValueError(f"`part` must be (i, n) with 0 <= i < n, got {part}")
    started = time.monotonic()
    mine = range(index, store.buckets, parts)
    groups = {bucket: members for bucket, members in store.group(ids).items() if bucket in mine}
    store.sweep(mine)
    known = store.rows()
    _retire_emptied(store, known, [bucket for bucket in mine if bucket not in groups])
    offers = [(other, other.rows()) for other in sources]
    tally = _Tally(sum(map(len, groups.values())))
    begun, passed = deque[tuple[int, int]](), list[ShardRow]()

    def done(row: ShardRow, *, computed: bool) -> None:
        tally.add(row, computed=computed)
        _check_limit(store, tally.n_bad, tally.total, max_bad)
        if progress is not None:
            progress(tally.n_in, tally.total)

    def due() -> Iterator[list[int]]:
        for bucket, positions in sorted(groups.items()):
            members, row = positions.tolist(), known.get(bucket)
            if row is not None and ((retry_bad and row.n_bad) or not store.holds(row)):
                row = None
            offered = _offered(offers, bucket, retry_bad)
            inputs = digest(members) if row is not None or offered else ""
            if row is not None and row.input_sha256 != inputs:
                row = None
            row = row or _adopted(store, offered, inputs)
            if row is None:
                begun.append((bucket, len(members)))
                yield members
            elif begun:
                passed.append(row)  # counted later: met now, a limit would cost the shard in work
            else:
                done(row, computed=False)

    for output in compute(due()):
        done(_committed(store, *begun.popleft(), output), computed=True)
        while passed:
            done(passed.pop(), computed=False)
    return tally.result(time.monotonic() - started)


@dataclass
class _Tally:
    """Running counts over the shards that are done."""

    total: int
    n_in: int = 0
    n_ok: int = 0
    n_absent: int = 0
    n_bad: int = 0
    shards: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})
    """Shards that were computed (True) and reused (False)."""

    def add(self, row: ShardRow, *, computed: bool) -> None:
        self.n_in += row.n_in
        self.n_ok += row.n_ok
        self.n_absent += row.n_absent
        self.n_bad += row.n_bad
        self.shards[computed] += 1

    def result(self, seconds: float) -> StageResult:
        counts = (self.n_in, self.n_ok, self.n_absent, self.n_bad)
        return StageResult(*counts, seconds, self.shards[True], self.shards[False])


def _offered(
    offers: Sequence[tuple[ShardStore, dict[int, ShardRow]]], bucket: int, retry_bad: bool
) -> list[tuple[ShardStore, ShardRow]]:
    """What other stores hold of a bucket; not what is to be computed again."""
    found = ((other, rows[bucket]) for other, rows in offers if bucket in rows)
    return [(other, row) for other, row in found if not (retry_bad and row.n_bad)]


def _committed(store: ShardStore, bucket: int, count: int, output: ShardOutput) -> ShardRow:
    return store.commit(
        bucket,
        output.data,
        output.suffix,
        n_in=count,
        n_absent=output.n_absent,
        input_sha256=output.input_sha256,
        bad=output.bad,
    )


def _adopted(
    store: ShardStore, offered: Sequence[tuple[ShardStore, ShardRow]], inputs: str
) -> ShardRow | None:
    """The shard as another store holds it for the same inputs, committed here; None if none does."""
    for other, row in offered:
        if row.n_in and row.input_sha256 == inputs and other.holds(row):
            return store.adopt(row, other.read(row))
    return None


def _retire_emptied(store: ShardStore, known: dict[int, ShardRow], empty: Sequence[int]) -> None:
    for bucket in empty:
        if bucket in known and known[bucket].n_in:
            store.retire(known[bucket])


def allowed_bad(total: int, max_bad: float) -> int:
    """How many of so many items may be quarantined: a share, at least one, unless the share is 0."""
    return max(1, int(max_bad * total)) if max_bad > 0 else 0


def _check_limit(store: ShardStore, n_bad: int, total: int, max_bad: float) -> None:
    allowed = allowed_bad(total, max_bad)
    if n_bad <= allowed:
        return
    rows = quarantine_of(store)
    reasons = ", ".join(
        f"{reason} ({count})" for reason, count in Counter(r.reason for r in rows).most_common()
    )
    first = ", ".join(row.item_id for row in rows[:20])
    raise TooManyBadInputs(
        "D110",
        f"{n_bad} of {total:,} items were quarantined; the limit is {allowed} ({max_bad:.1%})",
        where=f"{store.folder} (first: {first})",
        why=reasons,
        next_step="mend these inputs and run again, or raise `max_bad`; good items already done are kept",
    )
