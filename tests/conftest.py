"""Fixtures of tests in several folders."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def one_thread() -> Iterator[None]:
    """`threads: 1` reaches the whole process; what it was is put back."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
