"""Retrievers that learn no more, on the catalogue and the choices of today.

Every retriever is frozen in one of three forms:

- *content*: the features' means; items are their features of today, users the mean of what they chose;
- *vectors*: the trained tables. Items that training did not have are unknown. Users whose choices are still
  those of training keep their vector; others are folded in, as newcomers are;
- *weights*: what scores histories through weights of items, on the items of training, for the histories of
  today. Items that training did not have are unknown.

Vectors are rounded to a grid so coarse that no inner product in float64 is rounded: a score is then a
function of the two vectors alone, whatever the block, the library, the threads or the machine. Multiplied in
float32, the last bit depends on where in a block a pair stands, and a list of last night could not be told
from one of today.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from scipy import sparse

from extract.errors import InvalidData
from extract.features import FeatureTable
from extract.store import write_atomic
from recsys.axes import find_rows
from recsys.content_vectors import content_vectors
from recsys.interactions import Interactions
from recsys.newcomers import fold_in
from recsys.order import id_places
from recsys.ranking import Factors, Recommender

Vectors = NDArray[np.float64]
KEY = 16
"""Bytes of a key."""
CARD, BASE = "frozen.json", "base.parquet"


class Frozen(Recommender, Protocol):
    """A frozen retriever on the axes of today."""

    @property
    def known(self) -> NDArray[np.bool_]:
        """True [I] where it can score an item; others are -inf."""
        ...

    def among(self, user_rows: NDArray[np.int32], columns: NDArray[np.int64]) -> NDArray[np.float32]:
        """Scores [B, C] of some items it knows."""
        ...

    def user_keys(self) -> list[bytes]:
        """By user [U], the hash of all that their scores depend on, items aside."""
        ...

    def item_keys(self) -> list[bytes]:
        """By item [I], the hash of all that its scores depend on, users aside."""
        ...


def on_grid(vectors: NDArray[np.floating[Any]]) -> Vectors:
    """Vectors [N, D] rounded so that sums of D products of their entries are exact in float64.

    Each row has a grid of its own, by its largest entry, of (53 - log2 D) / 2 bits: 23 for D = 64, 22 for
    384.
    """
    bits = (53 - int(np.ceil(np.log2(max(vectors.shape[1], 1))))) // 2
    wide = vectors.astype(np.float64)
    _, exponent = np.frexp(np.abs(wide).max(axis=1, keepdims=True, initial=0.0))
    rounded: Vectors = np.ldexp(np.rint(np.ldexp(wide, bits - exponent)), exponent - bits)
    return rounded


@dataclass(frozen=True, eq=False)
class FrozenVectors:
    """Inner products of vectors on the grid: users [U, D], items [I, D], of which some are unknown."""

    users: Vectors
    items: Vectors
    known: NDArray[np.bool_]

    def embeddings(self) -> tuple[Vectors, Vectors]:
        """User vectors [U, D] and item vectors [I, D], those of unknown items 0."""
        return self.users, self.items

    def score(self, user_rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """Inner products [B, I], -inf for unknown items."""
        scores = (self.users[user_rows] @ self.items.T).astype(np.float32)
        scores[:, ~self.known] = -np.inf
        return scores

    def among(self, user_rows: NDArray[np.int32], columns: NDArray[np.int64]) -> NDArray[np.float32]:
        """Inner products [B, C] with some items."""
        return (self.users[user_rows] @ self.items[columns].T).astype(np.float32)

    def user_keys(self) -> list[bytes]:
        """Hashes of the vectors."""
        return _row_keys(self.users)

    def item_keys(self) -> list[bytes]:
        """Hashes of the vectors."""
        return _row_keys(self.items)


@dataclass(frozen=True, eq=False)
class FrozenWeights:
    """A model on the items of training, whose columns are where they stand today."""

    model: Recommender
    histories: sparse.csr_array
    columns: NDArray[np.int64]
    """Column [I] of each item of today among those of training, -1 for one that was not there."""

    @property
    def known(self) -> NDArray[np.bool_]:
        """True [I] for items of training."""
        return self.columns >= 0

    def score(self, user_rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """The model's scores [B, I], -inf for unknown items."""
        scores = np.asarray(self.model.score(user_rows), dtype=np.float32)[:, self.columns]
        scores[:, ~self.known] = -np.inf
        return scores

    def among(self, user_rows: NDArray[np.int32], columns: NDArray[np.int64]) -> NDArray[np.float32]:
        """The model's scores [B, C] of some items."""
        return np.asarray(self.model.score(user_rows), dtype=np.float32)[:, self.columns[columns]]

    def user_keys(self) -> list[bytes]:
        """Hashes of the histories."""
        return [
            content_key(self.histories.indices[start:stop].tobytes())
            for start, stop in zip(self.histories.indptr[:-1], self.histories.indptr[1:], strict=True)
        ]

    def item_keys(self) -> list[bytes]:
        """Hashes of the columns: an item keeps its weights for good."""
        return [content_key(column.tobytes()) for column in self.columns]


