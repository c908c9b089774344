"""From a YAML file and ``--set a.b=v`` to a RunConfig, with every problem reported at once.

The safe YAML loader is used, with two repairs: ``1e-4`` is a number (YAML 1.1 reads a string), and a key
given twice is an error (it silently takes the last).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from catalograph.config import RunConfig
from catalograph.cross_checks import cross_problems
from catalograph.problems import Problem, explain
from extract.errors import ConfigError, UnsafeInput

_MOST = 20
_MOST_VALUES = 100_000
"""Keys and values of a file, aliases written out: ten lines of aliases of aliases can stand for a billion."""


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads numbers as YAML 1.2 does."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rows if tag != "tag:yaml.org,2002:float"]
    for first, rows in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?$"
        r"|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a configuration file and apply ``--set`` values.

    Args:
        path: the YAML file; None builds the configuration from `overrides` alone.
        overrides: ``key.path=value``, the value in YAML. A ``data.root`` given here is relative to the
            working folder, one in the file to the file's folder.

    Raises:
        ConfigError: C001 with all problems; C002 for text that is not YAML.
        UnsafeInput: U102, no such file.
    """
    raw, lines, problems = ({}, {}, []) if path is None else _read(path)
    problems += _apply(raw, lines, overrides)
    _resolve_root(raw, path, overrides)
    return _validated(raw, lines, problems, str(path) if path else "--set")


