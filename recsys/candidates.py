"""Candidates: per user K items, one score and one rank per source, and a final order.

What retrievers give and rerankers take.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from extract.errors import ConfigError, InvalidData
from extract.store import write_atomic
from recsys.columns import LONG_METADATA
from recsys.interactions import Interactions
from recsys.ranking import NO_ITEM, Recommender, blocks, exact_ranks, id_places, masked_scores, top_k
from recsys.trec import trec_lines


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Lists of K items for U users.

    ``items`` [U, K] are ids in final order, '' at the end of a list with fewer; ``scores`` float32 [U, K] by
    source, NaN where the source does not know the item; ``ranks`` int32 [U, K] by source, 1-based in that
    source's own list, 0 where unknown; ``final`` float32 [U, K] is the score of the final order. Padded
    places hold NaN, 0 and NaN.
    """

    user_ids: NDArray[np.str_]
    items: NDArray[np.str_]
    scores: Mapping[str, NDArray[np.float32]]
    ranks: Mapping[str, NDArray[np.int32]]
    final: NDArray[np.float32]

    def __post_init__(self) -> None:
        shape = self.items.shape
        found = {"final": self.final.shape}
        found |= {f"scores[{name}]": values.shape for name, values in self.scores.items()}
        found |= {f"ranks[{name}]": values.shape for name, values in self.ranks.items()}
        wrong = {name: got for name, got in found.items() if got != shape}
        if len(shape) != 2 or len(self.user_ids) != shape[0] or wrong:
            raise InvalidData(
                "D208",
                "candidate arrays differ in shape",
                why=f"{len(self.user_ids)} users, items {shape}, {wrong}",
            )
        if set(self.scores) != set(self.ranks):
            raise InvalidData(
                "D208",
                "every source needs scores and ranks",
                why=f"{sorted(self.scores)}, {sorted(self.ranks)}",
            )

    def __len__(self) -> int:
        return len(self.user_ids)

    @property
    def k(self) -> int:
        """Length K of the lists."""
        return int(self.items.shape[1])

    @property
    def mask(self) -> NDArray[np.bool_]:
        """True [U, K] where there is an item."""
        present: NDArray[np.bool_] = self.items != ""
        return present

    def take(self, rows: NDArray[np.bool_] | NDArray[np.integer[Any]]) -> Candidates:
        """The lists of some users, by mask or index."""
        return Candidates(
            self.user_ids[rows],
            self.items[rows],
            {name: values[rows] for name, values in self.scores.items()},
            {name: values[rows] for name, values in self.ranks.items()},
            self.final[rows],
        )

    def head(self, k: int) -> Candidates:
        """The first k places of every list."""
        return replace(
            self,
            items=self.items[:, :k],
            scores={name: values[:, :k] for name, values in self.scores.items()},
            ranks={name: values[:, :k] for name, values in self.ranks.items()},
            final=self.final[:, :k],
        )

    def reordered(
        self, order: NDArray[np.integer[Any]], source_name: str, scores: NDArray[np.floating[Any]]
    ) -> Candidates:
        """The same items in another order, with one more source.

        `order` [U, K] holds, for each new place, the present place of its item: a permutation of 0..K-1 that
        leaves padding at the end, or InvalidData D209. `scores` [U, K] are the new source's, in the
        **present** order (NaN: not scored); its ranks are the new places. All other sources are kept; a
        source of the same name is replaced.
        """
        rows = np.asarray(order, dtype=np.int64)
        expected = np.broadcast_to(np.arange(self.k), self.items.shape)
        if rows.shape != self.items.shape or not np.array_equal(np.sort(rows, axis=1), expected):
            raise InvalidData(
                "D209",
                "an order is no permutation of the candidates",
                where=source_name,
                why=f"shape {rows.shape}",
            )
        if np.shape(scores) != self.items.shape:
            raise InvalidData(
                "D208",
                "scores and candidates differ in shape",
                where=source_name,
                why=f"{np.shape(scores)} against {self.items.shape}",
            )
        mask = np.take_along_axis(self.mask, rows, axis=1)
        if not np.array_equal(mask, self.mask):
            raise InvalidData("D209", "an order moves padding before an item", where=source_name)
        own = np.where(
            mask, np.take_along_axis(np.asarray(scores, dtype=np.float32), rows, axis=1), np.float32(np.nan)
        )
        places = np.where(mask, expected + 1, 0).astype(np.int32)
        return Candidates(
            self.user_ids,
            np.take_along_axis(self.items, rows, axis=1),
            {n: np.take_along_axis(v, rows, axis=1) for n, v in self.scores.items()} | {source_name: own},
            {n: np.take_along_axis(v, rows, axis=1) for n, v in self.ranks.items()} | {source_name: places},
            own,
        )

    def to_parquet(self, path: Path) -> None:
        """Write one row per candidate: user_id, rank, item_id, score, then score_<source>, rank_<source>.

        Same content, same bytes.
        """
        mask = self.mask
        columns: dict[str, Any] = {
            "user_id": np.repeat(self.user_ids, mask.sum(axis=1)),
            "rank": np.broadcast_to(np.arange(1, self.k + 1, dtype=np.int32), mask.shape)[mask],
            "item_id": self.items[mask],
            "score": self.final[mask],
        }
        for name in sorted(self.scores):
            columns[f"score_{name}"] = self.scores[name][mask]
            columns[f"rank_{name}"] = self.ranks[name][mask]
        # A user with an empty list has no row, so the users stand in the metadata too.
        shape = {"user_ids": json.dumps(self.user_ids.tolist()), "k": str(self.k)}
        table = pa.table({
            name: pa.array(values) for name, values in columns.items()
        }).replace_schema_metadata(shape)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        write_atomic(path, sink.getvalue().to_pybytes())

    @classmethod
    def from_parquet(cls, path: Path) -> Candidates:
        """Read what `to_parquet` wrote, or any file with its columns (users then come in order of first
        appearance).
        """
        table = pq.read_table(
            path, thrift_string_size_limit=LONG_METADATA, thrift_container_size_limit=LONG_METADATA
        )
        if lacking := {"user_id", "rank", "item_id", "score"} - set(table.column_names):
            raise InvalidData("D201", f"the candidate file has no column `{min(lacking)}`", where=str(path))
        metadata = table.schema.metadata or {}
        users = table["user_id"].cast(pa.string()).combine_chunks()
        user_ids = (
            json.loads(metadata[b"user_ids"]) if b"user_ids" in metadata else pc.unique(users).to_pylist()
        )
        rows = pc.index_in(users, value_set=pa.array(user_ids, type=pa.string())).to_numpy()
        places = table["rank"].to_numpy().astype(np.int64) - 1
        k = int(metadata.get(b"k", places.max(initial=-1) + 1))
        if (
            len(np.unique(rows * k + places)) != len(rows)
            or places.min(initial=0) < 0
            or places.max(initial=0) >= max(k, 1)
        ):
            raise InvalidData(
                "D209", "two candidates of one user share a rank, or a rank is out of range", where=str(path)
            )

        def spread(name: str, empty: Any) -> Any:
            values = table[name].to_numpy()
            grid = np.full((len(user_ids), k), empty, dtype=np.asarray(empty).dtype)
            grid[rows, places] = values
            return grid

        items = np.asarray(table["item_id"].cast(pa.string()).to_pylist(), dtype=np.str_)
        grid = np.full((len(user_ids), k), "", dtype=items.dtype if len(items) else np.dtype("U1"))
        grid[rows, places] = items
        sources = [name.removeprefix("score_") for name in table.column_names if name.startswith("score_")]
        return cls(
            np.asarray(user_ids, dtype=np.str_),
            grid,
            {name: spread(f"score_{name}", np.float32(np.nan)) for name in sources},
            {name: spread(f"rank_{name}", np.int32(0)) for name in sources},
            spread("score", np.float32(np.nan)),
        )

    def to_trec(self, path: Path, tag: str) -> None:
        """Write a TREC run; whitespace and % in a field are percent-encoded.

        Evaluators sort by the score column, so a final score that ties with, or exceeds, the one before it is
        lowered to the next float32 below that one: the order on disk is the order meant.
        """
        lines = trec_lines(self.user_ids, self.items, self.final, tag)
        write_atomic(path, "".join(lines).encode())


