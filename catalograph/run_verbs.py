"""Verbs about retrievers and runs: search settings, lists for newcomers, one list of runs against another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from catalograph.options import Config, Folder, Json, RunDir, Set, Verbose, load_run
from catalograph.running import run_folder


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


def tune(
    config: Config = None,
    sets: Set = None,
    run_dir: RunDir = None,
    retriever: Annotated[
        list[str] | None,
        typer.Option("--retriever", "-r", help="Retriever to search. Repeatable. Default: all."),
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Search for better settings of the retrievers, judged on validation; the same command goes on."""
    from catalograph.progress import Progress
    from catalograph.tuning import tune as search

    resolved = load_run(config, sets, run_dir)
    with Progress() as progress:
        found = search(resolved, run_folder(resolved, config, run_dir), tuple(retriever or ()), progress)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    for name, row in found.items():
        now = "none" if row["present"] is None else f"{row['present']:.4f}"
        best = "none" if row["best"] is None else f"{row['best']:.4f}"
        typer.echo(f"{name}: {row['metric']} {now} as configured, {best} found in {row['tries']} tries")
        for key, value in row["settings"].items():
            typer.echo(f"  --set retrievers.{name}.{key}={value}")


def worth(
    config: Config = None,
    sets: Set = None,
    run_dir: RunDir = None,
    work: Annotated[
        Path | None,
        typer.Option("--work", help="Folder of the trial; the same command goes on there. Default: by name."),
    ] = None,
    price: Annotated[
        float | None, typer.Option("--price", min=0, help="What an hour of this machine costs.")
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Is captioning worth its price here? Captions a sample, trains with, without, and with controls."""
    from catalograph.progress import Progress
    from catalograph.worth import worth as tried

    resolved = load_run(config, sets, run_dir)
    folder = work or Path("runs") / f"worth-{run_folder(resolved, config, run_dir).name}"
    folder.mkdir(parents=True, exist_ok=True)
    with Progress() as progress:
        found = tried(resolved, folder, price, progress)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    from catalograph.console import print_worth

    print_worth(found)
