"""An engine whose model is loaded when it is first asked for something: where nothing changed, none is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any


class OnDemand:
    """Stands for a `Captioner` or an `Embedder`.

    Args:
        fingerprint: the engine's, as `engine_fingerprint` gives it without loading the model.
        build: loads the model.
    """

    def __init__(self, fingerprint: Mapping[str, str], build: Callable[[], Any]) -> None:
        self.fingerprint, self._build = dict(fingerprint), build
        self.load_seconds = 0.0
        """What loading took; 0 before."""

    @cached_property
    def _engine(self) -> Any:
        started = time.monotonic()
        engine = self._build()
        self.load_seconds = time.monotonic() - started
        return engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)
