"""What the stages of one run share: its configuration, its folder, its catalogue, and what is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalograph.config import RunConfig
from catalograph.progress import Progress
from catalograph.runs import RunFolder, StageFolder
from catalograph.workplace import Extraction, Workplace
from recsys.interactions import Interactions

if TYPE_CHECKING:
    from catalograph.origin import Origin

SHARDS = "store"
"""Folder of the shards of an extraction stage, which are no results but what these are put together from."""
KEPT = "kept"
"""Folder of what a stage keeps for the next refresh; no results either."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What a stage did to its rows, n_in = n_ok + n_quarantined, and the files it declares as its results."""

    n_in: int
    n_ok: int
    n_quarantined: int = 0
    n_absent: int = 0
    outputs: tuple[str, ...] = field(default=())
    n_anew: int | None = None
    """Of a refresh: rows that could not be taken from the run before; None where nothing could have been."""

    def as_dict(self) -> dict[str, int]:
        """The counts as they are written down and printed."""
        anew = {} if self.n_anew is None else {"anew": self.n_anew}
        counts = {"in": self.n_in, "ok": self.n_ok, "absent": self.n_absent}
        return {**counts, "quarantined": self.n_quarantined, **anew}


class Finished(Workplace):
    """What the stages of a run hold, to be read."""

    def __init__(
        self, config: RunConfig, progress: Progress, extraction: Extraction | None,
        stages: dict[str, StageFolder],
    ) -> None:  # fmt: skip
        super().__init__(config, progress, extraction)
        self._stages = stages

    def stage(self, name: str) -> StageFolder:
        """A stage that was entered."""
        return self._stages[name]

    def is_done(self, name: str) -> bool:
        """Whether a stage was entered and is finished."""
        return name in self._stages and self._stages[name].done

    def hash_of(self, name: str) -> str | None:
        """The content hash of a stage's outputs; None for a stage this run does not have."""
        return self._stages[name].hash if name in self._stages else None

    def path(self, stage: str, name: str) -> Path:
        """A file of a stage; its folder exists."""
        return self._stages[stage].output(name)

    @cached_property
    def known(self) -> Interactions:
        """Train and validation together: what final models learn from and no test list may repeat."""
        return self.part("train").concat(self.part("valid"))

    def part(self, name: str) -> Interactions:
        """One part of the split: train, valid or test."""
        return Interactions.load(self.path("prepare", f"{name}.parquet"))


class Road(Finished):
    """One run on its way."""

    def __init__(
        self, run: RunFolder, config: RunConfig, progress: Progress, extraction: Extraction | None = None,
        origin: Origin | None = None,
    ) -> None:  # fmt: skip
        super().__init__(config, progress, extraction, {})
        self.run = run
        self._origin = origin

    @property
    def origin(self) -> Origin:
        """The run that this one comes from; only where there is one."""
        if self._origin is None:
            raise ValueError("this run comes from no other")
        return self._origin

    def enter(self, name: str, folder: str, parts: Mapping[str, Any], *, renew: bool = False) -> StageFolder:
        """Opens a stage and remembers it."""
        self._stages[name] = self.run.stage(folder, parts, renew=renew)
        return self._stages[name]

    def borrow(self, name: str) -> bool:
        """Takes over a stage of the run this one comes from, if made from the same; whether it did."""
        return self._origin is not None and self._origin.lend(name, self._stages[name], self)

    def outputs_exist(self, name: str) -> bool:
        """Whether what a finished stage wrote outside its folder is there: the report's page."""
        return name != "report" or self.run.report_path.is_file()

    def catalog_parts(self) -> dict[str, Any]:
        """What identifies the catalogue's rows."""
        data = self.config.data
        return {
            "catalog": self.run.input_hash(data.catalog_path),
            "columns": data.catalog_columns.model_dump(mode="json"),
        }

    def _shelf(self, name: str, parts: Mapping[str, Any], buckets: int) -> Path:
        if self.extraction.store is not None:
            return super()._shelf(name, parts, buckets)
        kind, _, feature = name.partition("/")
        stage = "caption" if kind == "captions" else "embed"
        shelf = self._stages[stage].folder / SHARDS / feature
        if self._origin is not None:
            self._origin.seed(stage, feature, shelf, {**parts, "buckets": buckets})
        return shelf