def build_config(values: Mapping[str, Any], overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration of plain values, as a YAML file would hold them; paths start at the working folder.

    Errors are those of `load_config`.
    """
    raw, lines = _unshared(dict(values)), dict[tuple[str, ...], str]()
    problems = _apply(raw, lines, overrides)
    _resolve_root(raw, None, overrides)
    return _validated(raw, lines, problems, "the configuration")


def override_config(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """`config` with ``--set`` values applied; errors as in `load_config`."""
    raw: dict[str, Any] = config.model_dump(mode="json")
    lines: dict[tuple[str, ...], str] = {}
    problems = _apply(raw, lines, overrides)
    _resolve_root(raw, None, overrides)
    return _validated(raw, lines, problems, "--set")


def parse_value(text: str) -> Any:
    """A value in YAML, with numbers as YAML 1.2 reads them; ValueError where it is none."""
    try:
        # Looked through first: an alias of itself would be a value without end.
        _walk(yaml.compose(text, Loader=_Loader), (), {}, [])
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(_yaml_problem(error)) from error


def _validated(
    raw: dict[str, Any], lines: Mapping[tuple[str, ...], str], problems: list[Problem], source: str
) -> RunConfig:
    config: RunConfig | None = None
    if halves := _half_letters(raw):
        raise _error(problems + halves, lines, source)
    problems = problems + _not_finite(raw)
    try:
        config = RunConfig.model_validate(raw)
    except ValidationError as error:
        problems = problems + explain(error, RunConfig)
        known = {path for path, _ in problems}
        problems += [problem for problem in cross_problems(raw) if problem[0] not in known]
    if config is None or problems:
        raise _error(problems, lines, source)
    return config


def _read(path: Path) -> tuple[dict[str, Any], dict[tuple[str, ...], str], list[Problem]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UnsafeInput(
            "U102", "the configuration file does not exist", where=str(path), next_step="check -c/--config"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UnsafeInput(
            "U102", "the configuration file cannot be read", where=str(path), why=str(error)
        ) from error
    lines: dict[tuple[str, ...], str] = {}
    problems: list[Problem] = []
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        _walk(node, (), lines, problems)
        value = loader.construct_document(node) if node is not None else {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        raise ConfigError(
            "C002",
            "the configuration file is not YAML",
            where=f"{path}, line {mark.line + 1}, column {mark.column + 1}" if mark else str(path),
            why=_yaml_problem(error),
            next_step="check indentation, quotes and colons at that place",
        ) from error
    if not isinstance(value, dict):
        problems.append(((), f"must be a mapping of keys, got {type(value).__name__}"))
        value = {}
    return _unshared(value), lines, problems


def _not_finite(value: Any, path: tuple[str, ...] = ()) -> list[Problem]:
    """Numbers that no setting can have, and that JSON, by which settings are compared, does not know."""
    if isinstance(value, float) and not math.isfinite(value):
        return [(path, f"must be a finite number, got {value}")]
    if isinstance(value, dict | list):
        below = value.items() if isinstance(value, dict) else enumerate(value)
        return [problem for key, inner in below for problem in _not_finite(inner, (*path, str(key)))]
    return []


def _half_letters(value: Any, path: tuple[str, ...] = ()) -> list[Problem]:
    """Texts that no file could hold: the models' own messages break on them."""
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        return [(path, f"holds half a letter, which UTF-8 does not have: {ascii(value)[:60]}")]
    if isinstance(value, dict | list):
        below = value.items() if isinstance(value, dict) else enumerate(value)
        names = _half_letters([str(key) for key in value], path) if isinstance(value, dict) else []
        return names + [
            problem for key, inner in below for problem in _half_letters(inner, (*path, str(key)))
        ]
    return []


def _yaml_problem(error: Exception) -> str:
    # A date or a number may look right and not be one; such errors are not YAML's own.
    return "nested too deeply" if isinstance(error, RecursionError) else str(getattr(error, "problem", error))


def _unshared(value: Any) -> Any:
    """A copy in which an alias is a value of its own: ``--set`` below one name must not reach the other."""
    if isinstance(value, dict):
        return {key: _unshared(inner) for key, inner in value.items()}
    return [_unshared(inner) for inner in value] if isinstance(value, list) else value


def _walk(
    node: yaml.Node | None,
    path: tuple[str, ...],
    lines: dict[tuple[str, ...], str],
    problems: list[Problem],
) -> None:
    if len(lines) > _MOST_VALUES:
        raise ValueError(f"it says more than {_MOST_VALUES:,} things, aliases written out")
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            below = (*path, str(key.value))
            if below in lines:
                problems.append((below, f"given twice, first on {lines[below]}"))
            lines[below] = f"line {key.start_mark.line + 1}"
            _walk(value, below, lines, problems)
    elif isinstance(node, yaml.SequenceNode):
        for position, value in enumerate(node.value):
            lines[*path, str(position)] = f"line {value.start_mark.line + 1}"
            _walk(value, (*path, str(position)), lines, problems)


def _apply(raw: dict[str, Any], lines: dict[tuple[str, ...], str], overrides: Iterable[str]) -> list[Problem]:
    problems: list[Problem] = []
    for text in overrides:
        key, equals, given = text.partition("=")
        path = tuple(key.strip().split("."))
        if not equals or not all(path):
            problems.append(((text,), "--set needs key.path=value"))
            continue
        try:
            value = parse_value(given)
        except ValueError as error:
            problems.append((path, f"the value given by --set is not YAML: {error}"))
            continue
        table: Any = raw
        for depth, step in enumerate(path[:-1], start=1):
            # A section that was null or is not there yet is opened by setting a key in it.
            if table.get(step) is None:
                table[step] = {}
                lines[path[:depth]] = "--set"
            table = table[step]
            if not isinstance(table, dict):
                problems.append((path, f"--set cannot reach it: {step} is a value, not a section"))
                break
        else:
            table[path[-1]] = value
            # What the file said below this key is gone, and so are its lines.
            for below in [known for known in lines if known[: len(path)] == path]:
                del lines[below]
            lines[path] = "--set"
    return problems


def _resolve_root(raw: dict[str, Any], path: Path | None, overrides: Sequence[str]) -> None:
    data = raw.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("root"), str | None):
        return
    given = data.get("root")
    by_set = any(text.startswith(("data.root=", "data=")) for text in overrides)
    base = Path.cwd() if by_set or path is None else path.absolute().parent
    data["root"] = str(base / given) if given else str(base)


def _error(problems: Sequence[Problem], lines: Mapping[tuple[str, ...], str], source: str) -> ConfigError:
    unique = list(dict.fromkeys(problems))
    rows = [f"{_key(path)}{_line(path, lines)}: {what}" for path, what in unique[:_MOST]]
    rows += [f"and {len(unique) - _MOST} more"] if len(unique) > _MOST else []
    count = f"{len(unique)} problem{'' if len(unique) == 1 else 's'}"
    return ConfigError(
        "C001",
        f"{count} in {source}\n  " + "\n  ".join(rows),
        next_step="correct them, then: catalograph validate -c CONFIG  (all keys: catalograph schema)",
    )


def _key(path: tuple[str, ...]) -> str:
    return ".".join(path) or "the file"


def _line(path: tuple[str, ...], lines: Mapping[tuple[str, ...], str]) -> str:
    """The line of the key, or of the nearest section above it that was written down."""
    for length in range(len(path), 0, -1):
        if path[:length] in lines:
            return f" ({lines[path[:length]]})"
    return ""
