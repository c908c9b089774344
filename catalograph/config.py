"""RunConfig: everything that decides a run, as frozen models with strict keys.

The settings of each part live beside their owner; this file only puts them together and checks that the
names in one section exist in another. Files and ``--set`` are read by `catalograph.config_file`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator, model_validator
from pydantic_core import PydanticCustomError

from catalograph.config_keys import differences, redact, results_of
from catalograph.cross_checks import cross_problems
from catalograph.feature_config import FeatureConfig
from catalograph.worth_settings import WorthConfig
from extract.engines import CaptionConfig
from extract.errors import ConfigError
from extract.items import CatalogColumns
from extract.store import fingerprint
from recsys.filters import FilterConfig
from recsys.groups import GROUPINGS
from recsys.interactions import InteractionColumns
from recsys.search_space import TuneConfig
from recsys.settings import TrainConfig
from recsys.split import SplitConfig
from rerank.settings import RerankConfig


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class DataConfig(_Section):
    """What is read. Relative paths start at ``root``."""

    root: Path | None = None
    """Folder of the data; relative to the configuration file. Without it, the file's own folder."""
    catalog: str
    """The items: CSV, Parquet or JSON lines, gzip allowed."""
    pictures: str | None = None
    """Folder or zip file with the pictures."""
    interactions: str | None = None
    """Who chose what: CSV, Parquet, JSON lines, RecBole's or MMRec's .inter, a folder saved by datasets.
    null: features only."""
    catalog_columns: CatalogColumns = CatalogColumns()
    """Names of the catalogue's columns."""
    interaction_columns: InteractionColumns = InteractionColumns()
    """Names of the interactions' columns."""
    filter: FilterConfig = FilterConfig()
    """Least numbers of choices per user and per item."""
    split: SplitConfig = SplitConfig()
    """How interactions are divided into train, validation and test."""
    unknown_items: Literal["error", "drop"] = "error"
    """What to do with interactions on items that the catalogue lacks; dropped ones are counted."""
    history_is_ordered: bool | None = None
    """Whether the order of a history means time; null: yes if there are timestamps."""
    memory_gib: Annotated[float, Field(gt=0)] | None = None
    """GiB of memory in which interactions are prepared on disk, with equal results; null: in memory."""

    def under_root(self, name: str) -> Path:
        """A path that starts at the data's root."""
        return (self.root or Path()) / name

    @property
    def catalog_path(self) -> Path:
        """The catalogue file."""
        return self.under_root(self.catalog)

    @property
    def pictures_path(self) -> Path | None:
        """The pictures' folder or zip file."""
        return None if self.pictures is None else self.under_root(self.pictures)

    @property
    def interactions_path(self) -> Path:
        """The interactions file; ConfigError C004 where the configuration is about features only."""
        if self.interactions is None:
            raise ConfigError(
                "C004", "this needs interactions, and the configuration names none",
                where="data.interactions",
                next_step="name the table of who chose what; `catalograph extract` works without",
            )  # fmt: skip
        return self.under_root(self.interactions)


class RetrieverConfig(_Section):
    """One retriever."""

    model: str
    """Name of a recommender, such as ease or lirdrec."""
    features: tuple[str, ...] = ()
    """Modalities given to the model; names from ``features``."""
    params: dict[str, Any] = {}
    """Settings of the model, by `recsys.settings.SETTINGS`."""
    train: TrainConfig = TrainConfig()
    """The training loop; closed-form models ignore it."""


class CandidatesConfig(_Section):
    """Which candidates are handed on."""

    k: Annotated[int, Field(ge=1)] = 50
    """Candidates per user."""
    order_by: str = "best"
    """The retriever whose top k are the candidates; ``best``: the one with the best validation NDCG;
    ``merged``: the weighted sum of all sources' standardised scores, weights from validation."""
    protocol: Literal["strict", "mmrec"] = "strict"
    """``strict``: test lists leave out train and validation items, from models refitted on both; ``mmrec``:
    they leave out train items only, from models that learned from train."""
    sources: tuple[str, ...] = ()
    """Retrievers whose scores are written down for each candidate; empty: all."""
    allow: str | None = None
    """Table with the column item_id: only these items may be listed; null: all."""
    deny: str | None = None
    """Table with the column item_id: these items may not be listed; null: none."""
    cap_by: str | None = None
    """Attribute of the catalogue whose values are capped, several values of an item split at ``|``."""
    cap: PositiveInt = 3
    """Items of one value of ``cap_by`` in a list at most."""
    memory_gib: Annotated[float, Field(gt=0)] = 4.0
    """GiB that the scores of one block of users may take; at least one user at a time is ranked."""
    embeddings: bool = False
    """Whether user and item vectors of retrievers that have them are written, as Parquet."""
    index: bool = False
    """Whether an approximate index of these item vectors is written too, for usearch (extra ``ann``)."""


