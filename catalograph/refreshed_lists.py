"""The candidates of a refreshed run: frozen retrievers, and lists brought up to date from those of before."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from catalograph.integrity import read_sealed, write_sealed
from catalograph.orders import Order, rule_parts, saved_order, users_of, write_embeddings
from catalograph.retrieval import final_fit, source_names
from catalograph.road import KEPT, Counts, Finished, Road
from extract.features import FeatureTable
from extract.store import hash_file, write_atomic
from recsys.candidates import Candidates, block_within, described
from recsys.deep_lists import DeepLists, Ranked, rank
from recsys.frozen import Frozen, thaw
from recsys.interactions import Interactions
from recsys.list_rules import Allowed
from recsys.ranking import Recommender

logger = logging.getLogger(__name__)

DEEPER = 2
"""Depth of the kept lists, in lengths of the lists shown."""
LISTS, SEAL = "lists.npz", "lists.json"


def recommend_parts(road: Road) -> dict[str, Any]:
    """What the candidates are made from."""
    config = road.config
    return {
        "train": road.hash_of("train"),
        "prepare": road.hash_of("prepare"),
        "embed": road.hash_of("embed") if _content_features(road) else None,
        "candidates": config.candidates.model_dump(mode="json", exclude={"memory_gib"}),
        "rules": rule_parts(road),
    }


def recommend(road: Road) -> Counts:
    """Writes the candidates of all users, and what the next refresh needs to know of them."""
    names, (_, known) = source_names(road.config), final_fit(road)
    leader = road.path("train", "frozen/leader.json").read_bytes()
    write_atomic(road.path("recommend", "leader.json"), leader)
    tables = {n: FeatureTable.load(road.path("embed", f"{n}.safetensors")) for n in _content_features(road)}
    models = thaw(road.path("train", "frozen"), names, known, tables)
    order = saved_order(road, known)
    if order.weights is None and order.rules.categories is None:
        lists, ranked = _ranked(road, order, models, known)
        anew = int(ranked.anew.sum())
    else:
        # A sum of standardised scores, or a cap, may change for everybody with any one item.
        free: dict[str, Recommender] = {
            name: model if model.known.all() else Allowed(model, model.known)
            for name, model in models.items()
        }
        lists, ranked = order.lists(free, known, users_of(known)), None
        anew = len(lists)
    lists.to_parquet(road.path("recommend", "test.parquet"))
    lists.to_trec(road.path("recommend", "test.trec"), order.name)
    outputs = ["test.parquet", "test.trec", "leader.json"]
    if road.config.candidates.embeddings or road.config.candidates.index:
        outputs += write_embeddings(road, models, known)
    if ranked is not None:
        _keep(road, ranked.lists)
    road.run.log("refresh", stage="recommend", users=len(lists), ranked_anew=anew)
    return Counts(len(lists), len(lists), outputs=tuple(outputs), n_anew=anew)


def _ranked(
    road: Road, order: Order, models: dict[str, Frozen], known: Interactions
) -> tuple[Candidates, Ranked]:
    leader, allowed = models[order.name], order.rules.allowed
    rows = np.unique(known.user_rows)
    block = block_within(order.memory, known.n_items, len(models))
    ranked = rank(
        leader, known, rows, order.k, depth=DEEPER * order.k, allowed=allowed, old=_kept(road), block=block
    )
    items, final = ranked.best(order.k)
    shown: dict[str, Recommender] = {}
    for name, model in models.items():
        open_ = model.known if allowed is None else model.known & allowed
        shown[name] = model if open_.all() else Allowed(model, open_)
    return described(shown, known, rows, order.name, items, final, block=block), ranked


def _content_features(road: Road) -> tuple[str, ...]:
    """Features that a frozen retriever reads."""
    used = [road.config.retrievers[name] for name in source_names(road.config)]
    return tuple(sorted({f for r in used if r.model == "content_search" for f in r.features}))


def _keep(road: Road, lists: DeepLists) -> None:
    path = road.path("recommend", f"{KEPT}/{LISTS}")
    lists.save(path)
    write_sealed(path.with_name(SEAL), {"sha256": hash_file(path), "models": road.hash_of("train")})


def _kept(road: Road) -> DeepLists | None:
    """The deep lists of the run before, if they are of the same models and whole."""
    origin: Finished = road.origin
    if not road.origin.lends:
        return None
    path = origin.path("recommend", f"{KEPT}/{LISTS}")
    seal = read_sealed(path.with_name(SEAL))
    if seal is None or seal["models"] != road.hash_of("train") or not path.is_file():
        return None
    if hash_file(path) != seal["sha256"]:
        logger.warning("%s is damaged: everybody's list is made anew", path)
        return None
    return DeepLists.load(path)
