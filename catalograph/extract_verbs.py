"""The verbs `extract`, into a run or a store that outlives runs, and `estimate`, what that will take."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from catalograph.options import Config, Json, RunDir, Set, Verbose, load_run
from catalograph.running import EXIT_PARTIAL, EXTRACTION, run_and_print, run_folder

if TYPE_CHECKING:
    from catalograph.config import RunConfig
    from catalograph.workplace import Extraction


def extract(
    config: Config = None,
    sets: Set = None,
    run_dir: RunDir = None,
    store: Annotated[
        Path | None, typer.Option("--store", help="Keep shards here, for this and later runs.")
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Bring --store up to date with the catalogue; no run folder.")
    ] = False,
    stage: Annotated[
        list[str] | None, typer.Option("--stage", help="Only this stage, caption or embed. Repeatable.")
    ] = None,
    shard: Annotated[
        str | None, typer.Option("--shard", metavar="I/N", help="With --update: part I of N, I from 1.")
    ] = None,
    merge: Annotated[
        list[Path] | None,
        typer.Option("--merge", help="With --update: take shards from this store of a part. Repeatable."),
    ] = None,
    ray: Annotated[
        int | None, typer.Option("--ray", min=1, help="With --update: on so many workers of a Ray cluster.")
    ] = None,
    retry_bad: Annotated[bool, typer.Option("--retry-bad", help="Try quarantined items again.")] = False,
    rehash: Annotated[
        bool, typer.Option("--rehash", help="Read every picture, whatever its size and time.")
    ] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Captions and text embeddings into the feature store. Exits 7 if items were quarantined."""
    from catalograph.workplace import Extraction

    unknown = [name for name in stage or () if name not in EXTRACTION]
    if unknown:
        raise typer.BadParameter(f"--stage {unknown[0]}: choose from {', '.join(EXTRACTION)}")
    if update and store is None:
        raise typer.BadParameter("--update needs --store DIR, the folder that is brought up to date")
    if (shard or merge or ray) and not update:
        raise typer.BadParameter("--shard, --merge and --ray work on a store: add --update and --store DIR")
    if shard and ray:
        raise typer.BadParameter("--ray divides the work by itself: leave --shard out")
    resolved, stages = load_run(config, sets, run_dir), tuple(stage or EXTRACTION)
    how = Extraction(store, part_of(shard), tuple(merge or ()), retry_bad, rehash)
    if update:
        quarantined = _update_and_print(resolved, how, stages, ray, as_json)
    else:
        quarantined = run_and_print(resolved, run_folder(resolved, config, run_dir), stages, as_json, how)
    if quarantined:
        raise typer.Exit(EXIT_PARTIAL)


def _update_and_print(
    config: RunConfig, how: Extraction, stages: Sequence[str], workers: int | None, as_json: bool
) -> int:
    """Bring a store up to date, print what was done, and return how many items were quarantined."""
    from catalograph.console import print_stages
    from catalograph.progress import Progress
    from catalograph.updating import stores_below, update_store

    for folder in how.merge:
        # A folder of nothing would be merged without a word, and all of its work done again.
        stores_below(folder)
    with Progress() as progress:
        if workers is None:
            result = update_store(config, how, stages, progress)
        else:
            from catalograph.ray_driver import update_with_ray

            result = update_with_ray(config, how, stages, workers, progress)
    if as_json:
        typer.echo(json.dumps(result, ensure_ascii=False))
    else:
        print_stages(result["stages"])
        typer.echo(result["store"])
    return sum(row["quarantined"] for row in result["stages"].values())


def estimate(
    config: Config = None,
    sets: Set = None,
    run_dir: RunDir = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.1, help="Measure each stage for about so long.")
    ] = 20.0,
    price: Annotated[
        float | None, typer.Option("--price", min=0, help="What an hour of this machine costs.")
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """What extract will take: items per second, hours, memory, disk and money, from a sample that is run."""
    from catalograph.estimating import estimate as estimated
    from catalograph.progress import Progress

    with Progress() as progress:
        result = estimated(load_run(config, sets, run_dir), seconds, price, progress)
    if as_json:
        typer.echo(json.dumps(result))
        return
    from catalograph.console import print_estimate

    print_estimate(result)


def part_of(shard: str | None) -> tuple[int, int]:
    """``I/N`` counts from 1, as people do; the library from 0."""
    if shard is None:
        return 0, 1
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise typer.BadParameter(f"--shard {shard}: give I/N with 1 <= I <= N, such as 1/4")
    return int(match[1]) - 1, int(match[2])
