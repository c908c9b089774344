"""Verbs that read finished runs: lists for newcomers, and the same list of several runs against another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from catalograph.options import Folder, Json


def newcomers(
    run_dir: Folder,
    histories: Annotated[
        Path, typer.Option("--histories", help="Who chose what: the users to recommend to.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Parquet file to write the lists to.")],
    as_json: Json = False,
) -> None:
    """Recommend to users that a finished run never saw, by their histories."""
    from catalograph.newcomers import recommend_newcomers

    typer.echo(recommend_newcomers(run_dir, histories, out, as_json))


def compare(
    runs: Annotated[list[Path], typer.Option("--run-dir", help="Run folder; repeat it for more seeds.")],
    against: Annotated[list[Path], typer.Option("--against", help="Run folder to compare with; repeatable.")],
    listed: Annotated[str, typer.Option("--list", help="List measured in --run-dir.")] = "retrieved",
    other: Annotated[
        str | None, typer.Option("--against-list", help="List measured in --against; default: the same.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Is a list better than another? Intervals over users and the seeds of several evaluated runs."""
    from catalograph.comparison import compare_runs

    found = compare_runs(runs, listed, against, other or listed)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    from catalograph.comparison import comparison_table
    from catalograph.console import print_tables

    print_tables([comparison_table(found)])
