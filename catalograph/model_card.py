"""The model card beside a trained reranker: what it was made from, by hash, and what validation said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from extract.store import fingerprint
from rerank.prompts import LAYOUTS
from rerank.settings import RerankConfig


def model_card(settings: RerankConfig, parts: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """Markdown with a head of YAML, as model hubs read it; equal trainings have equal cards.

    Args:
        parts: what the finetune stage is made from.
        record: what `history.json` holds.
    """
    lists, pairs, points = record["lists"], record["pair_accuracy"], record["evaluations"]
    values = [point["ndcg@10"] for point in points]
    layout = LAYOUTS[settings.prompt]
    hashes = {
        "data": fingerprint(catalog=parts["catalog"], lists=parts["recommend"], teacher=parts["teacher"]),
        "texts": parts["caption"], "vectors": parts["embed"], "base_model": parts["model"],
        "prompt": fingerprint(layout=parts["layout"], item=settings.item, history=settings.history),
        "settings": fingerprint(**settings.model_dump(mode="json")),
    }  # fmt: skip
    metrics: dict[str, Any] = {
        "validation_lists": lists["validation"],
        "pair_accuracy": {"before": pairs["before"], "after": pairs["after"]},
    }
    if values:
        metrics["ndcg@10"] = {"before": values[0], "best": max(values)}
    head = {
        "library_name": "peft" if settings.form == "text" else "catalograph", "tags": ["reranker"],
        "catalograph": {
            "form": settings.form, "seed": parts["seed"], "hashes": hashes, "metrics": metrics,
        },
    }  # fmt: skip
    if settings.model is not None:
        head = {"base_model": settings.model} | head
    tuning = settings.finetune
    rows = {
        "form": settings.form, "base model": settings.model or "none: a small decoder made fresh",
        "prompt": "none" if settings.form == "token" else f"`{settings.prompt}`, version {layout.version}",
        "labels": f"the orders of `{tuning.teacher}`" if tuning.teacher else "held-out choices",
        "training lists": f"{lists['with_truth']} out of fold",
        "loss": f"`{tuning.loss}`, weight {tuning.rank_weight:g}",
        "validation NDCG@10, before": f"{values[0]:.4f}" if values else "not measured",
        "validation NDCG@10, after": f"{max(values):.4f}" if values else "not measured",
        "pairs in the right order, before": f"{pairs['before']:.4f}",
        "pairs in the right order, after": f"{pairs['after']:.4f}",
        **{f"hash of {name.replace('_', ' ')}": f"`{value}`" for name, value in hashes.items() if value},
    }  # fmt: skip
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join([
        "---", yaml.safe_dump(head, sort_keys=False).rstrip(), "---", "",
        "# A listwise reranker", "",
        "Fine-tuned by Catalograph on candidates that their retriever had not seen chosen. It reorders lists",
        "of the data it was trained on; validation chose its weights, so figures on other people are lower.",
        "", "| | |", "| --- | --- |", *lines, "",
    ])  # fmt: skip