class EvaluateConfig(_Section):
    """What is measured on the test split."""

    ks: tuple[PositiveInt, ...] = (10, 20)
    """Cut-offs."""
    baselines: tuple[str, ...] = ()
    """Retrievers whose own lists are measured beside the product's."""
    bootstrap: Annotated[int, Field(ge=100)] = 1000
    """Resamples of the users behind each interval."""
    metrics: tuple[Literal["ndcg", "recall", "mrr", "hit", "precision", "map", "map_mmrec"], ...] = (
        "ndcg",
        "recall",
        "mrr",
        "hit",
    )
    """Metrics, each at every cut-off; map_mmrec divides by min(k, truths), as MMRec does."""
    groups: tuple[str, ...] = ("activity", "popularity", "warmth")
    """Groups told apart: activity, popularity, warmth, given; joined by * for intersections."""
    given: str | None = None
    """Table of user groups, CSV or Parquet with the columns user_id and group; null: none."""
    diversity: str | None = None
    """Feature whose cosines tell how varied lists are; null: not measured."""

    @field_validator("groups")
    @classmethod
    def _known_groups(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if unknown := [part for part in name.split("*") if part not in GROUPINGS]:
                raise ValueError(f"`{unknown[0]}` is no grouping; use {', '.join(GROUPINGS)}, joined by *")
        return value


class ReportConfig(_Section):
    """The HTML report."""

    examples: Annotated[int, Field(ge=0)] = 8
    """Users shown with their lists before and after reranking."""
    title: str = "Catalograph run"
    """Heading of the report."""
    notice: str = ""
    """A first line that every reader must see."""


class RunConfig(_Section):
    """A whole run."""

    data: DataConfig
    """What is read."""
    caption: CaptionConfig | None = None
    """The captioner; null: no captions."""
    features: dict[str, FeatureConfig] = {}
    """Named modalities."""
    retrievers: dict[str, RetrieverConfig] = {}
    """Named retrievers, at least one beside `data.interactions`; several give a candidate several scores."""
    candidates: CandidatesConfig = CandidatesConfig()
    """Which candidates are handed on."""
    rerank: RerankConfig | None = None
    """The reranker; null: the candidates are the recommendations."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """What is measured."""
    report: ReportConfig = ReportConfig()
    """The HTML report."""
    report_to: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ()
    """Trackers that get a copy of the report's curves and means, where installed; offline unless told."""
    tune: TuneConfig = TuneConfig()
    """The search of `catalograph tune`."""
    worth: WorthConfig = WorthConfig()
    """The trial of `catalograph worth`."""
    run_dir: Path | None = None
    """The run folder; relative to the working folder."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of folds, shuffles, samples, adapter and intervals; split and retrievers have their own."""
    max_bad: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of items that each extraction stage may quarantine before it stops (at least one, unless 0)."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:1``."""
    threads: PositiveInt | None = None
    """CPU threads; null: as many as the machine offers."""

    @model_validator(mode="after")
    def _names_exist(self) -> RunConfig:
        problems = cross_problems(self.model_dump(mode="json"))
        if problems:
            text = "; ".join(f"{'.'.join(path)}: {what}" for path, what in problems)
            raise PydanticCustomError("cross_check", "{text}", {"text": text})
        return self

    def redacted(self) -> dict[str, Any]:
        """The configuration as plain values, secrets replaced by ``***``."""
        return dict(redact(self.model_dump(mode="json")))

    def to_yaml(self) -> str:
        """The resolved configuration, redacted, in the order of the fields."""
        return yaml.safe_dump(self.redacted(), sort_keys=False, allow_unicode=True)

    def fingerprint(self) -> str:
        """Hash over the keys that affect results."""
        return fingerprint(**results_of(self.redacted()))


def config_schema() -> dict[str, Any]:
    """The JSON Schema of `RunConfig`, for editors."""
    return RunConfig.model_json_schema()


def changed_keys(stored: Mapping[str, Any], config: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Keys affecting results that differ between a stored configuration and this one, as `differences`.

    A key that the stored one does not know counts with its default: a newer version goes on in an old folder.
    """
    try:
        stored = RunConfig.model_validate(stored).redacted()
    except ValueError:
        stored = dict(stored)
    return differences(results_of(stored), results_of(config.redacted()))
