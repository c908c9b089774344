"""An approximate index of item vectors (HNSW: Malkov & Yashunin, 2018), by usearch: the items with the
highest inner products with a user vector, found without looking at all of them.

Distances are inner products. Angles with one more number, sqrt(M^2 - |x|^2), order items the same way, but
users then lie far from all items: of the 50 best of 20,000 random items, 9 % were found instead of 99 %.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.faults import not_installed
from extract.store import write_atomic
from recsys.ranking import NO_ITEM

# With 32 edges the graph of ALS vectors of 8,000 items fell apart: no search found more than 63 % of the best
# 50. With 64 a search of width 200 finds 99 %.
EDGES, WIDTH_OF_BUILD, WIDTH_OF_SEARCH = 64, 200, 200


def need_usearch() -> Any:
    """The module that does the work; MissingPrerequisite M301 without the extra `ann`."""
    try:
        from usearch import index
    except ImportError as error:
        raise not_installed(error, '"catalograph[ann]"') from error
    return index


def build_index(items: NDArray[np.float32], path: Path) -> None:
    """Write the index of item vectors [I, D] to `path`; keys are rows. Same vectors, same bytes."""
    vectors = np.ascontiguousarray(items, dtype=np.float32)
    index = need_usearch().Index(
        ndim=vectors.shape[1], metric="ip", dtype="f32", connectivity=EDGES, expansion_add=WIDTH_OF_BUILD
    )
    # Short items first: those that come later and are nearer to everybody do not cut them off. In a catalogue
    # in the order of its topics this finds 99.99 % of the best 50 of ALS, that order 86 to 99 %.
    order = np.argsort(np.linalg.norm(vectors, axis=1), kind="stable")
    # One thread, or the graph would depend on their race.
    index.add(order, vectors[order], threads=1)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        index.save(str(Path(scratch) / "index"))
        write_atomic(path, Path(scratch, "index").read_bytes())


def search_index(path: Path, users: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Rows [U, k] of the items nearly nearest to user vectors [U, D], best first, NO_ITEM where none is left.

    The file is mapped, not read. What a user has seen is not left out: ask for more and drop it.
    """
    index = need_usearch().Index.restore(str(path), view=True)
    index.expansion_search = max(WIDTH_OF_SEARCH, 2 * k)
    found = np.full((len(users), k), NO_ITEM, dtype=np.int64)
    for row, vector in enumerate(np.ascontiguousarray(users, dtype=np.float32)):
        keys = index.search(vector, k).keys
        found[row, : len(keys)] = keys
    return found