def freeze(models: Mapping[str, Recommender], known: Interactions, folder: Path) -> None:
    """Write the frozen form of trained models: `NAME/frozen.json` with what belongs to it, and
    `base.parquet`, the choices they stand on.
    """
    from recsys.content_search import ContentSearch
    from recsys.models import Model, save_model

    known.save(folder / BASE)
    for name, model in models.items():
        own = folder / name
        own.mkdir(parents=True, exist_ok=True)
        if isinstance(model, ContentSearch):
            form, tensors = {"form": "content", "shares": model.shares()}, model.means()
        elif isinstance(model, Factors):
            users, items = model.embeddings()
            form, tensors = {"form": "vectors"}, {"users": users, "items": items}
        else:
            trained: Model = model  # type: ignore[assignment]
            save_model(trained, own)
            form, tensors = {"form": "weights"}, {}
        data = safetensors.numpy.save({n: np.ascontiguousarray(t) for n, t in tensors.items()})
        write_atomic(own / "frozen.safetensors", data)
        write_atomic(own / CARD, json.dumps(form, sort_keys=True).encode())


def thaw(
    folder: Path, names: Sequence[str], known: Interactions, features: Mapping[str, FeatureTable]
) -> dict[str, Frozen]:
    """The retrievers that `freeze` wrote, on the axes of `known`: the choices and items of today.

    Args:
        features: of today; a content form reads those it was frozen with.

    Raises:
        InvalidData: D214, a feature of a content form is not there.
    """
    base = Interactions.load(folder / BASE)
    return {name: _thawed(folder / name, base, known, features) for name in names}


def _thawed(
    folder: Path, base: Interactions, known: Interactions, features: Mapping[str, FeatureTable]
) -> Frozen:
    card = json.loads((folder / CARD).read_text())
    tensors = safetensors.numpy.load((folder / "frozen.safetensors").read_bytes())
    if card["form"] == "content":
        return _content(tensors, card["shares"], known, features)
    if card["form"] == "vectors":
        return _vectors(tensors["users"], tensors["items"], base, known)
    return _weights(folder, base, known)


def _content(
    means: Mapping[str, NDArray[np.float32]], shares: Mapping[str, float], known: Interactions,
    features: Mapping[str, FeatureTable],
) -> FrozenVectors:  # fmt: skip
    if lacking := sorted(set(means) - set(features)):
        raise InvalidData("D214", f"the feature `{lacking[0]}` of a frozen retriever is not there")
    ids = known.item_ids.tolist()
    tables = {name: features[name].aligned_to(ids) for name in sorted(means)}
    items = content_vectors(tables, means, shares)
    # By item id, so that a sum does not depend on the order of the catalogue.
    places = id_places(known.item_ids)
    matrix = known.matrix()
    ordered = sparse.csr_array(
        (matrix.data, places[matrix.indices], matrix.indptr), shape=matrix.shape
    ).sorted_indices()
    by_id = np.empty_like(items)
    by_id[places] = items
    users = np.asarray(ordered @ by_id) / np.maximum(np.diff(matrix.indptr), 1)[:, None]
    return FrozenVectors(on_grid(users), on_grid(items), np.ones(len(items), dtype=np.bool_))


def _vectors(
    users: NDArray[np.float32], items: NDArray[np.float32], base: Interactions, known: Interactions
) -> FrozenVectors:
    columns = find_rows(known.item_ids, base.item_ids)
    there = columns >= 0
    placed = np.zeros((known.n_items, items.shape[1]), dtype=np.float32)
    placed[there] = items[columns[there]]
    rows = find_rows(known.user_ids, base.user_ids)
    kept = (rows >= 0) & ~_changed(base, known, rows)
    own = np.zeros((known.n_users, items.shape[1]), dtype=np.float32)
    own[kept] = users[rows[kept]]
    own[~kept] = fold_in(items, on_items(known, base.item_ids).matrix()[np.flatnonzero(~kept)])
    return FrozenVectors(on_grid(own), on_grid(placed), there)


def _weights(folder: Path, base: Interactions, known: Interactions) -> FrozenWeights:
    from recsys.models import build_model

    card = json.loads((folder / "model.json").read_text())
    data = (folder / "model.safetensors").read_bytes()
    if hashlib.sha256(data).hexdigest() != card["sha256"]:
        raise InvalidData("D215", "a frozen model is damaged", where=str(folder))
    histories = on_items(known, base.item_ids)
    # Without features: they made the weights, and the weights are here.
    model = build_model(card["model"], card["config"], histories)
    model.restore(safetensors.numpy.load(data))
    return FrozenWeights(model, histories.matrix(), find_rows(known.item_ids, base.item_ids))


def on_items(known: Interactions, item_ids: NDArray[np.str_]) -> Interactions:
    """The same choices on another item axis; those on items that it lacks are left out."""
    columns = find_rows(known.item_ids, item_ids)[known.item_rows]
    kept = known.take(columns >= 0)
    return replace(kept, item_ids=item_ids, item_rows=columns[columns >= 0].astype(np.int32))


def _changed(base: Interactions, known: Interactions, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """True [U] for users who have chosen, or given up, an item of today since."""
    then = on_items(base, known.item_ids).matrix()
    there = rows >= 0
    same_users = sparse.csr_array((known.n_users, known.n_items), dtype=np.float32)
    if there.any():
        picked = sparse.csr_array(
            (np.ones(int(there.sum()), np.float32), (np.flatnonzero(there), rows[there])),
            shape=(known.n_users, base.n_users),
        )
        same_users = sparse.csr_array(picked @ then)
    different = abs(same_users - known.matrix())
    return np.asarray(different.sum(axis=1)).ravel() > 0


def _row_keys(vectors: Vectors) -> list[bytes]:
    return [content_key(row.tobytes()) for row in np.ascontiguousarray(vectors)]


def content_key(data: bytes) -> bytes:
    """A short hash, to compare what things are made of."""
    return hashlib.blake2b(data, digest_size=KEY).digest()
