"""The report stage: gathers what a run left behind into one page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from catalograph import evaluation, metric_tables
from catalograph.config_keys import flatten
from catalograph.delivered import read_delivered
from catalograph.examples import examples
from catalograph.extraction import quarantined
from catalograph.headlines import headlines
from catalograph.item_cards import ItemCards
from catalograph.report.data import Chart, QuarantineRow, ReportData, Series, StageRow
from catalograph.report.render import write_report
from catalograph.road import Counts, Road
from catalograph.shortfalls import shortfalls
from catalograph.trackers import Told, tell_trackers
from extract.decoding import decoding
from extract.pictures import PictureLimits

STAGES = ("prepare", "caption", "embed", "train", "recommend", "finetune", "rerank", "evaluate")
PROTOCOLS = {
    "strict": "Protocol strict: models were refitted on train and validation for the number of epochs "
    "chosen there, and test lists leave out the items of both.",
    "mmrec": "Protocol mmrec: models learned from train only, and test lists leave out train items only, so "
    "validation items compete with the truths.",
}


def report_parts(road: Road) -> dict[str, Any]:
    """What the page is made from."""
    told = {"report_to": list(road.config.report_to)} if road.config.report_to else {}
    shown = road.config.report.model_dump(mode="json")
    return {"evaluate": road.hash_of("evaluate"), "report": shown, **told}


def report(road: Road) -> Counts:
    """Writes the HTML page; it holds times, so it lies outside the declared results."""
    found, lists = evaluation.read_metrics(road), read_delivered(road)
    limits = PictureLimits() if road.config.caption is None else road.config.caption.limits
    with decoding(limits, 1) as decoder:
        cards = ItemCards(road, decoder)
        shown, short = examples(road, lists, cards), shortfalls(road, lists, cards, found)
    curves = _curves(road)
    leader = json.loads(road.path("recommend", "leader.json").read_text())
    data = ReportData(
        title=road.config.report.title,
        notice=road.config.report.notice,
        notes=_notes(road),
        headlines=headlines(road.config, found, leader["order_by"], lists.name),
        metrics=metric_tables.tables(found),
        shortfalls=short,
        curves=curves,
        users=shown,
        history_note=_history_note(road),
        stages=_stages(road),
        quarantine=[QuarantineRow(**row) for row in quarantined(road)[:200]],
        quarantine_total=len(quarantined(road)),
        config_yaml=road.config.to_yaml(),
        provenance=_provenance(road),
    )
    write_report(data, road.run.report_path)
    if road.config.report_to:
        tell_trackers(road.config.report_to, _told(road, found, curves), road.run.path / "trackers")
    return Counts(len(shown), len(shown))


def _told(road: Road, found: Mapping[str, Any], curves: Sequence[Chart]) -> Told:
    return Told(
        name=road.run.path.name,
        settings=flatten(road.config.redacted()),
        curves={f"{chart.title}/{series.name}": series.points for chart in curves for series in chart.series},
        metrics={
            f"test/{listed}/{metric}": value
            for listed, row in evaluation.means(found).items()
            for metric, value in row.items()
        },
    )


def _notes(road: Road) -> list[str]:
    summary = json.loads(road.path("prepare", "summary.json").read_text())
    leader = json.loads(road.path("recommend", "leader.json").read_text())
    sizes = ", ".join(f"{name} {count:,}" for name, count in summary["interactions"].items())
    notes = [
        f"{summary['users']:,} users, {summary['items']:,} items; interactions: {sizes}. "
        f"{summary['unknown_items']:,} on unknown items and {summary['duplicates']:,} duplicates "
        f"were left out. Density {summary['density']:.2%}; the most chosen tenth of the items holds "
        f"{summary['share_of_choices_by_share_of_items']['0.1']:.0%} of the choices.",
        f"Candidates come in the order of {leader['order_by']}{_weights(leader)}. Every choice was made on "
        "validation, and the test split was used once.",
        PROTOCOLS[road.config.candidates.protocol],
    ]
    if road.config.rerank is not None:
        history = json.loads(road.path("finetune", "history.json").read_text())
        lists, pairs = history["lists"], history["pair_accuracy"]
        notes.append(
            f"The reranker learned from {lists['with_truth']:,} out-of-fold lists ({lists['made']:,} were "
            "made; the others do not hold their truth). Share of pairs in the right order on validation: "
            f"{pairs['before']:.3f} before fine-tuning, {pairs['after']:.3f} after; "
            f"{pairs['put_right']:,} of {pairs['pairs']:,} were put right and {pairs['put_wrong']:,} wrong. "
            "The truth is never put into a list by hand."
        )
        cost = json.loads(road.path("rerank", "cost.json").read_text())
        lists_read = max(cost["lists"], 1)
        notes.append(
            f"Reranking a list took {cost['tokens'] / lists_read:,.0f} tokens in "
            f"{cost['prompts'] / lists_read:.1f} prompts and "
            f"{road.stage('rerank').seconds / lists_read:.4f} seconds, loading included."
        )
    return notes


def _weights(leader: Mapping[str, Any]) -> str:
    weights = {name: share for name, share in (leader["weights"] or {}).items() if share}
    shown = ", ".join(f"{name} {share:.2f}" for name, share in weights.items())
    return f", weights {shown}" if shown else ""


def _history_note(road: Road) -> str:
    if road.part("train").ordered:
        return "Histories are in order of time; the latest items are shown."
    return (
        "The data has no times, so histories have no order: a seeded sample is shown, "
        "to you and to the reranker."
    )


def _stages(road: Road) -> list[StageRow]:
    rows = []
    for name in STAGES:
        if road.is_done(name):
            stage = road.stage(name)
            counts, cost = stage.counts, road.path(name, "cost.json")
            rows.append(
                StageRow(
                    name, stage.seconds, counts["in"], counts["ok"], counts["absent"], counts["quarantined"],
                    peak_mib=stage.peak_mib, n_bytes=stage.n_bytes,
                    tokens=json.loads(cost.read_text())["tokens"] if cost.is_file() else None,
                )
            )  # fmt: skip
    return rows


def _curves(road: Road) -> list[Chart]:
    charts = []
    losses, metrics = [], []
    for name in road.config.retrievers:
        path = road.path("train", f"select/{name}/history.json")
        records = json.loads(path.read_text())["records"] if path.is_file() else []
        losses.append(Series(name, [(r["epoch"] + 1, r["loss"]) for r in records]))
        metrics.append(
            Series(name, [(r["epoch"] + 1, r["metric"]) for r in records if r["metric"] is not None])
        )
    if any(series.points for series in losses):
        charts.append(Chart("Retrievers: training loss", [s for s in losses if s.points], "epoch", "loss"))
        charts.append(
            Chart("Retrievers: validation NDCG@20", [s for s in metrics if s.points], "epoch", "NDCG@20")
        )
    if road.config.rerank is not None:
        history = json.loads(road.path("finetune", "history.json").read_text())
        points = [(s["step"], s["rank_loss"]) for s in history["steps"]]
        charts.append(Chart("Reranker: ranking loss", [Series("train", points)], "step", "loss"))
        valid = [(e["step"], e["ndcg@10"]) for e in history["evaluations"]]
        charts.append(
            Chart("Reranker: NDCG@10 of validation lists", [Series("validation", valid)], "step", "NDCG@10")
        )
    return charts


def _provenance(road: Road) -> dict[str, str]:
    """Where the page comes from: software, machine, models and inputs by content, results by hash."""
    environment = json.loads((road.run.path / "env.json").read_text())
    packages = (f"{name} {version}" for name, version in environment.pop("packages").items() if version)
    accelerators = environment.pop("accelerators")
    inputs: Mapping[str, Any] = json.loads((road.run.path / "inputs.json").read_text())
    return {
        **{key: str(value) for key, value in environment.items()},
        "accelerators": ", ".join(accelerators) or "none",
        "packages": ", ".join(packages),
        **_models(road),
        **{f"input {Path(path).name}": _short(row["sha256"]) for path, row in sorted(inputs.items())},
        **{f"results of {name}": _short(road.stage(name).hash) for name in STAGES if road.is_done(name)},
    }


def _models(road: Road) -> dict[str, str]:
    """By use, the name of a model and the hash of its files."""
    config, found = road.config, {}
    if config.caption is not None:
        engine = road.stage("caption").parts["engine"]
        found["captioner"] = f"{config.caption.model} ({_short(engine.get('model'))})"
    for name, feature in road.stage("embed").parts["features"].items() if config.features else ():
        embed = config.features[name].embed or config.features[name].pictures
        if embed is not None:
            found[f"embedder of {name}"] = f"{embed.model} ({_short(feature['engine'].get('model'))})"
    if config.rerank is not None and config.rerank.model is not None:
        found["language model"] = f"{config.rerank.model} ({_short(road.stage('finetune').parts['model'])})"
    return found


def _short(digest: str | None) -> str:
    return "no files" if digest is None else digest[:16]
