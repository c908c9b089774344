"""Feature tables: one vector per item, found by id, with a presence mask and the story of how it was made."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from extract.errors import InvalidData, UnsafeInput
from extract.faults import describe
from extract.store import canonical_json, content_hash, write_atomic

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Provenance:
    """What made a feature table. Empty text means: does not apply."""

    model: str = ""
    revision: str = ""
    prompt: str = ""
    dtype: str = ""
    pooling: str = ""
    inputs_sha256: str = ""
    fingerprint: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Canonical JSON of all fields."""
        return canonical_json(asdict(self)).decode()

    @classmethod
    def from_json(cls, text: str) -> Provenance:
        """The provenance of `to_json`; fields of later releases are left out."""
        known = {entry.name for entry in fields(cls)}
        return cls(**{name: value for name, value in json.loads(text).items() if name in known})


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """Features of items. A row with ``present`` False is all zeros and means: not known, never "zero".

    Args:
        ids: item ids [I], unique.
        matrix: float32 [I, D], finite.
        present: bool [I]; None means that all are.
        provenance: how the features were made.

    Raises:
        InvalidData: the shapes disagree, an id is doubled, or a value is NaN or infinite.
    """

    ids: tuple[str, ...]
    matrix: NDArray[np.float32]
    present: NDArray[np.bool_] = field(default=None)  # type: ignore[arg-type]
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        present = np.ones(len(self.ids), bool) if self.present is None else np.asarray(self.present, bool)
        matrix = np.ascontiguousarray(self.matrix, dtype=np.float32)
        object.__setattr__(self, "ids", tuple(self.ids))
        object.__setattr__(self, "present", present)
        if matrix.ndim != 2 or len(matrix) != len(self.ids) or present.shape != (len(self.ids),):
            found = f"{len(self.ids)} ids, matrix {matrix.shape}, present {present.shape}"
            raise InvalidData(
                "D108", f"features of disagreeing shapes: {found}", why="expected [I], [I, D] and [I]"
            )
        if len(self._rows) < len(self.ids):
            raise InvalidData(
                "D101", f"{len(self.ids) - len(self._rows)} ids appear twice in a feature table"
            )
        bad = np.flatnonzero(present & ~_finite_rows(matrix))
        if len(bad):
            first = ", ".join(self.ids[row] for row in bad[:20])
            raise InvalidData(
                "D109", f"{len(bad)} of {len(self.ids)} items have NaN or infinite features: {first}"
            )
        if matrix[~present].any():
            matrix = np.where(present[:, None], matrix, np.float32(0))
        object.__setattr__(self, "matrix", matrix)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        rows, width = self.matrix.shape
        return f"FeatureTable({rows} items, {int(self.present.sum())} present, {width} wide)"

    @property
    def width(self) -> int:
        """D, the number of features per item."""
        return int(self.matrix.shape[1])

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {item_id: row for row, item_id in enumerate(self.ids)}

    def lacking(self, ids: Sequence[str]) -> list[str]:
        """Those of ``ids`` that this table has no row for, in order."""
        return [item_id for item_id in ids if item_id not in self._rows]

    def aligned_to(self, ids: Sequence[str], *, require: bool = False) -> FeatureTable:
        """The same features with rows in the order of ``ids``; ids without a row become absent rows.

        Args:
            ids: the axis wanted, unique.
            require: refuse when any id has no row here.

        Raises:
            InvalidData: ``require`` and some ids have no row.
        """
        lacking = self.lacking(ids)
        if lacking:
            what = f"features lack {len(lacking)} of {len(ids)} items (first: {', '.join(lacking[:3])})"
            if require:
                raise InvalidData("D114", what, next_step="run the extraction again on this catalogue")
            logger.warning("%s; these rows are absent", what)
        rows = np.array([self._rows.get(item_id, -1) for item_id in ids], dtype=np.int64)
        matrix = np.zeros((len(ids), self.width), np.float32)
        known = rows >= 0
        matrix[known] = self.matrix[rows[known]]
        present = np.zeros(len(ids), bool)
        present[known] = self.present[rows[known]]
        return FeatureTable(tuple(ids), matrix, present, self.provenance)

    def content_hash(self) -> str:
        """sha256 (hex) of ids, values and presence; how they were made is left out."""
        return content_hash([
            list(self.ids),
            list(self.matrix.shape),
            content_hash(self.matrix.tobytes()),
            self.present.tolist(),
        ])

    def to_bytes(self, beside: Mapping[str, NDArray[Any]] | None = None) -> bytes:
        """One safetensors file as bytes; equal tables give equal bytes.

        ``beside`` are tensors that are written along; readers of the table pass them over.
        """
        encoded = [item_id.encode() for item_id in self.ids]
        tensors = {
            "matrix": self.matrix,
            "present": self.present,
            "ids_utf8": np.frombuffer(b"".join(encoded), np.uint8),
            "ids_end": np.cumsum([len(part) for part in encoded], dtype=np.int64),
            **(beside or {}),
        }
        # One metadata key only: safetensors writes several in a hash map's order, which differs by process.
        return bytes(save_tensors(tensors, {"catalograph": feature_header(self.provenance)}))

    @classmethod
    def from_bytes(cls, data: bytes, where: str = "bytes") -> FeatureTable:
        """The table of `to_bytes`.

        Raises:
            InvalidData: not a feature table, truncated, or of another format version.
        """
        try:
            return cls._of_tensors(load_tensors(data), _metadata(data))
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise InvalidData("D107", "not a feature table", where=where, why=describe(error)) from error

    @classmethod
    def _of_tensors(cls, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> FeatureTable:
        header = json.loads(metadata["catalograph"])
        if header["format_version"] != FORMAT_VERSION:
            raise ValueError(
                f"format_version {header['format_version']}, this release reads {FORMAT_VERSION}"
            )
        text, ends = tensors["ids_utf8"].tobytes(), tensors["ids_end"].tolist()
        ids = tuple(text[start:end].decode() for start, end in zip([0, *ends], ends))
        provenance = Provenance.from_json(json.dumps(header["provenance"]))
        return cls(ids, tensors["matrix"], tensors["present"], provenance)

    def save(self, path: Path) -> None:
        """Write the table as one safetensors file, whole or not at all."""
        write_atomic(Path(path), self.to_bytes())

    @classmethod
    def load(cls, path: Path) -> FeatureTable:
        """The table that `save` wrote; its matrix is mapped from the file, pages are read when looked at.

        Raises:
            UnsafeInput: there is no such file.
            InvalidData: the file is no feature table.
        """
        if not Path(path).is_file():
            raise UnsafeInput("U401", "the feature table is not there", where=str(path))
        try:
            # The library checks the whole layout; it copies what it reads, so the matrix is not read by it.
            with safe_open(path, framework="numpy") as file:
                tensors = {name: file.get_tensor(name) for name in ("ids_utf8", "ids_end", "present")}
                metadata = file.metadata() or {}
            return cls._of_tensors(tensors | {"matrix": _mapped(Path(path), "matrix")}, metadata)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise InvalidData("D107", "not a feature table", where=str(path), why=describe(error)) from error


def _mapped(path: Path, name: str) -> NDArray[np.float32]:
    """A float32 tensor of a safetensors file as memory-mapped rows; writing to it changes no file."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(length))[name]
    if entry["dtype"] != "F32":
        raise ValueError(f"{name} is {entry['dtype']}, expected F32")
    if not np.prod(entry["shape"]):
        return np.zeros(entry["shape"], np.float32)
    start = 8 + length + entry["data_offsets"][0]
    return np.memmap(path, np.dtype("<f4"), "c", start, tuple(entry["shape"]))


def _finite_rows(matrix: NDArray[np.float32], block: int = 65_536) -> NDArray[np.bool_]:
    """Which rows hold no NaN and no infinity, looked at block by block."""
    blocks = [np.isfinite(matrix[at : at + block]).all(axis=1) for at in range(0, len(matrix), block)]
    return np.concatenate(blocks) if blocks else np.ones(0, bool)


def feature_header(provenance: Provenance) -> str:
    """What a feature file says about itself, as JSON."""
    return canonical_json({"format_version": FORMAT_VERSION, "provenance": asdict(provenance)}).decode()


def _metadata(data: bytes) -> dict[str, str]:
    length = int.from_bytes(data[:8], "little")
    return dict(json.loads(data[8 : 8 + length])["__metadata__"])
