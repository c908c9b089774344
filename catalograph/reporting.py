"""The report stage: gathers what a run left behind into one page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from catalograph import evaluation, metric_tables
from catalograph.config import flatten
from catalograph.extraction import captions, quarantined
from catalograph.report.data import (
    Card,
    Chart,
    ListedItem,
    QuarantineRow,
    ReportData,
    Series,
    StageRow,
    UserExample,
)
from catalograph.report.render import picture_uri, write_report
from catalograph.retrieval import source_names
from catalograph.road import Counts, Road
from catalograph.trackers import Told, tell_trackers
from extract.decoding import Decoder, decoding
from extract.pictures import BadPicture, PictureLimits
from recsys.candidates import Candidates
from rerank.gate import GATED
from rerank.lists import shown_histories

SHOWN = 10
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
    examples, found, curves = _examples(road), evaluation.read_metrics(road), _curves(road)
    data = ReportData(
        title=road.config.report.title,
        notice=road.config.report.notice,
        notes=_notes(road),
        metrics=metric_tables.tables(found),
        curves=curves,
        users=examples,
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
    return Counts(len(examples), len(examples))


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
    for name in ("prepare", "caption", "embed", "train", "recommend", "finetune", "rerank", "evaluate"):
        if road.is_done(name):
            stage = road.stage(name)
            counts = stage.counts
            rows.append(
                StageRow(
                    name, stage.seconds, counts["in"], counts["ok"], counts["absent"], counts["quarantined"]
                )
            )
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
    environment = json.loads((road.run.path / "env.json").read_text())
    hashes = {
        f"stage {name}": str(road.hash_of(name))[:16]
        for name in ("prepare", "embed", "train", "recommend")
        if road.is_done(name)
    }
    return {
        **{key: str(value) for key, value in environment.items() if isinstance(value, str | int | float)},
        **hashes,
    }


def _examples(road: Road) -> list[UserExample]:
    """Sample users: where reranking moved the held-out item most, both ways, and some at random."""
    before = Candidates.from_parquet(road.path("recommend", "test.parquet"))
    after = before
    if road.config.rerank is not None:
        given = "reranked" if road.config.rerank.gate is None else GATED
        after = Candidates.from_parquet(road.path("rerank", f"{given}.parquet"))
    truth: dict[str, set[str]] = {}
    test = road.part("test")
    for user, item in zip(test.user_ids[test.user_rows], test.item_ids[test.item_rows], strict=True):
        truth.setdefault(str(user), set()).add(str(item))
    rows = _interesting(before, after, truth, road.config.report.examples, road.config.seed)
    users = [str(before.user_ids[row]) for row in rows]
    histories = shown_histories(road.known, users, length=SHOWN, seed=road.config.seed)
    examples = []
    limits = PictureLimits() if road.config.caption is None else road.config.caption.limits
    with decoding(limits, 1) as decoder:
        cards = _Cards(road, decoder)
        for row, user in zip(rows, users, strict=True):
            wanted = truth.get(user, set())
            old = {str(item): place + 1 for place, item in enumerate(before.items[row]) if item}
            note = _note(wanted, old, [str(i) for i in after.items[row] if i])
            examples.append(
                UserExample(
                    user,
                    [cards[item] for item in histories[user]],
                    _listed(road, before, row, wanted, cards, {}),
                    _listed(road, after, row, wanted, cards, old) if after is not before else [],
                    note,
                )
            )
    return examples


def _interesting(
    before: Candidates, after: Candidates, truth: Mapping[str, set[str]], count: int, seed: int
) -> list[int]:
    moved = np.zeros(len(before))
    for row, user in enumerate(before.user_ids):
        for item in truth.get(str(user), ()):
            was, now = np.flatnonzero(before.items[row] == item), np.flatnonzero(after.items[row] == item)
            if len(was) and len(now):
                moved[row] = 1 / (now[0] + 1) - 1 / (was[0] + 1)
    best = [int(r) for r in np.argsort(-moved, kind="stable")[: count // 3] if moved[r] > 0]
    worst = [int(r) for r in np.argsort(moved, kind="stable")[: count // 3] if moved[r] < 0]
    chosen = dict.fromkeys(best + worst)
    for row in np.random.default_rng(seed).permutation(len(before)):
        if len(chosen) >= min(count, len(before)):
            break
        chosen.setdefault(int(row))
    return list(chosen)


def _note(wanted: set[str], old: Mapping[str, int], new: list[str]) -> str:
    found = [item for item in sorted(wanted) if item in old]
    if not found:
        return "What this person chose next is not among the candidates."
    moves = "; ".join(f"from place {old[item]} to place {new.index(item) + 1}" for item in found)
    return f"What this person chose next went {moves}."


def _listed(
    road: Road, candidates: Candidates, row: int, wanted: set[str], cards: _Cards, old: Mapping[str, int]
) -> list[ListedItem]:
    listed = []
    sources = [
        name for name in (*source_names(road.config), "reranker", "fused") if name in candidates.scores
    ]
    for place, item in enumerate(candidates.items[row][:SHOWN]):
        if item:
            scores = {name: float(candidates.scores[name][row, place]) for name in sources}
            known = {name: value for name, value in scores.items() if np.isfinite(value)}
            listed.append(
                ListedItem(cards[str(item)], place + 1, old.get(str(item)), known, str(item) in wanted)
            )
    return listed


class _Cards:
    """Items as a person sees them, made once each."""

    def __init__(self, road: Road, decoder: Decoder) -> None:
        self._road, self._captions, self._decoder = road, captions(road), decoder
        self._made: dict[str, Card] = {}

    def __getitem__(self, item_id: str) -> Card:
        if item_id not in self._made:
            item, pictures = self._road.catalog[item_id], self._road.catalog.pictures
            picture = None
            if item.picture is not None and pictures is not None:
                try:
                    picture = picture_uri(self._decoder.submit(pictures.read(item.picture)).result())
                except BadPicture:
                    picture = None
            self._made[item_id] = Card(item_id, item.title, self._captions.get(item_id), picture)
        return self._made[item_id]
