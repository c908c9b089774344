"""The few sentences a reader in a hurry takes away, each with the interval it rests on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from catalograph.config import RunConfig
from catalograph.report.data import Headline, Interval
from catalograph.report.words import number, percent, signed, verdict

IN_WORDS = {
    "better": "shown to be a gain",
    "worse": "shown to be a loss",
    "open": "this run does not show a difference",
}
LEVEL = 0.05


def headlines(config: RunConfig, found: Mapping[str, Any], leader: str, delivered: str) -> list[Headline]:
    """From the evaluation's findings; `leader` is the retriever that orders the candidates."""
    metric = next(iter(found["lists"][delivered]))
    own = found["lists"][delivered][metric]
    best = found["oracle"][metric]
    first = Headline(
        f"Delivered lists, {metric}", number(own["mean"]),
        f"Mean over {found['users']:,} test users, {number(own['low'])} to {number(own['high'])}. "
        f"The best order of the same candidates would reach {number(best)}.",
    )  # fmt: skip
    return [first, *_differences(config, found, metric, leader, delivered), *_captions(found)]


def _differences(
    config: RunConfig, found: Mapping[str, Any], metric: str, leader: str, delivered: str
) -> Iterator[Headline]:
    """What retrieval, features and reranking added, as far as the lists of this run tell it."""
    means = {name: row[metric]["mean"] for name, row in found["lists"].items()}
    gaps = {(row["a"], row["b"]): row for row in found["comparisons"] if row["metric"] == metric}
    baselines = [name for name in config.evaluate.baselines if (name, "retrieved") in gaps]
    without = {name: added for name in baselines if (added := _added_features(config, name, leader))}
    plain = [name for name in baselines if name not in without]
    asked = []
    if plain:
        strongest = max(plain, key=lambda name: means[name])
        asked.append((f"Retrieval over {strongest}, the strongest plain baseline", strongest, "retrieved"))
    for name, added in without.items():
        asked.append((f"What retrieval gains by {' and '.join(added)}", name, "retrieved"))
    asked += [
        ("Reranking over the retrieved order", "retrieved", delivered),
        ("The language model over fusion without it", "fused_without_llm", "reranked"),
    ]
    for label, a, b in asked:
        if (a, b) in gaps:
            yield difference_headline(label, gaps[a, b], means[a], means[b])


def difference_headline(label: str, row: Mapping[str, Any], before: float, after: float) -> Headline:
    """One paired difference in words; a gain or loss only if interval and corrected p-value agree."""
    gap = Interval(row["difference"], row["low"], row["high"], row["p_holm"])
    kind = verdict(gap) if row["p_holm"] < LEVEL else "open"
    share = f" ({percent(gap.mean / before)})" if before > 0 else ""
    return Headline(
        label, signed(gap.mean),
        f"{row['metric']} from {number(before)} to {number(after)}{share}; 95 % interval of the difference "
        f"{signed(gap.low)} to {signed(gap.high)}, corrected p = {number(gap.p)}: {IN_WORDS[kind]}.",
        kind,
    )  # fmt: skip


def _added_features(config: RunConfig, baseline: str, leader: str) -> list[str]:
    """Features that the leading retriever has and a baseline of the same model lacks; empty: no such pair."""
    if leader not in config.retrievers:
        return []
    ours, theirs = config.retrievers[leader], config.retrievers[baseline]
    same = (ours.model, ours.params) == (theirs.model, theirs.params)
    if not same or not set(theirs.features) < set(ours.features):
        return []
    return [name for name in ours.features if name not in theirs.features]


def _captions(found: Mapping[str, Any]) -> Iterator[Headline]:
    """What the reranker loses when it reads the captions of other items."""
    parts = (found["diagnosis"] or {}).get("gain_parts", {})
    for row in parts.get("parts", ()):
        if row["part"] == "of others: captions":
            gap = Interval(row["gain"], row["low"], row["high"])
            yield Headline(
                "The reranker's use of captions", signed(gap.mean),
                f"{parts['metric']} lost on {parts['lists']:,} held-out lists when it reads captions of "
                f"other items; {signed(gap.low)} to {signed(gap.high)}. One of "
                f"{len(parts['parts'])} parts, whose intervals are not corrected for their number.",
                "open",
            )  # fmt: skip
