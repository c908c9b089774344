"""The verb `rerank`: the stage of a run, or the results of any search engine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from catalograph.extract_verbs import part_of
from catalograph.options import Config, Json, RunDir, Set, Verbose, load_run
from catalograph.running import run_and_print, run_folder

Store = Annotated[
    Path | None, typer.Option("--store", help="With --shard: folder to keep the part's lists in.")
]
Shard = Annotated[
    str | None, typer.Option("--shard", metavar="I/N", help="Only part I of N, I from 1, into --store.")
]
Merge = Annotated[
    list[Path] | None,
    typer.Option("--merge", help="Take lists over from this --store of a part. Repeatable."),
]
Ray = Annotated[int | None, typer.Option("--ray", min=1, help="On so many workers of a Ray cluster.")]
Requests = Annotated[
    Path | None,
    typer.Option("--requests", help="Search results: JSON lines with query, candidates and texts."),
]
Trec = Annotated[
    Path | None, typer.Option("--trec", help="Search results: a TREC run, with --queries and --texts.")
]
Queries = Annotated[
    Path | None, typer.Option("--queries", help="Queries of --trec: JSON lines, or id, tab, words.")
]
Texts = Annotated[
    Path | None, typer.Option("--texts", help="Documents of --trec: JSON lines, or id, tab, text.")
]
Model = Annotated[
    str | None, typer.Option("--model", help="Search: folder or hub name of the language model.")
]
Adapter = Annotated[
    Path | None, typer.Option("--adapter", help="Search: adapter folder of a run's finetune stage.")
]
Qrels = Annotated[
    Path | None, typer.Option("--qrels", help="Search: judgments; prints NDCG@10 before and after.")
]
Out = Annotated[Path, typer.Option("--out", help="Search: TREC run to write, or .parquet.")]


def rerank(
    config: Config = None,
    sets: Set = None,
    run_dir: RunDir = None,
    store: Store = None,
    shard: Shard = None,
    merge: Merge = None,
    ray: Ray = None,
    requests: Requests = None,
    trec: Trec = None,
    queries: Queries = None,
    texts: Texts = None,
    model: Model = None,
    adapter: Adapter = None,
    qrels: Qrels = None,
    out: Out = Path("reranked.trec"),
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Reorder the candidates of a run, or with --requests or --trec the results of any search engine.

    For search, --set sets keys of the section `rerank`, such as inference.window=20.
    """
    if requests is None and trec is None:
        if shard or store:
            _rerank_part(
                config, sets, run_dir, store, shard, (*(merge or ()), *((ray,) if ray else ())), as_json
            )
            return
        resolved = load_run(config, sets, run_dir)
        folder = run_folder(resolved, config, run_dir)
        if merge or ray:
            _gather(folder, merge or (), ray)
        run_and_print(resolved, folder, ("rerank",), as_json)
        return
    if shard or store or merge or ray:
        raise typer.BadParameter("--store, --shard, --merge and --ray are for runs, not for search")
    if model is None or (requests is not None and trec is not None):
        raise typer.BadParameter("search needs --model, and one of --requests and --trec")
    if trec is not None and (queries is None or texts is None):
        raise typer.BadParameter("--trec needs --queries and --texts")
    from catalograph.searching import rerank_results, search_settings
    from rerank.search import read_requests, read_run

    settings = search_settings(model, sets or ())
    if requests is not None:
        results = read_requests(requests)
    elif trec is not None and queries is not None and texts is not None:
        results = read_run(trec, queries, texts)
    told = rerank_results(results, settings, out, adapter=adapter, qrels=qrels)
    typer.echo(json.dumps(told, ensure_ascii=False) if as_json else _lines(told))


def _rerank_part(
    config: Path | None, sets: Sequence[str] | None, run_dir: Path | None, store: Path | None,
    shard: str | None, more: Sequence[object], as_json: bool,
) -> None:  # fmt: skip
    """One part of a run's lists, into a store."""
    if run_dir is None or store is None or shard is None or config or sets or more:
        raise typer.BadParameter("a part needs --run-dir, --store and --shard, and nothing else")
    from catalograph.progress import Progress
    from catalograph.rerank_shards import rerank_part

    with Progress() as progress:
        counts = rerank_part(run_dir, part_of(shard), store, progress)
    told: dict[str, Any] = {"store": str(store), **counts}
    typer.echo(json.dumps(told, ensure_ascii=False) if as_json else _lines(told))


def _gather(folder: Path, merge: Sequence[Path], workers: int | None) -> None:
    """Puts blocks of lists into a run's rerank stage, from stores of parts or from Ray workers."""
    from catalograph.integrity import read_stage
    from catalograph.progress import Progress
    from catalograph.rerank_parts import merge_blocks
    from catalograph.stages import STAGES

    own = folder / "stages" / STAGES["rerank"].folder
    if read_stage(own)[0] is not None:
        return
    merge_blocks(merge, own)
    if workers is not None:
        from catalograph.ray_driver import rerank_with_ray

        with Progress() as progress:
            rerank_with_ray(folder, own, workers, progress)


def _lines(told: dict[str, Any]) -> str:
    return "\n".join(f"{name}: {value}" for name, value in told.items())
