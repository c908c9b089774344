"""What the reranker's gain on held-out lists is made of: fusion, list context, histories, texts, pictures.

Each candidate is read alone, and histories, texts and feature vectors are dealt out anew, one at a time; the
lists are read again by the same weights. A model that was trained with a part leans on it, so what it loses
without is more than what that part adds to a model trained without it; a part that costs nothing is not used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalograph.extraction import captions, feature_tables
from catalograph.gating import config_of
from catalograph.rerank_lists import Part, item_texts, item_words, lists_with, settings_of
from catalograph.road import Road
from extract.store import write_atomic
from recsys.candidates import Candidates
from recsys.knock_outs import permuted
from recsys.metrics import evaluate
from recsys.significance import bootstrap_means

FILE = "gain_parts.json"

Read = Callable[[Part, Mapping[str, str], bool], Candidates]
"""The reranked order of lists, given the items' texts, and whether each candidate is read alone."""


def write_gain_parts(road: Road, judged: Part, orders: Mapping[str, Candidates], read: Read) -> None:
    """Writes `gain_parts.json`: by part, the mean of the gate's metric that it is worth, with an interval."""
    config = config_of(road)
    metric, seed = f"ndcg@{config.k}", road.config.seed
    rows = np.arange(len(judged[1]))
    if len(rows) > config.parts:
        rows = np.sort(np.random.default_rng([seed, 2]).choice(rows, config.parts, replace=False))
    part = judged[0].take(rows), [judged[1][row] for row in rows]
    record: dict[str, Any] = {"metric": metric, "lists": len(rows), "parts": []}
    if len(rows):

        def measured(ordered: Candidates) -> NDArray[np.float64]:
            return evaluate(ordered, road.part("valid"), (config.k,)).per_user[metric]

        fusion, whole = (measured(orders[name].take(rows)) for name in ("fused_without_llm", "reranked"))
        gains = {"fusion": fusion - measured(part[0]), "reranker beyond fusion": whole - fusion}
        gains["list context"] = whole - measured(read(part, item_texts(road), True))
        for name, lists, texts in _of_others(road, part):
            gains[f"of others: {name}"] = whole - measured(read(lists, texts, False))
        found = bootstrap_means(np.stack(list(gains.values()), axis=1), seed=seed)
        record["parts"] = [
            {"part": name, "gain": own.estimate, "low": own.low, "high": own.high}
            for name, own in zip(gains, found, strict=True)
        ]
    write_atomic(road.path("finetune", FILE), json.dumps(record, indent=1).encode())


def _of_others(road: Road, part: Part) -> Iterator[tuple[str, Part, Mapping[str, str]]]:
    """The same lists with one kind of knowledge dealt out anew, and the texts to read them with."""
    settings, seed, texts = settings_of(road), road.config.seed, item_texts(road)
    candidates, lists = part
    dealt = np.random.default_rng([seed, 3]).permutation(len(lists))
    strangers = [replace(e, history=lists[n].history) for e, n in zip(lists, dealt, strict=True)]
    yield "histories", (candidates, strangers), texts
    if settings.form != "token":
        slots = set(re.findall(r"\{([^{}]*)\}", settings.item))
        if slots - {"caption"}:
            yield "texts", part, _texts(road, of_captions=False)
        if "caption" in slots:
            yield "captions", part, _texts(road, of_captions=True)
    if settings.form != "text":
        tables = feature_tables(road)
        for name in settings.token.features:
            own = {**tables, name: permuted(tables[name], seed)}
            yield f"vectors of {name}", (candidates, lists_with(road, candidates, own)), texts


def _texts(road: Road, *, of_captions: bool) -> dict[str, str]:
    """Items' texts with the captions, or all but the captions, of other items."""
    written, words, items = captions(road), item_words(road), list(road.catalog)
    others = [items[n] for n in np.random.default_rng([road.config.seed, 4]).permutation(len(items))]
    return {
        item.item_id: words(item, written.get(other.item_id))
        if of_captions
        else words(other, written.get(item.item_id))
        for item, other in zip(items, others, strict=True)
    }
