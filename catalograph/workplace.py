"""What extraction needs, in a run or on a store of its own: settings, catalogue, where the shards lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from catalograph.config import RunConfig
from catalograph.progress import Progress
from extract.cpu_share import keep_freed_memory
from extract.engines import CaptionConfig, EmbedConfig, engine_fingerprint
from extract.items import Catalog, read_catalog
from extract.on_demand import OnDemand
from extract.picture_engines import PictureEmbedConfig, picture_engine_fingerprint
from extract.store import ShardStore, content_hash


@dataclass(frozen=True, slots=True)
class Extraction:
    """How an extraction goes about its work; nothing here decides a result."""

    store: Path | None = None
    """Folder of shards that outlives runs; None: they lie in the run folder."""
    part: tuple[int, int] = (0, 1)
    """``(i, n)``: work only on every n-th bucket beginning with i."""
    merge: tuple[Path, ...] = ()
    """Such folders of other processes; shards they hold for the same inputs are taken over."""
    retry_bad: bool = False
    """Work again on what was quarantined."""
    rehash: bool = False
    """Read every picture, whatever its size and modification time."""


class Workplace:
    """Where extraction happens; a run is one, with a folder of results beside."""

    def __init__(self, config: RunConfig, progress: Progress, extraction: Extraction | None = None) -> None:
        self.config, self.progress = config, progress
        self.extraction = extraction or Extraction()
        self._engine: tuple[str, OnDemand] | None = None

    def engine(
        self, settings: CaptionConfig | EmbedConfig | PictureEmbedConfig, build: Callable[[], Any]
    ) -> OnDemand:
        """The engine of these settings; the last one is kept, so that two features may share it.

        Only one is ever in memory: the captioner is gone when the embedder is loaded.
        """
        key = settings.model_dump_json()
        if self._engine is None or self._engine[0] != key:
            parts = (
                picture_engine_fingerprint(settings)
                if isinstance(settings, PictureEmbedConfig)
                else engine_fingerprint(settings)
            )
            self._engine = key, OnDemand(parts, build)
        return self._engine[1]

    @cached_property
    def catalog(self) -> Catalog:
        """The catalogue."""
        data = self.config.data
        return read_catalog(data.catalog_path, data.catalog_columns, data.pictures_path)

    def use_threads(self) -> None:
        """Sets torch's thread count from the configuration; to be called by stages that use torch.

        Memory that a step frees is kept for the next one: an epoch of LightGCN takes a tenth less time.
        """
        keep_freed_memory()
        if self.config.threads is not None:
            import torch

            torch.set_num_threads(self.config.threads)

    def shards(self, name: str, parts: Mapping[str, Any], buckets: int) -> ShardStore:
        """The shard store of these settings, such as `captions` or `features/NAME`.

        Below ``--store`` there is one folder per fingerprint: other settings are kept beside, never mixed.

        Raises:
            RunFolderError: it is damaged.
        """
        return ShardStore(self._shelf(name, parts, buckets), parts, buckets)

    def sources(self, name: str, parts: Mapping[str, Any], buckets: int) -> list[ShardStore]:
        """Stores of the same settings to take shards from."""
        key = _key(parts, buckets)
        folders = (root / name / key for root in self.extraction.merge)
        return [ShardStore.open(folder) for folder in folders if (folder / "store.json").is_file()]

    def _shelf(self, name: str, parts: Mapping[str, Any], buckets: int) -> Path:
        if self.extraction.store is None:
            raise ValueError("without a run folder, shards need a store")
        return self.extraction.store / name / _key(parts, buckets)


def _key(parts: Mapping[str, Any], buckets: int) -> str:
    return content_hash({**parts, "buckets": buckets})[:16]
