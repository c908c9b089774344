"""What a batch does when memory runs out or an item breaks it, and how errors of others are told."""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from extract.disk import disk_error
from extract.errors import CatalographError, MissingPrerequisite, ResourceExhausted

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

_MEMORY_WORDS = ("out of memory", "can't allocate memory", "not enough memory")
_FULL = {number: os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)}
"""What libraries in other languages say of a full disk, in words alone."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on the accelerator or on the host; imports no torch."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _MEMORY_WORDS)


def exhausted(error: Exception) -> Exception:
    """ResourceExhausted if an error, of whatever library, says that memory or disk ran out, else itself."""
    if isinstance(error, CatalographError):
        return error
    if is_out_of_memory(error):
        return ResourceExhausted(
            "R602", "memory ran out", why=describe(error), next_step="free memory, or give smaller batches"
        )
    full = next((number for number, words in _FULL.items() if words in str(error)), None)
    if isinstance(error, OSError) or full is None:
        name = getattr(error, "filename", None)
        return disk_error(error, Path(str(name or ".")), 0) if isinstance(error, OSError) else error
    return disk_error(OSError(full, _FULL[full]), Path(), 0)


class HalvingBatch(Generic[Item, Result]):
    """Runs a batch function; when memory runs out, halves the batch, goes on, and remembers the size.

    Args:
        work: a batch in, one result per item out, in order.
        release: called after memory ran out, before the next try, to give cached memory back.
    """

    def __init__(
        self, work: Callable[[Sequence[Item]], Sequence[Result]], release: Callable[[], None] = lambda: None
    ) -> None:
        self._work, self._release = work, release
        self.limit: int | None = None
        """The largest batch known to be allowed; None while memory never ran out."""

    def __call__(self, items: Sequence[Item]) -> list[Result]:
        """Results of all items, in order.

        Raises:
            ResourceExhausted: a single item does not fit in memory.
        """
        results: list[Result] = []
        while len(results) < len(items):
            size = min(len(items) - len(results), self.limit or len(items))
            try:
                results.extend(self._work(items[len(results) : len(results) + size]))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if size == 1:
                    raise ResourceExhausted(
                        "R602", "one item alone does not fit in memory", why=str(error)
                    ) from error
                self.limit = size // 2
                logger.warning("memory ran out at a batch of %d; going on with %d", size, self.limit)
            else:
                continue
            # Outside the except block: there the traceback would keep the failed batch's tensors alive.
            self._release()
        return results


@dataclass(frozen=True, slots=True)
class Failure:
    """One item the engine could not work on."""

    reason: str
    detail: str


def isolate(
    work: Callable[[Sequence[Item]], Sequence[Result]], items: Sequence[Item]
) -> list[Result | Failure]:
    """Results of a batch; if it fails, of each item alone, with a Failure for those that fail alone too.

    Errors of ours (a missing model, a wrong setting) are raised: they are not the item's fault.
    """
    try:
        results = list(work(items))
        if len(results) != len(items):
            raise ValueError(f"the engine gave {len(results)} results for {len(items)} items")
        return list(results)
    except Exception as error:
        if isinstance(error, CatalographError) and not isinstance(error, ResourceExhausted):
            raise
        if len(items) == 1:
            reason = "out-of-memory" if isinstance(error, ResourceExhausted) else "engine-error"
            return [Failure(reason, describe(error))]
        logger.warning(
            "a batch of %d failed (%s); trying its items one by one", len(items), type(error).__name__
        )
    return [result for item in items for result in isolate(work, [item])]


def describe(error: BaseException) -> str:
    """Type and first line of an error, without memory addresses, so that two runs write the same words."""
    lines = str(error).strip().splitlines()
    first = re.sub(r" ?at 0x[0-9a-fA-F]+", "", lines[0]) if lines else ""
    return f"{type(error).__name__}: {first}"[:300]


def not_installed(error: ImportError, package: str = "catalograph") -> MissingPrerequisite:
    """What to tell of an import that failed: the package is missing, or it does not fit the others."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if not isinstance(cause, ImportError):
        return MissingPrerequisite(
            "M301",
            "an installed package does not fit the others",
            why=describe(cause),
            next_step="install the release that fits your torch, or remove it (torchvision is not needed)",
        )
    return MissingPrerequisite(
        "M301",
        f"the package {error.name} cannot be imported",
        why=str(error),
        next_step=f"pip install {package}",
    )
