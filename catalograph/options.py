"""Options that several verbs share, and the configuration they name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from catalograph.config import RunConfig

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="Run configuration (YAML). Without it, the one stored in --run-dir.",
        show_default=False,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", "-s", metavar="KEY=VALUE", help="Set one key, such as candidates.k=100. Repeatable."
    ),
]
RunDir = Annotated[
    Path | None,
    typer.Option(
        "--run-dir",
        help="Run folder. Default: run_dir of the configuration, or runs/NAME-HASH.",
        show_default=False,
    ),
]
Folder = Annotated[Path, typer.Option("--run-dir", help="Run folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log more, and show tracebacks.")]


def load_run(config: Path | None, sets: Sequence[str] | None, run_dir: Path | None) -> RunConfig:
    """The configuration of a file, or the one stored in a run folder, with overrides."""
    from catalograph.config_file import load_config

    if config is None and run_dir is not None and (run_dir / "run.json").is_file():
        config = run_dir / "config.yaml"
    if config is None and not sets:
        raise typer.BadParameter(
            "give -c/--config (`catalograph init` writes one), or --run-dir of an existing run"
        )
    return load_config(config, sets or ())
