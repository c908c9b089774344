from collections.abc import Iterator

import numpy as np
import pytest
import torch

from extract.features import FeatureTable
from recsys import Interactions, interactions_from


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _checkerboard(share: float) -> Interactions:
    rng = np.random.default_rng(5)
    pairs = [
        (u, i) for u in range(24) for i in range(20) if (u + i) % 2 == 0 and i < 18 and rng.random() < share
    ]
    users, items = zip(*pairs, strict=True)
    return interactions_from(
        [f"u{u:02d}" for u in users], [f"i{i:02d}" for i in items], [f"i{i:02d}" for i in range(20)]
    )


@pytest.fixture(scope="session")
def ring() -> Interactions:
    """Four users and four items in a ring, user k chose items k and k + 1: degrees are 2, edges weigh 1/2."""
    return interactions_from(
        [f"u{n // 2}" for n in range(8)],
        [f"i{(n + 1) // 2 % 4}" for n in range(8)],
        [f"i{n}" for n in range(4)],
    )


@pytest.fixture(scope="session")
def pairs() -> dict[str, FeatureTable]:
    """Pictures that pair the ring's items 0 with 1 and 2 with 3, texts that pair 0 with 3 and 1 with 2."""
    ids = tuple(f"i{n}" for n in range(4))
    return {
        "picture": FeatureTable(ids, np.float32([[1, 0], [2, 0], [0, 1], [0, 3]])),
        "text": FeatureTable(ids, np.float32([[1, 1, 0], [0, 0, 1], [0, 0, 2], [2, 2, 0]])),
    }


@pytest.fixture(scope="session")
def checkerboard() -> Interactions:
    """24 users who chose some of the items of their own parity; items 18 and 19 were never chosen."""
    return _checkerboard(0.6)


@pytest.fixture(scope="session")
def parity() -> dict[str, FeatureTable]:
    """Two modalities that tell the parity of an item, with noise; each lacks a few items."""
    rng = np.random.default_rng(6)
    ids = tuple(f"i{n:02d}" for n in range(20))
    sign = np.where(np.arange(20) % 2 == 0, 1.0, -1.0)[:, None]
    tables = {}
    for name, width, lacking in (("picture", 6, [3, 4]), ("text", 5, [7])):
        present = np.ones(20, dtype=np.bool_)
        present[lacking] = False
        direction = rng.normal(size=width)
        matrix = sign * direction + 0.1 * rng.normal(size=(20, width))
        tables[name] = FeatureTable(ids, matrix.astype(np.float32), present)
    return tables
