"""Reranks the results of a search engine: no run folder, no history, a query instead."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from catalograph.config_file import parse_value
from catalograph.filling import model_folder
from catalograph.problems import explain
from catalograph.progress import Progress
from extract.errors import ConfigError, InvalidData
from extract.models import find_model
from rerank.guard import limited_texts
from rerank.inference import reorder
from rerank.layouts import LAYOUTS
from rerank.search import Results, graded_ndcg, read_qrels
from rerank.settings import RerankConfig

DEFAULTS: dict[str, Any] = {
    "prompt": "first", "item_tokens": 512, "inference": {"window": 20, "stride": 10, "token_budget": 8192},
}  # fmt: skip
"""FIRST's prompt, windows and stride; its texts are cut at 300 words besides."""


def search_settings(model: str, sets: Sequence[str]) -> RerankConfig:
    """Settings for search from the model's name and ``KEY=VALUE`` pairs of the section `rerank`.

    Raises:
        ConfigError: C001, a key or value is wrong, or the prompt has no place for a query.
    """
    raw: dict[str, Any] = {**DEFAULTS, "inference": dict(DEFAULTS["inference"]), "model": model}
    for pair in sets:
        key, _, value = pair.partition("=")
        *sections, name = key.split(".")
        table = raw
        try:
            for section in sections:
                table = table.setdefault(section, {})
            table[name] = parse_value(value)
        except (ValueError, TypeError, AttributeError) as error:
            raise ConfigError(
                "C001", "a setting of the reranker is wrong", where=f"--set {pair}", why=str(error),
                next_step="write: section.key=value",
            ) from error  # fmt: skip
    try:
        settings = RerankConfig.model_validate(raw)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(path)}: {what}" for path, what in explain(error, RerankConfig))
        raise ConfigError(
            "C001", "a setting of the reranker is wrong", where="--set", why=problems
        ) from error
    if settings.prompt not in LAYOUTS or not LAYOUTS[settings.prompt].for_search or settings.form != "text":
        known = ", ".join(name for name, layout in LAYOUTS.items() if layout.for_search)
        raise ConfigError("C001", "search needs form `text` and a prompt with a query", why=f"known: {known}")
    return settings


def rerank_results(
    results: Results, settings: RerankConfig, out: Path, *, adapter: Path | None = None,
    qrels: Path | None = None, device: str = "auto",
) -> dict[str, Any]:  # fmt: skip
    """Writes the reordered results to `out` (TREC run, or Parquet by its ending); what to tell about it.

    Args:
        adapter: folder of one of our adapters (`stages/60-finetune/adapter` of a run).
        qrels: judgments; NDCG@10 before and after is told.
    """
    from extract.transformers_captioner import pick_device
    from rerank.scorer import load_scorer

    candidates = results.candidates
    if not len(candidates):
        raise InvalidData("D220", "there is no query", next_step="check the file of results")
    found = find_model(model_folder(settings.model or ""), settings.revision)
    resolved = settings.model_copy(update={"model": str(found.folder), "revision": None})
    shown = min(candidates.k, settings.inference.window or candidates.k)
    scorer = load_scorer(resolved, max_candidates=max(shown, 1), adapter=adapter)
    scorer.model.to(pick_device(device))
    scorer.pack()
    started = time.monotonic()
    with Progress() as progress, progress.task("rerank", len(candidates)) as task:
        ordered = reorder(
            scorer,
            candidates,
            results.lists(),
            limited_texts(settings.guard, results.texts),
            config=settings.inference,
            progress=task.reach,
        )
    seconds = time.monotonic() - started
    if out.suffix == ".parquet":
        ordered.to_parquet(out)
    else:
        ordered.to_trec(out, "catalograph")
    told: dict[str, Any] = {
        "queries": len(candidates), "out": str(out), "model": found.identity, "prompt": settings.prompt,
        "packed": scorer.packs, "seconds_per_list": round(seconds / len(candidates), 4),
        "without_text": sum(not results.texts.get(str(i), "") for i in candidates.items[candidates.mask]),
    }  # fmt: skip
    if qrels is not None:
        judged = read_qrels(qrels)
        told["ndcg@10"] = {
            name: round(graded_ndcg(lists, judged, 10), 4)
            for name, lists in (("before", candidates), ("after", ordered))
        }
    return told
