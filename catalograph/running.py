"""What every verb that runs stages does after parsing: find the folder, run, print one result."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from catalograph.config import RunConfig
    from catalograph.stages import RunSummary
    from catalograph.workplace import Extraction

EXIT_PARTIAL = 7
EXTRACTION = ("caption", "embed")
"""Stages whose quarantined items make a success a partial one."""


def run_folder(config: RunConfig, file: Path | None, run_dir: Path | None) -> Path:
    """The run folder: as given, else of the configuration, else by its name and fingerprint."""
    name = file.stem if file else "run"
    return run_dir or config.run_dir or Path("runs") / f"{name}-{config.fingerprint()[:8]}"


def run_and_print(
    config: RunConfig,
    folder: Path,
    stages: Sequence[str] | None,
    as_json: bool,
    extraction: Extraction | None = None,
    come_from: Path | None = None,
) -> int:
    """Run stages, print their result, and return how many items the extraction stages quarantined.

    Of processes that `torchrun` started, the first does that and the others help it to train. `come_from` is
    a run whose stages are taken over where they were made from the same.
    """
    shared = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if shared and os.environ["RANK"] != "0":
        from catalograph.following import follow

        follow()
        return 0
    from catalograph.progress import Progress
    from catalograph.stages import run_stages

    with Progress() as progress, ExitStack() as held:
        origin = None
        if come_from is not None:
            from catalograph.origin import Origin

            origin = held.enter_context(Origin.opened(come_from, progress))
        summary = run_stages(config, folder, stages, progress, extraction, origin)
    if shared:
        from recsys.team import join

        join().dismiss()
    return print_run(summary, as_json)


def print_run(summary: RunSummary, as_json: bool) -> int:
    """Print what a run ended with, and return how many items the extraction stages quarantined."""
    result: dict[str, Any] = summary.to_json()
    if as_json:
        typer.echo(json.dumps(result, ensure_ascii=False, allow_nan=False))
    else:
        from catalograph.console import print_summary

        print_summary(result, summary.tables)
    done: Mapping[str, Any] = result.get("stages", {})
    return sum(int(done[name].get("quarantined") or 0) for name in EXTRACTION if name in done)