def retrieve(
    models: Mapping[str, Recommender],
    seen: Interactions,
    users: Sequence[str] | NDArray[np.str_],
    k: int,
    *,
    order_by: str | None = None,
    block: int = 256,
) -> Candidates:
    """The k best unseen items of `order_by` (None: the first model), with every model's score and exact rank.

    A rank is among the items not in `seen` of that user, ties by item id. The models must have been built on
    the axes of `seen`.
    """
    leader = next(iter(models), "") if order_by is None else order_by
    if leader not in models:
        raise ConfigError("C201", f"no model is called `{leader}`", why=f"models: {', '.join(models)}")
    user_rows, places = seen.user_rows_of(users), id_places(seen.item_ids)
    items, final = top_k(models[leader], user_rows, seen.matrix(), k, places=places, block=block)
    return described(models, seen, user_rows, leader, items, final, block=block)


def described(
    models: Mapping[str, Recommender],
    seen: Interactions,
    user_rows: NDArray[np.int32],
    leader: str,
    items: NDArray[np.int32],
    final: NDArray[np.float32],
    *,
    block: int = 256,
) -> Candidates:
    """Candidates of lists that `leader` made, rows and scores [U, K], with every other model's score and
    exact rank.
    """
    k, matrix, places = items.shape[1], seen.matrix(), id_places(seen.item_ids)
    own_ranks = np.where(items == NO_ITEM, 0, np.arange(1, k + 1)).astype(np.int32)
    scores, ranks = {leader: final}, {leader: own_ranks}
    for name, model in models.items():
        if name != leader:
            scores[name], ranks[name] = np.full_like(final, np.nan), np.zeros_like(own_ranks)
            for part in blocks(len(user_rows), block):
                full = masked_scores(model, user_rows[part], matrix)
                ranks[name][part] = exact_ranks(full, items[part], places)
                chosen = np.take_along_axis(full, np.maximum(items[part], 0).astype(np.int64), axis=1)
                scores[name][part] = np.where(ranks[name][part] > 0, chosen, np.nan)
    ids = np.append(seen.item_ids, "")[items]
    return Candidates(
        seen.user_ids[user_rows], ids, {n: scores[n] for n in models}, {n: ranks[n] for n in models}, final
    )


def block_within(memory: float, n_items: int, n_models: int, most: int = 256) -> int:
    """Users per block, so that scores, keys and masks of a block stay within `memory` bytes; at least 1."""
    each = n_items * (4 * n_models + 48)
    return int(np.clip(memory // max(each, 1), 1, most))


def concatenated(parts: Sequence[Candidates]) -> Candidates:
    """The lists of several groups of users, of the same K and sources, one after the other."""
    first = parts[0]
    return Candidates(
        np.concatenate([part.user_ids for part in parts]),
        np.concatenate([part.items for part in parts]),
        {name: np.concatenate([part.scores[name] for part in parts]) for name in first.scores},
        {name: np.concatenate([part.ranks[name] for part in parts]) for name in first.ranks},
        np.concatenate([part.final for part in parts]),
    )
