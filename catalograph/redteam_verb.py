"""The verb `redteam`: attacks on a finished run's reranker."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from catalograph.options import Folder, Json, Verbose

if TYPE_CHECKING:
    from catalograph.report.data import MetricTable

EXIT_GAIN = 5


def redteam(
    run_dir: Folder,
    attacks: Annotated[
        int | None, typer.Option("--attacks", min=1, help="Texts to try, all families in turn. Default: all.")
    ] = None,
    lists: Annotated[int, typer.Option("--lists", min=1, help="Lists that each text is tried in.")] = 2,
    judged: Annotated[
        int, typer.Option("--judged", min=2, help="Test lists to take NDCG on, with and without limits.")
    ] = 400,
    least_items: Annotated[
        int | None, typer.Option("--least-items", min=2, help="Try this rerank.guard.least_items.")
    ] = None,
    max_gain: Annotated[
        float | None, typer.Option("--max-gain", help="Exit 5 if the texts gain more places within limits.")
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Attack a finished run: texts written to be ranked first, and a copy made from published lists."""
    from catalograph.progress import Progress
    from catalograph.redteam import Attempt
    from catalograph.redteam import redteam as attacked
    from rerank.settings import GuardConfig

    guard = None if least_items is None else GuardConfig(least_items=least_items)
    with Progress() as progress:
        found = attacked(run_dir, Attempt(attacks, lists, judged), guard, progress)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
    else:
        from catalograph.console import print_tables

        print_tables(tables(found))
    injection = found["injection"]
    if injection and max_gain is not None and injection["readers"]["guarded"]["gain"]["mean"] > max_gain:
        raise typer.Exit(EXIT_GAIN)


def tables(found: Mapping[str, Any]) -> list[MetricTable]:
    """The findings for a terminal."""
    from catalograph.report.data import Interval, MetricRow, MetricTable

    def interval(row: Mapping[str, float]) -> Interval:
        return Interval(row["mean"], row["low"], row["high"])

    made = []
    if (injection := found["injection"]) is not None:
        readers = injection["readers"]
        rows = [
            MetricRow(name, {key: interval(reader[key_of]) for key, reader in readers.items()})
            for name, key_of in (
                ("all texts", "gain"),
                ("all, as delivered", "delivered"),
                ("all, over untouched", "over_untouched"),
            )
        ]
        rows += [
            MetricRow(family, {key: interval(reader["family"][family]) for key, reader in readers.items()})
            for family in next(iter(readers.values()))["family"]
        ]
        caption = (
            f"Places gained over neutral words, {injection['attacks']} texts, {injection['trials']:,} trials"
        )
        made.append(MetricTable(caption, list(readers), rows))
        quality = injection["ndcg@10"]
        values = {name: Interval(quality[name]) for name in ("cleaned", "guarded") if name in quality}
        if quality["difference"] is not None:
            values["difference"] = interval(quality["difference"])
        made.append(
            MetricTable(
                f"NDCG@10, {quality['lists']} lists", list(values), [MetricRow("model alone", values)]
            )
        )
    for key, caption in (("tau", "Kendall's tau"), ("overlap", "Overlap of the first 10")):
        sizes = list(dict.fromkeys(str(row["lists"]) for row in found["extraction"]))
        by_way: dict[str, dict[str, Interval]] = {}
        for row in found["extraction"]:
            by_way.setdefault(row["published"], {})[str(row["lists"])] = interval(row[key])
        rows = [MetricRow(name, values) for name, values in by_way.items()]
        made.append(MetricTable(f"{caption} of a copy with the lists, by lists it saw", sizes, rows))
    return made
