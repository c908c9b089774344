"""The finished features of a run folder, read back as they were declared, for export and for probing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from catalograph.config import RunConfig
from catalograph.config_file import load_config
from catalograph.integrity import path_hashes, read_stage, require_run
from catalograph.problems import unknown_name
from catalograph.runs import stored_config
from extract.errors import ConfigError, InvalidData, MissingPrerequisite, RunFolderError
from extract.export import FORMATS, MISSING, export_features
from extract.features import FeatureTable
from extract.probe import Probe, probe
from extract.store import hash_file
from extract.tables import read_columns
from extract.vector_ids import read_ids
from recsys.interaction_export import FORMATS as SPLIT_FORMATS
from recsys.interaction_export import PARTS, export_split
from recsys.interactions import Interactions

FOLDER = "30-embed"


def run_features(run_dir: Path, names: Sequence[str] | None = None) -> dict[str, FeatureTable]:
    """Features of a run whose embed stage is finished, by name.

    Args:
        run_dir: the run folder.
        names: which; None: all.

    Raises:
        RunFolderError: not a run folder, or its features are not finished.
        ConfigError: the run has no feature of a name.
        InvalidData: a file is not what the stage declared.
    """
    require_run(run_dir)
    known = stored_config(run_dir).get("features") or {}
    folder = run_dir / "stages" / FOLDER
    record, problems = read_stage(folder)
    if record is None and not problems:
        raise RunFolderError(
            "R107",
            "the features of this run are not finished",
            where=str(run_dir),
            next_step=f"catalograph extract --run-dir {run_dir}",
        )
    tables, declared = {}, dict(path_hashes(record or {}))
    for name in names or known:
        if name not in known:
            raise ConfigError("C003", unknown_name("feature", name, known), where=str(run_dir))
        path = folder / f"{name}.safetensors"
        if not path.is_file() or hash_file(path) != declared.get(path.name):
            raise InvalidData(
                "D113",
                f"stage {FOLDER} does not match its record",
                where=str(path),
                next_step=f"catalograph verify --run-dir {run_dir}",
            )
        tables[name] = FeatureTable.load(path)
    return tables


def export_run(
    run_dir: Path,
    to: Path,
    format: str,
    *,
    names: Sequence[str] | None,
    missing: str,
    ids: Path | None = None,
    id_column: str = "item_id",
    row_column: str | None = None,
) -> list[Path]:
    """Write a run's features into a new folder, as `extract.export.export_features` does.

    Raises:
        ConfigError: a format, a filling or a feature of that name does not exist.
        CatalographError: as `run_features` and `export_features`.
    """
    if format not in FORMATS:
        raise ConfigError("C003", unknown_name("format", format, FORMATS), where="--format")
    filling = next((known for known in MISSING if known == missing), None)
    if filling is None:
        raise ConfigError("C003", unknown_name("choice", missing, MISSING), where="--missing")
    tables = run_features(run_dir, names)
    features = _config(run_dir).features
    return export_features(
        tables,
        to,
        format,
        missing=filling,
        ids=None if ids is None else read_ids(ids, id_column, row_column),
        more={name: features[name].card_facts() for name in tables},
    )


def export_choices(run_dir: Path, to: Path, format: str, name: str = "shop") -> list[Path]:
    """Write a run's train, valid and test choices for another program, as `export_split` does.

    Raises:
        ConfigError: C003, a format of that name does not exist.
        MissingPrerequisite: P102, the split is not made.
        CatalographError: as `export_split`.
    """
    require_run(run_dir)
    if format not in SPLIT_FORMATS:
        raise ConfigError("C003", unknown_name("format", format, SPLIT_FORMATS), where="--interactions")
    folder = run_dir / "stages" / "10-prepare"
    record, problems = read_stage(folder)
    if record is None or problems:
        raise MissingPrerequisite(
            "P102", "the split of this run is not made, or damaged", where=str(run_dir),
            why="; ".join(problems), next_step=f"catalograph prepare --run-dir {run_dir}",
        )  # fmt: skip
    parts = {part: Interactions.load(folder / f"{part}.parquet") for part in PARTS}
    return export_split(parts, to, format, name)


def probe_run(
    run_dir: Path,
    attribute: str,
    *,
    names: Sequence[str] | None,
    sets: Sequence[str] = (),
    separator: str | None,
    **settings: Any,
) -> Mapping[str, Probe]:
    """How well each feature of a run predicts a column of its catalogue.

    Args:
        run_dir: the run folder.
        attribute: the column.
        names: features; None: all.
        sets: overrides of the run's configuration, for data that was moved.
        separator: what parts several values, of which the first counts.
        settings: of `extract.probe.probe`.
    """
    tables = run_features(run_dir, names)
    data = _config(run_dir, sets).data
    column = data.catalog_columns.item_id
    rows = read_columns(data.catalog_path, [column, attribute], ids=[column])
    texts = rows[attribute].to_pylist()
    if separator:
        texts = [text.split(separator)[0].strip() for text in texts]
    labels = dict(zip(rows[column].to_pylist(), texts, strict=True))
    return {
        name: probe(table, [labels.get(item_id, "") for item_id in table.ids], **settings)
        for name, table in tables.items()
    }


def _config(run_dir: Path, sets: Sequence[str] = ()) -> RunConfig:
    return load_config(run_dir / "config.yaml", sets)
