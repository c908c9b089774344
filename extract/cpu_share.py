"""How a model on the CPU shares the machine with the processes that decode for it, and with the allocator."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import sys
from collections.abc import Iterator

logger = logging.getLogger(__name__)

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_LARGEST_KEPT = 32 * 2**20  # the most that glibc takes for _MMAP_THRESHOLD


def keep_freed_memory(most: int = 2**30) -> None:
    """Have the allocator of this process keep blocks of up to 32 MB that are freed, for the next batch.

    At most so many bytes of them at its end.

    As it comes, glibc hands them back to the kernel, and every batch pays a page fault for each 4 KB of its
    activations: measured, a quarter of a small captioner's time. Other allocators are left as they are.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        if mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT) and mallopt(_TRIM_THRESHOLD, most):
            return
    logger.debug("the allocator is not glibc's; it stays as it is")


@contextlib.contextmanager
def half_the_threads(needed: bool) -> Iterator[None]:
    """Leave half of torch's threads to others for a while, if they are needed there.

    Torch's threads wait for each other by spinning: beside busy processes, all of them are slower than half.
    """
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch is not None and needed else 1
    if torch is None or threads == 1:
        yield
        return
    torch.set_num_threads(threads // 2)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
