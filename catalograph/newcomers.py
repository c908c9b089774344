"""Recommendations of a finished run for people it never saw, from what they chose since."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from catalograph.config_file import load_config
from catalograph.orders import saved_order, users_of
from catalograph.progress import Progress
from catalograph.retrieval import final_fit, load_models, source_names
from catalograph.stages import finished_road
from recsys.candidates import concatenated
from recsys.interactions import read_interactions
from recsys.newcomers import newcomer_models, stand_in_blocks


def recommend_newcomers(run_dir: Path, histories: Path, out: Path, as_json: bool) -> str:
    """Writes the candidates of everybody in `histories` to `out`, in the run's own order and under its rules;
    returns what to print.

    The file has the columns that `data.interaction_columns` names for user and item; ids may be those of
    users the run knows, whose old choices then do not count. Items that the catalogue lacks are handled as
    `data.unknown_items` says. The run's recommend stage must be done.
    """
    config = load_config(run_dir / "config.yaml")
    data = config.data
    columns = data.interaction_columns.model_copy(update={"timestamp": None, "weight": None, "label": None})
    with Progress() as progress, finished_road(config, run_dir, ("recommend",), progress) as road:
        road.use_threads()
        newcomers, counts = read_interactions(histories, columns, road.catalog.ids, data.unknown_items)
        kind, known = final_fit(road)
        order, parts = saved_order(road, known), []
        load = partial(load_models, road, kind, source_names(config))
        for block, ids in stand_in_blocks(known, newcomers):
            lists = order.lists(newcomer_models(load, known, block), block, users_of(block))
            parts.append(replace(lists, user_ids=np.asarray(ids, dtype=np.str_)))
        lists = concatenated(parts)
        out.parent.mkdir(parents=True, exist_ok=True)
        lists.to_parquet(out)
    result = {"users": len(lists), "interactions": counts.n_ok, "dropped": counts.n_quarantined}
    return json.dumps({**result, "out": str(out)}) if as_json else str(out)
