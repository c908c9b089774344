"""The verbs `init`, a first configuration from somebody's tables, and `schema`, all keys for an editor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from catalograph.options import Json


def init(
    folder: Annotated[Path, typer.Argument(help="Folder with the tables.", show_default=False)] = Path("."),
    template: Annotated[
        str | None,
        typer.Option(
            "--template", "-t", help="features, recommend or rerank. Default: what the tables allow."
        ),
    ] = None,
    catalog: Annotated[Path | None, typer.Option("--catalog", help="The table of items.")] = None,
    interactions: Annotated[
        Path | None, typer.Option("--interactions", help="The table of who chose what.")
    ] = None,
    pictures: Annotated[Path | None, typer.Option("--pictures", help="Folder or zip of pictures.")] = None,
    out: Annotated[str, typer.Option("--out", "-o", help="Name of the configuration.")] = "shop.yaml",
    sample: Annotated[
        bool, typer.Option("--sample", help="First draw a small shop into the folder, to try things on.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a commented configuration from the headers of your tables."""
    from catalograph.drafting import TEMPLATES, draft_config

    if template is not None and template not in TEMPLATES:
        raise typer.BadParameter(f"--template {template}: choose from {', '.join(TEMPLATES)}")
    if sample:
        from catalograph.demo.sample import write_sample

        write_sample(folder)
    made = draft_config(
        folder, template=template, catalog=catalog, interactions=interactions, pictures=pictures, name=out
    )
    if as_json:
        fields = {name: getattr(made, name) for name in made.__slots__}
        typer.echo(json.dumps({k: str(v) if isinstance(v, Path) else v for k, v in fields.items()}))
        return
    verb = "extract" if made.template == "features" else "run"
    typer.echo(f"{made.items:,} items in {made.catalog}")
    typer.echo(
        f"choices in {made.interactions}" if made.interactions else "no table of choices: features only"
    )
    typer.echo(f"pictures in {made.pictures}" if made.pictures else "no pictures found")
    typer.echo(f"wrote {made.config}: read it, then")
    typer.echo(f"  catalograph {verb} -c {made.config} --run-dir {Path('runs') / made.config.stem}")


def schema() -> None:
    """Print the JSON Schema of the configuration, for editors."""
    from catalograph.config import config_schema

    typer.echo(json.dumps(config_schema(), indent=1))
