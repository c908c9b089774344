"""Checkpoints: tensors and JSON, no pickle.

The newest one whose hash is right counts; a torn one is as if it were never written.

Used by both training loops (`recsys.train`, `rerank.train`).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from extract.store import write_atomic

logger = logging.getLogger(__name__)

# The one before the newest stays: it is what is left if the newest turns out broken.
KEPT = 2


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Tensors by name, and the JSON object saved with them."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]


def save_checkpoint(folder: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write the next checkpoint and drop old ones.

    First come the tensors, then the JSON that holds their SHA-256 and makes them count. `meta` must be JSON;
    floats come back exactly.
    """
    folder.mkdir(parents=True, exist_ok=True)
    committed = _committed(folder)
    number = 1 + (int(committed[-1].stem.split("-")[1]) if committed else 0)
    data = safetensors.torch.save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
    write_atomic(folder / f"checkpoint-{number:08d}.safetensors", data)
    row = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "meta": dict(meta)}
    write_atomic(folder / f"checkpoint-{number:08d}.json", json.dumps(row).encode())
    for old in committed[: -(KEPT - 1)]:
        old.unlink()
        old.with_suffix(".safetensors").unlink(missing_ok=True)


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint whose bytes match its hash; None where there is none.

    Broken ones are logged and passed over.
    """
    for path in reversed(_committed(folder)):
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
            data = path.with_suffix(".safetensors").read_bytes()
            if hashlib.sha256(data).hexdigest() == row["sha256"]:
                return Checkpoint(safetensors.torch.load(data), row["meta"])
            logger.warning("%s is broken: its hash does not match; using an older one", path)
        except (OSError, ValueError, KeyError) as problem:
            logger.warning("%s is broken: %s; using an older one", path, problem)
    return None


def _committed(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*.json")) if folder.is_dir() else []
