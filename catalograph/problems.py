"""What pydantic finds wrong with a configuration, in words that name the key and the nearest right one."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

Problem = tuple[tuple[str, ...], str]
"""Where (the key path) and what."""

_MISSING = object()


def unknown_name(kind: str, name: object, known: Iterable[object]) -> str:
    """A sentence about a name that is not among `known`, with a suggestion where one is near."""
    names = [str(k) for k in known]
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(names) or 'none'}"
    return f"unknown {kind} {name}{hint}"


def explain(error: ValidationError, model: type[BaseModel], above: tuple[str, ...] = ()) -> list[Problem]:
    """The errors of a model as problems, with suggestions; errors of cross checks are left out.

    Args:
        above: the key path at which the model lies.
    """
    found = error.errors(include_url=False)
    suggested: set[tuple[str, ...]] = set()
    rest: list[Problem] = []
    for row in found:
        path = tuple(str(step) for step in row["loc"])
        kind, value = row["type"], row.get("input", _MISSING)
        if kind == "extra_forbidden":
            fields = _fields_at(model, path[:-1])
            near = difflib.get_close_matches(path[-1], fields, n=1, cutoff=0.6)
            if near:
                suggested.add((*path[:-1], near[0]))
                rest.append((path, f"unknown key; did you mean {'.'.join((*above, *path[:-1], near[0]))}?"))
            else:
                rest.append((path, f"unknown key; known here: {', '.join(fields) or 'none'}"))
        elif kind == "missing":
            rest.append((path, "is required and not given"))
        elif kind == "literal_error":
            expected = re.findall(r"'([^']*)'", str(row.get("ctx", {}).get("expected", "")))
            rest.append((path, unknown_name("choice", value, expected)))
        elif kind != "cross_check":
            rest.append((path, f"{_lower(row['msg'])}{_got(value)}"))
    # A misspelt required key is one mistake, not two.
    return [
        ((*above, *path), what)
        for path, what in rest
        if not (path in suggested and what.startswith("is required"))
    ]


def _fields_at(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    """Field names of the model that lies at a key path."""
    kinds: list[Any] = [model]
    for step in path:
        below: list[Any] = []
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                field = kind.model_fields.get(step)
                below += _plain(field.annotation) if field else []
            else:
                below += [inner for arg in typing.get_args(kind)[-1:] for inner in _plain(arg)]
        kinds = below
    return [
        name
        for kind in kinds
        if isinstance(kind, type) and issubclass(kind, BaseModel)
        for name in kind.model_fields
    ]


def _plain(annotation: Any) -> list[Any]:
    """The members of a union, without Annotated around them."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _plain(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [kind for arg in typing.get_args(annotation) for kind in _plain(arg)]
    return [annotation]


def _lower(text: str) -> str:
    text = text.removeprefix("Value error, ")
    return text[:1].lower() + text[1:]


def _got(value: object) -> str:
    if value is _MISSING or isinstance(value, dict):
        return ""
    shown = repr(value)
    return f", got {shown if len(shown) <= 60 else shown[:57] + '...'}"
