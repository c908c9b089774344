"""Sharing the processor: torch's threads, and memory that the allocator keeps."""

from __future__ import annotations

import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

from extract.cpu_share import half_the_threads  # noqa: E402

FAULTS = """
import resource, sys
from extract.cpu_share import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for turn in range(30):
    if turn == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    activations = [b"x" * 2**22 for layer in range(10)]  # 40 MB, 10,240 pages
    del activations
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_half_of_the_threads_are_left_to_others_for_a_while():
    threads = torch.get_num_threads()
    torch.set_num_threads(6)
    try:
        with half_the_threads(False):
            assert torch.get_num_threads() == 6
        with half_the_threads(True):
            assert torch.get_num_threads() == 3
        assert torch.get_num_threads() == 6
        with pytest.raises(KeyError), half_the_threads(True):
            raise KeyError
        assert torch.get_num_threads() == 6
    finally:
        torch.set_num_threads(threads)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_memory_that_was_freed_is_used_again_without_the_kernel():
    counts = {
        way: int(subprocess.run([sys.executable, "-c", FAULTS, way], capture_output=True, check=True).stdout)
        for way in ("keep", "leave")
    }
    assert counts["leave"] > 20 * 5000
    assert counts["keep"] < 5000
