"""Verbs on a run's finished features: give them to other programs, and ask what they know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from catalograph.options import Folder, Json, Set

Names = Annotated[
    list[str] | None,
    typer.Option("--feature", "-f", help="A feature of the run. Repeatable. Default: all."),
]


def export(
    run_dir: Folder,
    to: Annotated[Path, typer.Option("--to", help="Folder to make.")],
    format: Annotated[str, typer.Option("--format", help="mmrec, parquet or dataset.")] = "parquet",
    feature: Names = None,
    missing: Annotated[
        str,
        typer.Option(help="What the row of an item without a vector holds: mask, mean or zero."),
    ] = "mask",
    ids: Annotated[
        Path | None,
        typer.Option(help="Items and their order: .txt, .json, .npy or a table. Default: all, sorted by id."),
    ] = None,
    id_column: Annotated[str, typer.Option(help="Column with the item's id in --ids.")] = "item_id",
    row_column: Annotated[
        str | None, typer.Option(help="Column with the row's number from 0 in --ids, as MMRec has it.")
    ] = None,
    interactions: Annotated[
        str | None,
        typer.Option(help="Instead of features, the split: recbole, mmrec or qrels.", show_default=False),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the data set, for --interactions.")] = "shop",
    as_json: Json = False,
) -> None:
    """Features as MMRec's arrays, Parquet or a dataset, each with its data card; or the split's choices."""
    from catalograph.feature_files import export_choices, export_run

    if interactions is not None:
        written = export_choices(run_dir, to, interactions, name)
    else:
        written = export_run(
            run_dir, to, format, names=feature, missing=missing, ids=ids, id_column=id_column,
            row_column=row_column,
        )  # fmt: skip
    if as_json:
        typer.echo(json.dumps({"folder": str(to), "files": [path.name for path in written]}))
    else:
        typer.echo("\n".join(map(str, written)))


def probe(
    run_dir: Folder,
    attribute: Annotated[str, typer.Option("--attribute", "-a", help="Column of the catalogue to predict.")],
    feature: Names = None,
    separator: Annotated[
        str | None,
        typer.Option(help="What parts several values; the first of them counts."),
    ] = None,
    folds: Annotated[int, typer.Option(min=2, help="Parts of the cross-validation.")] = 5,
    train_items: Annotated[
        int | None, typer.Option(min=1, help="Learn from at most this many items in each fold. Default: all.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the folds and of the permutation.")] = 0,
    sets: Set = None,
    as_json: Json = False,
) -> None:
    """How well features predict an attribute of the items, beside the commonest value and permuted labels."""
    from catalograph.feature_files import probe_run

    found = probe_run(
        run_dir, attribute, names=feature, sets=sets or (), separator=separator, folds=folds, seed=seed,
        train_items=train_items,
    )  # fmt: skip
    if as_json:
        typer.echo(json.dumps({name: made.to_json() for name, made in found.items()}, ensure_ascii=False))
    else:
        from catalograph.console import print_probes

        print_probes(attribute, found)
