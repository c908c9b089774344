"""Look at the inputs as far as their headers: a wrong column is told in a second, not after an hour."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from catalograph.config import RunConfig
from catalograph.problems import unknown_name
from extract.errors import CatalographError, InvalidData, UnsafeInput
from recsys.interaction_files import column_names


def check_inputs(config: RunConfig) -> None:
    """Check that the inputs exist and have the columns that the configuration names.

    Raises:
        UnsafeInput: U103, an input is missing or cannot be read; with it come the other problems found.
        InvalidData: D111, a column is missing.
    """
    missing: list[str] = []
    wrong: list[str] = []
    data = config.data
    if data.pictures_path is not None and not data.pictures_path.exists():
        missing.append(f"data.pictures: {data.pictures_path} does not exist")
    for modality, feature in config.features.items():
        for source in feature.vectors.files() if feature.vectors is not None else ():
            if not (path := data.under_root(source)).is_file():
                missing.append(f"features.{modality}.vectors: {path} does not exist")
    teacher = None if config.rerank is None else config.rerank.finetune.teacher
    if teacher is not None and not (path := data.under_root(teacher)).is_file():
        missing.append(f"rerank.finetune.teacher: {path} does not exist")
    items, events = data.catalog_columns, data.interaction_columns
    named = _named("data.catalog_columns", items.model_dump(exclude={"picture_pattern"}))
    wanted = {
        "data.catalog": (data.catalog_path, named),
    }
    if data.interactions is not None:
        chosen = _named("data.interaction_columns", events.model_dump())
        wanted["data.interactions"] = (data.interactions_path, chosen)
    tables = {
        "candidates.allow": (config.candidates.allow, ("item_id",)),
        "candidates.deny": (config.candidates.deny, ("item_id",)),
        "evaluate.given": (config.evaluate.given, ("user_id", "group")),
    }
    for key, (file, needed) in tables.items():
        if file is not None:
            wanted[key] = (data.under_root(file), [(key, column) for column in needed])
    for key, (path, names) in wanted.items():
        try:
            columns = column_names(path) if key == "data.interactions" else columns_of(path)
        except CatalographError as error:
            missing.append(f"{key}: {path}: {error.what}" + (f": {error.why}" if error.why else ""))
            continue
        except (OSError, ValueError, EOFError, zlib.error, csv.Error, pa.ArrowException) as error:
            missing.append(f"{key}: {path}: {_reason(error)}")
            continue
        for field, name in names:
            if name not in columns:
                wrong.append(f"{field}: {unknown_name('column', name, columns)}")
    problems = missing + wrong
    if problems:
        kind, code = (UnsafeInput, "U103") if missing else (InvalidData, "D111")
        count = f"{len(problems)} problem{'' if len(problems) == 1 else 's'}"
        raise kind(
            code,
            f"{count} with the inputs\n  " + "\n  ".join(problems),
            next_step="correct the paths and column names under data, or the files",
        )


def columns_of(path: Path) -> list[str]:
    """Column names of a CSV, JSON lines or Parquet file, from its beginning; ValueError for other formats."""
    name = path.name.removesuffix(".gz")
    if name.endswith((".parquet", ".pq")):
        import pyarrow.parquet as parquet

        return list(parquet.read_schema(path).names)
    if not name.endswith((".csv", ".tsv", ".jsonl", ".json")):
        raise ValueError("not a .csv, .jsonl or .parquet file")
    with path.open("rb") as raw:
        stream = gzip.GzipFile(fileobj=raw) if path.name.endswith(".gz") else raw
        with io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
            first = text.readline()
    if name.endswith((".jsonl", ".json")):
        row = json.loads(first)
        if not isinstance(row, dict):
            raise ValueError("its first line is not a JSON object")
        return list(row)
    return next(csv.reader([first], delimiter="\t" if name.endswith(".tsv") else ","), [])


def _named(section: str, columns: Mapping[str, object]) -> list[tuple[str, str]]:
    """(field, column) for every column that a section names."""
    rows: list[tuple[str, str]] = []
    for field, value in columns.items():
        names = value if isinstance(value, list | tuple) else [value]
        rows += [(f"{section}.{field}", name) for name in names if isinstance(name, str)]
    return rows


def _reason(error: Exception) -> str:
    return "does not exist" if isinstance(error, FileNotFoundError) else str(error) or type(error).__name__
