"""A configuration as dotted keys: what differs, what decides results, what must not be shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from extract.endpoint_settings import EndpointConfig

NOT_RESULTS = (
    *("run_dir", "data.root", "data.memory_gib", "report", "report_to", "tune", "worth"),
    *("max_bad", "threads"),
    *("candidates.memory_gib", "caption.decoders", "features.*.pictures.decoders"),
    *(f"caption.endpoint.{key}" for key in EndpointConfig.model_fields if key != "jpeg_quality"),
)
"""Keys, with all below them, that may differ between two runs of one folder.

``data.root`` is here because inputs are recognised by their content, and ``threads`` because it moves at
most the last bits of a sum, as another machine does. ``device`` is not: it chooses other kernels. A server
for captions may move: its settings are here, except how pictures are sent.
"""

SECRET = re.compile(r"(^|_)(token|password|passwd|secret|credentials?|api_?key|access_key)$", re.IGNORECASE)
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def flatten(value: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys; lists are values, empty mappings too."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        path = f"{above}{key}"
        flat |= flatten(item, path + ".") if isinstance(item, Mapping) and item else {path: item}
    return flat


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ, with the old and the new value; None where a side has none."""
    before, after = flatten(old), flatten(new)
    keys = dict.fromkeys([*before, *after])
    return {k: (before.get(k), after.get(k)) for k in keys if before.get(k) != after.get(k)}


def results_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The dotted keys of a configuration that affect results."""
    return {
        key: value
        for key, value in flatten(config).items()
        if not any(fnmatchcase(key, skip) or key.startswith(skip + ".") for skip in NOT_RESULTS)
    }


def redact(value: Any, key: str = "") -> Any:
    """`value` with ``***`` for the values of keys that name secrets and for credentials inside addresses."""
    if isinstance(value, Mapping):
        return {k: redact(v, str(k)) for k, v in value.items()}
    if isinstance(value, list):
        return [redact(v, key) for v in value]
    if isinstance(value, str):
        return "***" if SECRET.search(key) and value else _CREDENTIALS.sub("***", value)
    return value
