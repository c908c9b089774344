"""Names in one section of a configuration that must exist elsewhere, and settings that a name decides."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from catalograph.problems import Problem, explain, unknown_name
from extract.engines import CaptionConfig
from extract.errors import ConfigError
from extract.prompts import caption_prompt
from recsys.settings import NEED_FEATURES, SETTINGS
from rerank.prompts import LAYOUTS, MOST_CANDIDATES

_SLOT = re.compile(r"\{([^{}]*)\}")


def cross_problems(raw: Mapping[str, Any]) -> list[Problem]:
    """Names that point nowhere. Works on plain values, so that it can run beside errors of other kinds.

    Parts of the wrong type are passed over: the models complain about those.
    """
    features, retrievers = _table(raw.get("features")), _table(raw.get("retrievers"))
    problems: list[Problem] = []
    path: tuple[str, ...]
    for name, retriever in retrievers.items():
        for position, feature in enumerate(_names(_table(retriever).get("features"))):
            if feature not in features:
                path = ("retrievers", name, "features", str(position))
                problems.append((path, unknown_name("feature", feature, features)))
    for name in _table(_table(raw.get("tune")).get("space")):
        if name not in retrievers:
            problems.append((("tune", "space", str(name)), unknown_name("retriever", name, retrievers)))
    candidates = _table(raw.get("candidates"))
    order = str(candidates.get("order_by", "best"))
    if order not in ("best", "merged", *retrievers):
        known = ["best", "merged", *retrievers]
        problems.append((("candidates", "order_by"), unknown_name("retriever", order, known)))
    evaluate = _table(raw.get("evaluate"))
    if isinstance(varied := evaluate.get("diversity"), str) and varied not in features:
        problems.append((("evaluate", "diversity"), unknown_name("feature", varied, features)))
    if evaluate.get("given") is None and any("given" in g.split("*") for g in _names(evaluate.get("groups"))):
        problems.append((("evaluate", "given"), "the grouping `given` needs a table of user groups"))
    sources = _names(candidates.get("sources"))
    named = {
        ("candidates", "sources"): sources,
        ("evaluate", "baselines"): _names(evaluate.get("baselines")),
    }
    for above, names in named.items():
        for position, name in enumerate(names):
            if name not in retrievers:
                problems.append(((*above, str(position)), unknown_name("retriever", name, retrievers)))
    if sources and order in retrievers and order not in sources:
        problems.append((("candidates", "order_by"), f"{order} must be among candidates.sources"))
    if candidates.get("protocol") == "mmrec" and raw.get("rerank") is not None:
        what = "mmrec is a protocol for retrievers: validation items stay in its lists; rerank needs strict"
        problems.append((("candidates", "protocol"), what))
    attributes = _names(_table(_table(raw.get("data")).get("catalog_columns")).get("attributes"))
    if isinstance(capped := candidates.get("cap_by"), str) and capped not in attributes:
        problems.append((("candidates", "cap_by"), unknown_name("attribute", capped, attributes)))
    return [
        *problems,
        *_missing_halves(raw, retrievers),
        *_rerank_problems(raw, features),
        *_model_problems(retrievers),
        *_prompt_problems(raw),
        *_template_problems(features, raw),
        *_picture_problems(features, raw),
    ]


def _missing_halves(raw: Mapping[str, Any], retrievers: Mapping[str, Any]) -> Iterator[Problem]:
    """Interactions and retrievers come together, or not at all where only features are wanted."""
    if not isinstance(raw.get("data"), Mapping):
        return
    if _table(raw.get("data")).get("interactions") is None:
        if retrievers or raw.get("rerank") is not None:
            yield ("data", "interactions"), "required: retrievers and rerank learn from who chose what"
    elif raw.get("retrievers", {}) == {}:
        yield ("retrievers",), "at least one is required, to learn from data.interactions"


def _model_problems(retrievers: Mapping[str, Any]) -> Iterator[Problem]:
    for name, retriever in retrievers.items():
        model, path = _table(retriever).get("model"), ("retrievers", str(name))
        if not isinstance(model, str):
            continue
        if model not in SETTINGS:
            yield (*path, "model"), unknown_name("model", model, SETTINGS)
            continue
        params = _table(_table(retriever).get("params"))
        try:
            SETTINGS[model].model_validate(params)
        except ValidationError as error:
            yield from explain(error, SETTINGS[model], (*path, "params"))
        features = _names(_table(retriever).get("features"))
        if model in NEED_FEATURES and not features:
            yield (*path, "features"), f"{model} needs at least one feature"
        for key in ("knn_weights", "weights"):
            weights = _table(params.get(key))
            if weights and set(weights) != set(features):
                wanted = ", ".join(features) or "none"
                yield (*path, "params", key), f"must name each of this retriever's features: {wanted}"


def _rerank_problems(raw: Mapping[str, Any], features: Mapping[str, Any]) -> Iterator[Problem]:
    rerank, k = _table(raw.get("rerank")), _table(raw.get("candidates")).get("k")
    if not isinstance(raw.get("rerank"), Mapping):
        return
    form, token = rerank.get("form", "text"), _table(rerank.get("token"))
    window = _table(rerank.get("inference")).get("window")
    shown, where = (k, ("candidates", "k")) if window is None else (window, ("rerank", "inference", "window"))
    if form in {"text", "hybrid"} and isinstance(shown, int) and shown > MOST_CANDIDATES:
        what = f"a reranker of texts takes at most {MOST_CANDIDATES} candidates, one letter each, got {shown}"
        yield where, what
    if form in {"text", "hybrid"} and rerank.get("model") is None:
        yield ("rerank", "model"), f"the form {form} reads words: name a language model"
    for position, name in enumerate(_names(token.get("features"))):
        if name not in features:
            yield ("rerank", "token", "features", str(position)), unknown_name("feature", name, features)
    gate, given = _table(rerank.get("gate")), _table(raw.get("evaluate")).get("given")
    if gate.get("groups") == "given" and given is None:
        yield ("rerank", "gate", "groups"), "the grouping `given` needs a table in evaluate.given"
    width, heads = token.get("width", 64), token.get("heads", 4)
    if isinstance(width, int) and isinstance(heads, int) and heads > 0 and width % (2 * heads):
        yield ("rerank", "token", "heads"), f"width {width} must be an even multiple of heads {heads}"


def _prompt_problems(raw: Mapping[str, Any]) -> Iterator[Problem]:
    layout, caption = _table(raw.get("rerank")).get("prompt"), _table(raw.get("caption"))
    prompt, keys = caption.get("prompt", CaptionConfig().prompt), _names(caption.get("keys"))
    if isinstance(layout, str) and layout not in LAYOUTS:
        yield ("rerank", "prompt"), unknown_name("layout", layout, LAYOUTS)
    elif isinstance(layout, str) and LAYOUTS[layout].for_search:
        yield ("rerank", "prompt"), f"{layout} asks for a query, which a run does not have"
    if isinstance(prompt, str):
        try:
            caption_prompt(prompt, keys=keys)
        except ConfigError as error:
            yield ("caption", "keys" if error.code == "C103" else "prompt"), error.what


def _template_problems(features: Mapping[str, Any], raw: Mapping[str, Any]) -> Iterator[Problem]:
    columns = _table(_table(raw.get("data")).get("catalog_columns"))
    attributes = _names(columns.get("attributes"))
    slots = ["title", "text", "caption", *(f"attributes.{name}" for name in attributes)]
    # Where no text is embedded the template decides nothing.
    templates: dict[tuple[str, ...], Any] = {
        ("features", str(n), "template"): _table(f).get("template")
        for n, f in features.items()
        if _table(f).get("embed") is not None or _table(_table(f).get("pictures")).get("with_text")
    }
    templates["rerank", "item"] = _table(raw.get("rerank")).get("item")
    templates["caption", "item_text"] = _table(raw.get("caption")).get("item_text")
    for path, template in templates.items():
        if not isinstance(template, str):
            continue
        for slot in dict.fromkeys(_SLOT.findall(template)):
            known = [name for name in slots if path != ("caption", "item_text") or name != "caption"]
            if slot not in known:
                yield path, unknown_name("slot", slot, known)
            elif slot == "caption" and raw.get("caption") is None:
                yield path, "uses {caption}, but captions are off (caption: null)"


def _picture_problems(features: Mapping[str, Any], raw: Mapping[str, Any]) -> Iterator[Problem]:
    data = _table(raw.get("data"))
    columns = _table(data.get("catalog_columns"))
    if data.get("pictures") and (columns.get("picture") or columns.get("picture_pattern")):
        return
    what = "needs data.pictures, and data.catalog_columns.picture or picture_pattern"
    for name, feature in features.items():
        if _table(feature).get("pictures") is not None:
            yield ("features", str(name), "pictures"), what


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _names(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list | tuple) else []
