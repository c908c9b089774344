"""Feature tables for other programs: MMRec's arrays, Parquet, and datasets of Hugging Face's library.

An export is a new folder, whole or absent. Rows are in one order for all its features, and a file of ids
says which. What stands in the row of an item without a vector is a choice that the card records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from extract.cards import feature_card
from extract.disk import hash_file, new_folder
from extract.errors import InvalidData, UnsafeInput
from extract.features import FeatureTable

Missing = Literal["mask", "mean", "zero"]
"""What stands in the row of an item without a vector: nothing but a mask, the mean of the others, zeros."""
MISSING: tuple[Missing, ...] = get_args(Missing)

IDS = "item_ids.parquet"
"""Columns item_id and row: which item a row belongs to."""
ROWS_AT_A_TIME = 8192


def export_features(
    features: Mapping[str, FeatureTable],
    folder: Path,
    format: str,
    *,
    missing: Missing = "mask",
    ids: Sequence[str] | None = None,
    more: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Path]:
    """Write features into a new folder, each with its data card, and one file of ids.

    Args:
        features: tables by name.
        folder: does not exist yet.
        format: a name from `FORMATS`.
        missing: what stands in the row of an item without a vector. With "mask", MMRec's arrays hold zeros
            and a mask lies beside them; Parquet and datasets hold null.
        ids: the items and their order; None: all items of the tables, sorted by id.
        more: further facts for each feature's card.

    Returns:
        The files and folders written, sorted.

    Raises:
        UnsafeInput: the folder exists, or a feature has no name for a file of its own.
        InvalidData: an id is doubled, or a mean is wanted where no item has a vector.
    """
    folder = Path(folder)
    for name in features:
        if name in {"", ".", "..", Path(IDS).stem} or set(name) & set("/\\\0"):
            raise UnsafeInput("U408", f"a feature called {name!r} has no file of its own to be written to")
    if ids is None:
        ids = sorted({item_id for table in features.values() for item_id in table.ids})
    with new_folder(folder) as half:
        _write_ids(ids, half / IDS)
        for name, table in features.items():
            aligned = table.aligned_to(ids)
            written = FORMATS[format](half, name, aligned, missing)
            facts = {
                "format": format,
                "missing_rows_hold": missing,
                "files": {path.relative_to(half).as_posix(): hash_file(path) for path in written},
            }
            card = feature_card(name, aligned, {**(more or {}).get(name, {}), "export": facts})
            (half / f"{name}.md").write_text(card, encoding="utf-8")
    return sorted(folder.iterdir())


def _write_ids(ids: Sequence[str], path: Path) -> None:
    pq.write_table(pa.table({"item_id": pa.array(ids, pa.string()), "row": np.arange(len(ids))}), path)


def filled(table: FeatureTable, missing: Missing) -> NDArray[np.float32]:
    """The matrix float32 [I, D] with something in the rows of items without a vector; "mask" leaves zeros.

    Raises:
        InvalidData: a mean is wanted where no item has a vector.
    """
    if missing != "mean" or table.present.all():
        return table.matrix
    if not table.present.any():
        raise InvalidData("D126", "there is no mean: no item has a vector", next_step="choose zero or mask")
    mean = table.matrix.sum(axis=0, dtype=np.float64) / table.present.sum()
    return np.where(table.present[:, None], table.matrix, mean.astype(np.float32))


def _to_mmrec(folder: Path, name: str, table: FeatureTable, missing: Missing) -> list[Path]:
    """NAME_feat.npy in the rows' order, the numbers of missing rows as MMRec lists them, and the mask."""
    array, rows, mask = (
        folder / f"{name}_{part}" for part in ("feat.npy", "missing_rows.txt", "present.npy")
    )
    np.save(array, filled(table, missing))
    np.savetxt(rows, np.flatnonzero(~table.present), fmt="%d")
    if missing != "mask":
        return [array, rows]
    np.save(mask, table.present)
    return [array, rows, mask]


def _to_parquet(folder: Path, name: str, table: FeatureTable, missing: Missing) -> list[Path]:
    path = folder / f"{name}.parquet"
    with pq.ParquetWriter(path, _schema(table.width)) as writer:
        for batch in _batches(table, missing):
            writer.write_batch(batch)
    return [path]


def _to_dataset(folder: Path, name: str, table: FeatureTable, missing: Missing) -> list[Path]:
    import datasets

    rows = pa.Table.from_batches(list(_batches(table, missing)), _schema(table.width))
    # The library invents a fingerprint of its own otherwise, another one each time.
    made = datasets.Dataset(rows, fingerprint=table.content_hash()[:16])
    made.save_to_disk(str(folder / name))
    return sorted(path for path in (folder / name).iterdir() if path.is_file())


def _schema(width: int) -> pa.Schema:
    vector = pa.list_(pa.float32(), width)
    return pa.schema([("item_id", pa.string()), ("present", pa.bool_()), ("vector", vector)])


def _batches(table: FeatureTable, missing: Missing) -> Any:
    matrix = filled(table, missing)
    for start in range(0, len(table), ROWS_AT_A_TIME):
        part = slice(start, start + ROWS_AT_A_TIME)
        present = table.present[part]
        absent = pa.array(~present) if missing == "mask" else None
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix[part].ravel()), table.width, mask=absent)
        columns = [pa.array(table.ids[part], pa.string()), pa.array(present), vectors]
        yield pa.record_batch(columns, schema=_schema(table.width))


FORMATS: dict[str, Callable[[Path, str, FeatureTable, Missing], list[Path]]] = {
    "mmrec": _to_mmrec,
    "parquet": _to_parquet,
    "dataset": _to_dataset,
}
"""Writers by name: folder, feature's name, table and filling in, files written out."""
