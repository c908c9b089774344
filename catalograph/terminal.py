"""What reaches stderr: our own log lines, and not the chatter of the libraries that load models."""

from __future__ import annotations

import logging
import os
import sys

QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""Environment of the libraries, which send no usage data then; what the user has set stays."""


def quieten_libraries() -> None:
    """Turn off the model libraries' bars and advice; to be called before they are imported."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def configure_logging(verbose: bool) -> None:
    """Send our warnings to stderr, and with `verbose` everything we log."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    for name in ("extract", "recsys", "rerank", "catalograph"):
        logger = logging.getLogger(name)
        # Replaced rather than added, so that calling `main` twice in one process does not double every line.
        logger.handlers = [handler]
        logger.setLevel(logging.INFO)
    handler.setLevel(logging.DEBUG if verbose else logging.WARNING)
