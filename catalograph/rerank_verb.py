"""The verb `rerank`: the stage of a run, or the results of any search engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from catalograph.options import Config, Json, RunDir, Set, Verbose, load_run
from catalograph.running import run_and_print, run_folder


def rerank(
    config: Config = None,
    sets: Set = None,
    run_dir: RunDir = None,
    requests: Annotated[
        Path | None,
        typer.Option("--requests", help="Search results: JSON lines with query, candidates and texts."),
    ] = None,
    trec: Annotated[
        Path | None,
        typer.Option("--trec", help="Search results: a TREC run, with --queries and --texts."),
    ] = None,
    queries: Annotated[
        Path | None, typer.Option("--queries", help="Queries of --trec: JSON lines, or id, tab, words.")
    ] = None,
    texts: Annotated[
        Path | None, typer.Option("--texts", help="Documents of --trec: JSON lines, or id, tab, text.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Search: folder or hub name of the language model.")
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option("--adapter", help="Search: adapter folder of a run's finetune stage.")
    ] = None,
    qrels: Annotated[
        Path | None, typer.Option("--qrels", help="Search: judgments; prints NDCG@10 before and after.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Search: TREC run to write, or .parquet.")] = Path(
        "reranked.trec"
    ),
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Reorder the candidates of a run, or with --requests or --trec the results of any search engine.

    For search, --set sets keys of the section `rerank`, such as inference.window=20.
    """
    if requests is None and trec is None:
        resolved = load_run(config, sets, run_dir)
        run_and_print(resolved, run_folder(resolved, config, run_dir), ("rerank",), as_json)
        return
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


def _lines(told: dict[str, Any]) -> str:
    return "\n".join(f"{name}: {value}" for name, value in told.items())
