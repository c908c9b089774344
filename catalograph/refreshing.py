"""`refresh`: the models of a finished run on the catalogue and the choices of today.

A refreshed run has the stages of a run up to `rerank`. Nothing in it learns: retrievers, adapter, fusion and
the choice of the leader are those of the run it comes from. What that run held out stays held out.

What is done again is decided by contents alone, never by times:

- a caption or vector, where an item's picture or text is not what it was (`extract.stage`);
- a list of candidates, where the user's choices or vector are not what they were; of everybody else's lists,
  only items that are not what they were are scored (`recsys.deep_lists`);
- a reading by the language model, where a text in the list's prompt, or its order, is not what it was.

`--full` takes the models alone and does all the rest anew; both give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from catalograph import retrieval
from catalograph.config import RunConfig, changed_keys
from catalograph.integrity import path_hashes, read_json
from catalograph.origin import Origin
from catalograph.progress import Progress
from catalograph.refreshed_lists import recommend, recommend_parts
from catalograph.refreshed_reading import check_readable, rerank, rerank_parts
from catalograph.retrieval import final_fit, load_models, source_names
from catalograph.road import Counts, Road
from catalograph.stages import STAGES, RunSummary, Stage, run_stages
from catalograph.workplace import Extraction
from extract.errors import RunFolderError
from extract.store import write_atomic
from recsys.axes import find_rows
from recsys.frozen import freeze
from recsys.interactions import Interactions, read_interactions

FROZEN = "frozen"
GONE, HELD, LEADER = "gone.json", "held.parquet", "leader.json"
MAY_CHANGE = ("data.catalog", "data.pictures", "data.interactions", "candidates.allow", "candidates.deny")
"""Keys whose files a refresh reads anew, wherever they are by now."""


def refresh(
    config: RunConfig, folder: Path, come_from: Path, *, full: bool, progress: Progress,
    extraction: Extraction | None = None,
) -> RunSummary:  # fmt: skip
    """Makes lists of today in a new run folder.

    Args:
        config: of the run that the models come from, but for `MAY_CHANGE`.
        folder: the new run folder.
        come_from: a finished run, or a refreshed one.
        full: do everything anew but the models.
        progress: told how far it is.
        extraction: how extraction goes about it.

    Raises:
        RunFolderError: R109, the configuration is not that of the run.
        MissingPrerequisite: P102, the run has no finished lists yet.
        ConfigError: C209, its reranker reads more than words.
        InvalidData: D113, its choices or its leader are not what was recorded.
    """
    with Origin.opened(come_from, progress, lends=not full) as origin:
        _refuse_other_settings(config, origin)
        check_readable(config)
        origin.need(("prepare", "train", "recommend"))
        if config.rerank is not None:
            origin.need(("finetune",))
        # What is linked or loaded as a model proves itself; these files are read as they are.
        origin.check("prepare")
        origin.check("recommend", LEADER)
        return run_stages(config, folder, None, progress, extraction, origin, REFRESHED, refreshed=True)


def _refuse_other_settings(config: RunConfig, origin: Origin) -> None:
    changed = changed_keys(origin.config.redacted(), config)
    changed = {k: v for k, v in changed.items() if k not in MAY_CHANGE and not k.startswith("evaluate.")}
    if changed:
        raise RunFolderError(
            "R109",
            "a refresh keeps the settings of the run it comes from",
            where=str(origin.folder),
            why="; ".join(f"{key}: {old!r} there, {new!r} now" for key, (old, new) in changed.items()),
            next_step="leave -c out, or train again: catalograph run --from, which reuses what still holds",
        )


def prepare_parts(road: Road) -> dict[str, Any]:
    """What the parts of today are made from."""
    return {**retrieval.prepare_parts(road), "before": road.origin.hash_of("prepare")}


def prepare(road: Road) -> Counts:
    """Writes `train.parquet`, `valid.parquet`, `test.parquet`, `summary.json`, `gone.json`, the items that
    ever left, and `held.parquet`, the choices that were ever held out, there today or not.

    A choice that was held out is in the part where it was; any other is in train. Choices of items that
    have left the catalogue since are left out and counted, and so are, where labels split, those whose label
    names no part. No choice is filtered out by numbers of choices.
    """
    data, held_out, before = road.config.data, _held_before(road), road.origin.part("train")
    ids = np.array(road.catalog.ids, dtype=np.str_)
    gone = sorted({*before.item_ids.tolist(), *_gone_before(road)} - set(road.catalog.ids))
    axis = [*road.catalog.ids, *gone]
    found, counts = read_interactions(
        data.interactions_path, data.interaction_columns, axis, data.unknown_items
    )
    there = found.item_rows < len(ids)
    today = found.take(there)
    today = Interactions(today.user_ids, ids, *_columns(today))
    labels, n_there = _labels(road), len(today)
    if labels is not None and today.labels is not None:
        today = today.take(np.isin(today.labels, labels))
    if data.history_is_ordered is False:
        today = replace(today, timestamps=None)
    part_of = np.asarray(held_out.labels)
    held = {name: _is_in(today, held_out.take(part_of == name)) for name in ("valid", "test")}
    parts = {**held, "train": ~(held["valid"] | held["test"])}
    for name, rows in parts.items():
        today.take(rows).save(road.path("prepare", f"{name}.parquet"))
    held_out.save(road.path("prepare", HELD))
    summary = {
        "read": {"in": counts.n_in, "ok": counts.n_ok},
        "of_items_that_left": int((~there).sum()),
        "of_no_part": n_there - len(today),
        "new": int((parts["train"] & ~_is_in(today, before)).sum()),
        **{name: int(rows.sum()) for name, rows in parts.items()},
    }
    write_atomic(road.path("prepare", "summary.json"), json.dumps(summary, indent=1).encode())
    write_atomic(road.path("prepare", GONE), json.dumps(gone).encode())
    outputs = ("train.parquet", "valid.parquet", "test.parquet", "summary.json", GONE, HELD)
    left_out = counts.n_quarantined + int((~there).sum())
    return Counts(counts.n_in, counts.n_in - left_out, left_out, outputs=outputs)


def _labels(road: Road) -> list[str] | None:
    """The labels that name a part; None where labels do not split."""
    split = road.config.data.split
    named = [*split.train_labels, *split.valid_labels, *split.test_labels]
    return named if split.method == "label" else None


def _gone_before(road: Road) -> list[str]:
    found = read_json(road.origin.path("prepare", GONE))
    return found if isinstance(found, list) else []


def _held_before(road: Road) -> Interactions:
    """The choices that were ever held out, each labelled with its part."""
    origin = road.origin
    if HELD in dict(path_hashes(origin.stage("prepare").record)):
        return Interactions.load(origin.path("prepare", HELD))
    parts = {name: origin.part(name) for name in ("valid", "test")}
    labels = np.repeat(list(parts), [len(part) for part in parts.values()])
    both = parts["valid"].concat(parts["test"])
    return replace(both, timestamps=None, weights=None, labels=labels)


def _columns(part: Interactions) -> Sequence[Any]:
    return part.user_rows, part.item_rows, part.timestamps, part.weights, part.labels


def _is_in(today: Interactions, part: Interactions) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """True [E] for the choices that another part has too."""
    users = find_rows(part.user_ids[part.user_rows], today.user_ids)
    items = find_rows(part.item_ids[part.item_rows], today.item_ids)
    kept = (users >= 0) & (items >= 0)
    pairs = users[kept] * today.n_items + items[kept]
    own = today.user_rows.astype(np.int64) * today.n_items + today.item_rows
    return np.isin(own, pairs)


def train_parts(road: Road) -> dict[str, Any]:
    """Which frozen models these are."""
    origin = road.origin
    return {"train": origin.hash_of("train"), "recommend": None if _is_frozen(origin) else _leader(origin)}


def freeze_models(road: Road) -> Counts:
    """Writes `frozen/`: the models of the run before, as they were frozen there, or frozen now."""
    origin, names = road.origin, source_names(road.config)
    if _is_frozen(origin):
        origin.carry("train", road.stage("train"))
    else:
        origin.use_threads()
        kind, known = final_fit(origin)
        folder = road.path("train", f"{FROZEN}/none").parent
        freeze(load_models(origin, kind, names, known), known, folder)
        write_atomic(folder / LEADER, origin.path("recommend", LEADER).read_bytes())
    return Counts(len(names), len(names), outputs=(FROZEN,))


def _is_frozen(origin: Origin) -> bool:
    return any(row["path"].startswith(f"{FROZEN}/") for row in origin.stage("train").record["outputs"])


def _leader(origin: Origin) -> str:
    rows = origin.stage("recommend").record["outputs"]
    return next(str(row["sha256"]) for row in rows if row["path"] == LEADER)


def finetune_parts(road: Road) -> dict[str, Any]:
    """Which adapter and fusion these are."""
    return {"finetune": road.origin.hash_of("finetune")}


def carry_adapter(road: Road) -> Counts:
    """Takes all outputs of the run's `finetune` stage over."""
    files = road.origin.carry("finetune", road.stage("finetune"))
    return Counts(len(files), len(files), outputs=tuple(files))


REFRESHED: dict[str, Stage] = {
    "prepare": Stage(STAGES["prepare"].folder, (), prepare_parts, prepare),
    "caption": STAGES["caption"],
    "embed": STAGES["embed"],
    "train": Stage(STAGES["train"].folder, (), train_parts, freeze_models),
    "recommend": Stage(STAGES["recommend"].folder, ("prepare", "embed", "train"), recommend_parts, recommend),
    "finetune": Stage(
        STAGES["finetune"].folder, (), finetune_parts, carry_adapter, STAGES["finetune"].wanted
    ),
    "rerank": Stage(
        STAGES["rerank"].folder,
        ("caption", "recommend", "finetune"),
        rerank_parts,
        rerank,
        STAGES["rerank"].wanted,
    ),
}
