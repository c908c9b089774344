"""A file of interactions becomes train, validation and test: read, deduplicated, filtered, split, summed up.

In memory, or within a stated memory limit on disk (`recsys.out_of_core`); the files are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from recsys.filters import filter_interactions
from recsys.interactions import read_interactions
from recsys.overview import PARTS, Tally
from recsys.plan import Plan, Prepared
from recsys.split import split_interactions


def prepare_interactions(
    plan: Plan, target: Callable[[str], Path], *, scratch: Path, memory_gib: float | None = None
) -> Prepared:
    """Write the three files that `target` names for train, valid and test, as `Interactions.save` does.

    Args:
        plan: what to read and how to divide it.
        target: the file of a part.
        scratch: folder for what does not fit in memory; used with `memory_gib` only.
        memory_gib: of the database that works on disk; None: all is done in memory.

    Raises:
        InvalidData: D201 to D207, as reading, filtering and splitting do.
        UnsafeInput: I201, there is no such file.
        ResourceExhausted: R603, memory or disk do not suffice on disk.
    """
    if memory_gib is not None:
        from recsys.out_of_core import prepare_on_disk

        return prepare_on_disk(plan, target, scratch, memory_gib)
    whole, counts = read_interactions(plan.path, plan.columns, plan.item_ids, plan.unknown)
    whole, filtered = filter_interactions(whole, plan.filter)
    split = split_interactions(whole, plan.split)
    tally = Tally(whole.n_users, whole.n_items)
    for name in PARTS:
        part = getattr(split, name)
        tally.add(name, part.user_rows, part.item_rows, part.timestamps)
        kept = part if plan.keeps_times else replace(part, timestamps=None)
        kept.save(target(name))
    return Prepared(counts, filtered, whole.user_ids, tally)
