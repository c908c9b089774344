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
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUN...", help="Run folders to hold against the first, user by user."),
    ] = None,
    runs: Annotated[
        list[Path] | None, typer.Option("--run-dir", help="Seeds of one side: a run folder; repeatable.")
    ] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option("--against", help="Seeds of the other side: a run folder; repeatable."),
    ] = None,
    listed: Annotated[
        str | None,
        typer.Option(
            "--list", help="List that is measured. Default: what each run delivers; of seeds: retrieved."
        ),
    ] = None,
    other: Annotated[
        str | None, typer.Option("--against-list", help="List measured in --against; default: the same.")
    ] = None,
    page: Annotated[Path | None, typer.Option("--page", help="Write an HTML page of the runs here.")] = None,
    as_json: Json = False,
) -> None:
    """Is one run better than another? `compare A B C`, or seeds against seeds by --run-dir and --against."""
    from catalograph.comparison import compare_runs, comparison_table
    from catalograph.report.render import write_report
    from catalograph.side_by_side import compare_side_by_side, comparison_page, side_by_side_tables

    seeds = bool(runs and against)
    if bool(folders) == seeds or (seeds and page) or (not seeds and (runs or against or other)):
        raise typer.BadParameter("give run folders, or --run-dir and --against; --page goes with run folders")
    if folders:
        found = compare_side_by_side(folders, listed)
        tables = side_by_side_tables(found)
        if page is not None:
            write_report(comparison_page(found), page)
    else:
        chosen = listed or "retrieved"
        found = compare_runs(runs or [], chosen, against or [], other or chosen)
        tables = [comparison_table(found)]
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False, default=str))
        return
    from catalograph.console import print_settings, print_tables

    print_tables(tables)
    if folders:
        print_settings(found["settings"])
    if page is not None:
        typer.echo(str(page))


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
