"""The reranked lists of a refreshed run: the language model reads only prompts that are new to it."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalograph.config import RunConfig
from catalograph.gating import gate_parts
from catalograph.integrity import read_sealed, write_sealed
from catalograph.rerank_lists import final_lists, item_texts, settings_of
from catalograph.reranker_model import load_trained, model_identity
from catalograph.reranking import orders_of, write_orders
from catalograph.road import KEPT, Counts, Road
from extract.errors import ConfigError
from extract.store import hash_file, write_atomic
from recsys.frozen import KEY, content_key
from rerank.inference import ordered_by, rank_lists
from rerank.lists import RankingList
from rerank.prompts import LAYOUTS

logger = logging.getLogger(__name__)

SCORES, SEAL = "scores.npz", "scores.json"


def check_readable(config: RunConfig) -> None:
    """Raise ConfigError C209 for a reranker that reads more than the words of a prompt."""
    settings = config.rerank
    if settings is not None and (settings.form != "text" or settings.lambdamart is not None):
        raise ConfigError(
            "C209",
            "a refresh reorders by the text form alone",
            where="rerank.form and rerank.lambdamart",
            why="the other forms read vectors made from all choices, which every new choice moves",
            next_step="run again instead: catalograph run --from, which reuses captions and vectors",
        )


def rerank_parts(road: Road) -> dict[str, Any]:
    """What the reordered lists are made from."""
    return {
        **_reader(road),
        "recommend": road.hash_of("recommend"),
        "prepare": road.hash_of("prepare"),
        "caption": road.hash_of("caption"),
        "catalog": road.catalog_parts(),
        **gate_parts(road),
    }


def _reader(road: Road) -> dict[str, Any]:
    """What reads: adapter, model and layout."""
    settings = settings_of(road)
    return {
        "finetune": road.hash_of("finetune"),
        "model": model_identity(settings),
        "layout": asdict(LAYOUTS[settings.prompt]),
    }


def rerank(road: Road) -> Counts:
    """Writes the lists in every order there is, and the scores that the next refresh may use again."""
    road.use_threads()
    candidates, lists = final_lists(road)
    texts, settings = item_texts(road), settings_of(road)
    keys = prompt_keys(lists, texts)
    scores, unread = _known_scores(road, candidates.k, lists, keys)
    if unread:
        scorer = load_trained(road, lists)
        with road.progress.task("rerank", len(unread)) as task:
            for done, row in enumerate(unread, start=1):
                # One at a time: in a batch, the last bits of a score depend on what else is in it.
                scores[row] = rank_lists(scorer, [lists[row]], texts, settings.inference)[0]
                task.reach(done)
    _keep(road, candidates.k, lists, keys, scores)
    llm = ordered_by(candidates, scores, "reranker")
    outputs = write_orders(road, candidates, orders_of(road, llm, candidates, lists))
    road.run.log("refresh", stage="rerank", lists=len(lists), read_anew=len(unread))
    return Counts(len(lists), len(lists), outputs=outputs, n_anew=len(unread))


def prompt_keys(lists: Sequence[RankingList], texts: Mapping[str, str]) -> list[bytes]:
    """By list, the hash of what its prompt is made of: texts of history and candidates, in order."""
    own = {item: content_key(text.encode()) for item, text in texts.items()}
    empty = content_key(b"")
    return [
        content_key(
            b"".join([
                len(entry.history).to_bytes(4, "big"),
                bytes([entry.ordered]),
                *(own.get(item, empty) for item in (*entry.history, *entry.candidates)),
            ])
        )
        for entry in lists
    ]


def _known_scores(
    road: Road, k: int, lists: Sequence[RankingList], keys: Sequence[bytes]
) -> tuple[list[NDArray[np.float32]], list[int]]:
    """Scores by list, those of unread ones empty, and the rows of these."""
    kept = _kept(road)
    scores = [np.zeros(0, np.float32)] * len(lists)
    if kept is not None and kept["scores"].shape[1] == k:
        rows = {user: row for row, user in enumerate(kept["users"].tolist())}
        then = kept["keys"].tobytes()
        for place, (entry, key) in enumerate(zip(lists, keys, strict=True)):
            row = rows.get(entry.user_id)
            if row is not None and then[row * KEY : (row + 1) * KEY] == key:
                scores[place] = kept["scores"][row, : len(entry.candidates)]
    return scores, [row for row, found in enumerate(scores) if not len(found)]


def _keep(
    road: Road, k: int, lists: Sequence[RankingList], keys: Sequence[bytes],
    scores: Sequence[NDArray[np.float32]],
) -> None:  # fmt: skip
    table = np.full((len(lists), k), np.nan, np.float32)
    for row, own in enumerate(scores):
        table[row, : len(own)] = own
    sink = io.BytesIO()
    flat = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), KEY)
    users = np.array([entry.user_id for entry in lists], dtype=np.str_)
    np.savez(sink, allow_pickle=False, users=users, keys=flat, scores=table)
    path = road.path("rerank", f"{KEPT}/{SCORES}")
    write_atomic(path, sink.getvalue())
    write_sealed(path.with_name(SEAL), {"sha256": hash_file(path), "reader": _reader(road)})


def _kept(road: Road) -> dict[str, Any] | None:
    """The scores of the run before, if the same model read and they are whole."""
    if not (road.origin.lends and road.origin.is_done("rerank")):
        return None
    path = road.origin.path("rerank", f"{KEPT}/{SCORES}")
    seal = read_sealed(path.with_name(SEAL))
    reader = json.loads(json.dumps(_reader(road)))
    if seal is None or seal["reader"] != reader or not path.is_file():
        return None
    if hash_file(path) != seal["sha256"]:
        logger.warning("%s is damaged: every list is read anew", path)
        return None
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}
