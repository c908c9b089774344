"""Hostile ready vectors: npy and safetensors files that lie, and pickles."""

from __future__ import annotations

import io
import json
import pickle
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from hostile_shop import CONFIG, Bomb, Case, Spoil, no_code_ran


def ready(name: str, data: bytes, ids: str | None = "ids.txt", **more: Any) -> Spoil:
    """Ready vectors of the twelve items in a file of these bytes."""

    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(data)
        (folder / "ids.txt").write_text("".join(f"i{n}\n" for n in range(12)))
        config = json.loads(json.dumps(CONFIG)) | {"caption": None}
        source = {"path": name, **({"ids": ids} if ids else {}), **more}
        config["features"] = {"ready": {"vectors": source}}
        (folder / "run.yaml").write_text(yaml.safe_dump(config))

    return spoil


def npy(array: Any) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array, allow_pickle=True)
    return sink.getvalue()


def npy_header(shape: tuple[int, ...], kind: str = "<f4", body: bytes = b"") -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape!r}, }}".encode()
    text += b" " * (63 - (len(text) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


def tensors(header: Any, body: bytes = b"", size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + body


def tensor(shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


MATRIX = np.arange(24, dtype=np.float32).reshape(12, 2)
WHOLE = tensors({"x": tensor([12, 2], 0, 96)}, MATRIX.tobytes())


def vector_cases() -> Iterator[Case]:
    """npy and safetensors as ready vectors."""
    bomb = npy(np.array([Bomb()] * 12, dtype=object))
    for name, data in {
        "an npy file of pickled objects": bomb,
        "an npy header of 4 TB": npy_header((10**9, 1024)),
        "an npy header of a negative shape": npy_header((-12, 2)),
        "a cut npy file": npy(MATRIX)[:-40],
        "an npy file of text": npy(np.array(["a"] * 12)),
        "an npy file of complex numbers": npy(MATRIX.astype(np.complex64)),
        "an npy file of one row": npy(MATRIX[:1]),
        "an npy file of three dimensions": npy(MATRIX.reshape(12, 2, 1)),
        "an npy file without bytes": b"",
    }.items():
        yield Case("npy", name, "extract", ready("v.npy", data), 5, "error[D12", check=no_code_ran)
    for name, data in {
        "a truncated file": WHOLE[:-8],
        "a byte too many": WHOLE + b"x",
        "a shape that lies": tensors({"x": tensor([12, 200], 0, 96)}, MATRIX.tobytes()),
        "overlapping tensors": tensors(
            {"x": tensor([12, 2], 0, 96), "y": tensor([12, 2], 0, 96)}, MATRIX.tobytes()
        ),
        "a header of 2^63 bytes": tensors({"x": tensor([12, 2], 0, 96)}, MATRIX.tobytes(), size=2**63),
        "a header of 101 MB": tensors(b'{"x":' + b" " * 101_000_000, size=101_000_005),
        "a header that is no JSON": tensors(b"{" * 64),
        "offsets behind the end": tensors({"x": tensor([12, 2], 10**15, 10**15 + 96)}, MATRIX.tobytes()),
    }.items():
        yield Case(
            "safetensors", name, "extract", ready("v.safetensors", data), 5, "error[D12", check=no_code_ran
        )
    holed = MATRIX.copy()
    holed[3] = np.nan
    body = tensors({"x": tensor([12, 2], 0, 96)}, holed.tobytes())
    yield Case("safetensors", "NaN in a payload", "extract", ready("v.safetensors", body), 7, "1 quarantined")
    yield Case(
        "safetensors",
        "one flipped byte in a finished feature",
        "verify",
        flip_feature,
        5,
        "content differs from its recorded hash",
        first="extract",
    )
    for suffix in ("pt", "pkl", "bin", "ckpt"):
        data = pickle.dumps(Bomb())
        yield Case(
            "pickle",
            f"vectors in a .{suffix} file",
            "extract",
            ready(f"v.{suffix}", data),
            4,
            "unknown kind",
            check=no_code_ran,
        )


def flip_feature(folder: Path) -> None:
    path = folder / "run" / "stages" / "30-embed" / "words.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
