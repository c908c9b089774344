"""Verbs that start from a run that is there: `run --from`, `refresh`, and `runs` about the folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from catalograph.options import Config, Folder, Json, RunDir, Set, Verbose, load_run
from catalograph.running import EXIT_PARTIAL, run_and_print, run_folder

runs = typer.Typer(help="Run folders: list them, show one, resume it, free space.", no_args_is_help=True)

Below = Annotated[Path, typer.Argument(help="Folder whose run folders are meant, at any depth.")]
One = Annotated[Path, typer.Argument(help="Run folder.")]


def run(
    config: Config = None,
    sets: Set = None,
    run_dir: RunDir = None,
    come_from: Annotated[
        Path | None, typer.Option("--from", help="Run folder whose stages are reused where they still hold.")
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """All stages in order, skipping what is done. Exits 7 if items were quarantined."""
    resolved = load_run(config, sets, run_dir)
    folder = run_folder(resolved, config, run_dir)
    _refuse_same(folder, come_from)
    if run_and_print(resolved, folder, None, as_json, come_from=come_from):
        raise typer.Exit(EXIT_PARTIAL)


def refresh(
    run_dir: Folder,
    come_from: Annotated[Path, typer.Option("--from", help="Finished run, or a refreshed one.")],
    config: Config = None,
    sets: Set = None,
    store: Annotated[
        Path | None, typer.Option("--store", help="Store of the shards, where the run was given one.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Do everything anew but the models: the same bytes, slowly.")
    ] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Lists for today's catalogue and choices by the models of a run; only what they touch is done again.

    Exits 7 if items were quarantined.
    """
    from catalograph.progress import Progress
    from catalograph.refreshing import refresh as refreshed
    from catalograph.running import print_run
    from catalograph.workplace import Extraction

    _refuse_same(run_dir, come_from)
    if full and store:
        raise typer.BadParameter("--full does everything anew: leave --store out")
    resolved = load_run(config, sets, come_from)
    how = Extraction(store)
    with Progress() as progress:
        summary = refreshed(resolved, run_dir, come_from, full=full, progress=progress, extraction=how)
    if print_run(summary, as_json):
        raise typer.Exit(EXIT_PARTIAL)


def _refuse_same(folder: Path, come_from: Path | None) -> None:
    if come_from is not None and folder.resolve() == come_from.resolve():
        raise typer.BadParameter("--from and --run-dir are one folder: a finished run is never changed")


@runs.command("ls")
def list_runs(below: Below = Path("runs"), as_json: Json = False) -> None:
    """Run folders below a folder, with their state."""
    from catalograph.run_states import as_line, states_below

    found = states_below(below)
    if as_json:
        typer.echo(json.dumps([state.to_json() for state in found], ensure_ascii=False))
        return
    typer.echo("\n".join(map(as_line, found)) or f"{below}: no run folders")


@runs.command("show")
def show_run(folder: One, as_json: Json = False) -> None:
    """One run: its stages with times and sizes, its hash, and where it came from."""
    from catalograph.run_states import described, details

    found = details(folder)
    typer.echo(json.dumps(found, ensure_ascii=False) if as_json else described(found))


@runs.command("resume")
def resume_run(folder: One, as_json: Json = False, verbose: Verbose = False) -> None:
    """Go on with a run as it was begun. Exits 7 if items were quarantined."""
    from catalograph.run_states import begun

    start = begun(folder)
    if start.refreshed:
        if start.come_from is None:
            raise typer.BadParameter("this refresh ended before it had begun: give its command again")
        refresh(folder, start.come_from, folder / "config.yaml", full=start.full, as_json=as_json)
    else:
        run(None, None, folder, start.come_from, as_json)


@runs.command("gc")
def collect_garbage(
    below: Below = Path("runs"),
    delete: Annotated[bool, typer.Option("--delete", help="Delete; otherwise only told.")] = False,
    as_json: Json = False,
) -> None:
    """What runs left that no result needs: checkpoints of finished stages, unfinished files."""
    from catalograph.run_states import garbage

    found = garbage(below, delete=delete)
    if as_json:
        typer.echo(json.dumps({"deleted": delete, "files": found}, ensure_ascii=False))
        return
    for row in found:
        typer.echo(f"{row['bytes'] / 2**20:10.1f} MB  {row['path']}  ({row['why']})")
    total = sum(row["bytes"] for row in found) / 2**20
    typer.echo(f"{total:,.1f} MB {'deleted' if delete else 'can be deleted: give --delete'}")
