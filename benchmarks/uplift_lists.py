"""The lists of `uplift.py`: read, split, retrieved out of fold and merged, each set kept in a file."""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from extract.embed import embed_texts
from extract.engines import EmbedConfig, build_embedder
from extract.features import FeatureTable
from extract.items import Catalog, CatalogColumns, read_catalog
from extract.prompts import render_text
from extract.store import write_atomic
from recsys.candidates import Candidates, retrieve
from recsys.columns import InteractionColumns
from recsys.interactions import Interactions, read_interactions
from recsys.merge import fit_weights, retrieve_merged
from recsys.models import build_model
from recsys.split import SplitConfig, out_of_fold, split_interactions
from recsys.train import TrainConfig, fit
from rerank.gate import Decision, moment, set_aside
from rerank.inputs import ItemVectors, item_vectors, list_inputs
from rerank.lists import RankingList, ranking_lists, shown_histories
from rerank.settings import FineTuneConfig, LambdaMartConfig, RerankConfig, TokenConfig

TEMPLATE = "{title}. {attributes.genres}. {text}"
# EASE's 300 on the films is the published comparison's; all other settings are by NDCG@20 on validation.
FILM_SOURCES: dict[str, tuple[str, dict[str, Any]]] = {
    "ease": ("ease", {"l2": 300}),
    "ease_weighted": ("ease", {"l2": 300, "denoise": 0.33, "user_power": 0.75}),
    "als": ("als", {"embedding_size": 128, "alpha0": 0.5, "l2": 6e-3, "iterations": 8}),
    "item_knn": ("item_knn", {}), "popularity": ("popularity", {}),
}  # fmt: skip
BABY_SOURCES: dict[str, tuple[str, dict[str, Any]]] = {
    "ease": ("ease", {"l2": 250}), "ease_weighted": ("ease", {"l2": 250, "user_power": 0.5}),
    "item_knn": ("item_knn", {"neighbours": 100, "shrink": 50}), "popularity": ("popularity", {}),
}  # fmt: skip


class Pause(Exception):
    """Time is up; what is done is on disk."""


class Lists:
    """The lists of one data set."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        self.quick: bool = chosen.quick
        self.data: Path = chosen.data
        self.ordered = (chosen.data / "item_map.csv").is_file()
        self.films = self.ordered or (chosen.data / "posters_224.zip").is_file()
        self.name = "ml100k_posters" if self.ordered else "ml1m_posters" if self.films else "amazon_baby"
        self.work: Path = chosen.work / (self.name + ("-quick" if chosen.quick else ""))
        self.work.mkdir(parents=True, exist_ok=True)
        kinds = ["token", "lambdamart", "gated", *(["token_texts_permuted"] if self.films else [])]
        self.kinds = [
            f"{kind}{end}" for kind in kinds for end in ("", "_fused") if kind + end != "gated_fused"
        ]
        self.kinds = [kind for kind in self.kinds if chosen.only in {None, kind}]
        self.stop = time.monotonic() + 60 * chosen.minutes
        self.retrievers = FILM_SOURCES if self.films else BABY_SOURCES
        self.decisions: dict[int, list[Decision]] = {}
        self._training: dict[bool, tuple[list[RankingList], list[RankingList]]] = {}
        if chosen.quick:
            self.retrievers = {name: self.retrievers[name] for name in ("ease", "item_knn", "popularity")}
        self.folds = 2 if chosen.quick else 5
        self.k = 40 if chosen.quick else 100
        self.token = RerankConfig(
            form="token", history=32 if self.films else 20,
            token=TokenConfig(choices=64, layers=1, features=("text",) if self.films else ()),
            finetune=FineTuneConfig(
                loss="listnet", rank_weight=1.0, epochs=1 if chosen.quick else chosen.epochs, batch_size=64,
                token_budget=8192, learning_rate=2e-3, average=0.99, patience=4,
                validation_lists=300 if chosen.quick else 1500,
            ),
        )  # fmt: skip
        self.trees = LambdaMartConfig(leaves=(15, 31, 63), min_leaf=(100,), trees=20 if chosen.quick else 300)

    def check(self) -> None:
        """Raises Pause when time is up."""
        if time.monotonic() > self.stop:
            raise Pause

    @cached_property
    def catalog(self) -> Catalog:
        """The items."""
        names = {"item_id": "item_id", "title": "title", "text": ("plot",), "attributes": ("genres",)}
        names = names if self.films else {"item_id": "itemID", "title": "asin"}
        path = joined_films(self.data, self.work) if self.ordered else self.data / "items.csv"
        return read_catalog(path, CatalogColumns.model_validate(names), None)

    @cached_property
    def parts(self) -> tuple[Interactions, Interactions, Interactions]:
        """Train, validation, test."""
        names = {"user": "userID", "item": "itemID", "label": "x_label_diffmm"}
        if self.films:
            names = {"timestamp": "timestamp"} if self.ordered else {"label": "colakg_split"}
        columns = InteractionColumns.model_validate(names)
        found, _ = read_interactions(self.data / "interactions.csv.gz", columns, self.catalog.ids, "drop")
        if self.quick:
            found = found.take(np.flatnonzero(found.user_rows < 600))
        labels = {"train_labels": ("0",), "test_labels": ("1",) if self.films else ("2",)}
        labels |= {} if self.films else {"valid_labels": ("1",)}
        method = "global_time" if self.ordered else "label"
        split = split_interactions(found, SplitConfig(method=method, valid_share=0.1, **labels))
        return split.train, split.valid, split.test

    @cached_property
    def known(self) -> Interactions:
        """Train and validation together."""
        return self.parts[0].concat(self.parts[1])

    @cached_property
    def sets(self) -> dict[str, tuple[Interactions, Interactions]]:
        """What each set of lists was retrieved with, and its truth."""
        train, valid, test = self.parts
        folds = out_of_fold(train, self.folds, 0, train.ordered)
        named = {f"fold-{n}": (fold.train, fold.held_out) for n, fold in enumerate(folds)}
        return {"valid": (train, valid), **named, "test": (self.known, test)}

    def candidates(self, name: str) -> Candidates:
        """The lists of one set."""
        known, truth = self.sets[name]
        path = self.work / f"{name}.parquet"
        if not path.is_file():
            self.check()
            note(f"retrieve {name}")
            models = {}
            for source, (kind, params) in self.retrievers.items():
                models[source] = build_model(kind, params, known)
                fit(models[source], known, None, TrainConfig())
            users = known.user_ids[np.unique(truth.user_rows)]
            weights = self._weights(models)
            if name == "test":
                retrieve({"ease": models["ease"]}, known, users, 20).to_parquet(self.work / "ease.parquet")
            retrieve_merged(models, known, users, self.k, weights).to_parquet(path)
        return Candidates.from_parquet(path)

    def _weights(self, models: dict[str, Any]) -> dict[str, float]:
        """The sources' weights in the merged list, from validation, whose lists are the first to be made."""
        path = self.work / "merged.json"
        if not path.is_file():
            weights, reached = fit_weights(models, *self.parts[:2], self.k)
            write_atomic(path, json.dumps({"weights": weights, "validation": reached}).encode())
        weights = json.loads(path.read_text())["weights"]
        return weights

    @cached_property
    def texts(self) -> FeatureTable | None:
        """The text vectors of the items; None where there are no texts."""
        path = self.work / "text.safetensors"
        if self.films and not path.is_file():
            self.check()
            note("embed texts")
            texts = [render_text(TEMPLATE, item, None) for item in self.catalog]
            vectors = embed_texts(texts, build_embedder(EmbedConfig()))
            FeatureTable(tuple(self.catalog.ids), vectors).save(path)
        return FeatureTable.load(path) if self.films else None

    @cached_property
    def reference(self) -> ItemVectors:
        """Whose basis the vectors made from choices share."""
        return item_vectors(self.parts[0], {}, width=64)

    def lists(self, name: str, *, permuted: bool, truth: Interactions | None = None) -> list[RankingList]:
        """The lists of one set with what a soft token reads; those without a truth only in the test."""
        known, found = self.sets[name]
        truth = found if truth is None else truth
        candidates = self.candidates(name)
        features: dict[str, FeatureTable] = {}
        if self.texts is not None:
            order = np.random.default_rng(0).permutation(len(self.texts)) if permuted else slice(None)
            features["text"] = FeatureTable(self.texts.ids, self.texts.matrix[order])
        vectors = item_vectors(known, features, width=64, reference=self.reference)
        inputs = list_inputs(candidates, known, vectors, list(self.retrievers))
        users = [str(user) for user in candidates.user_ids]
        made = ranking_lists(
            candidates, shown_histories(known, users, length=self.token.history, seed=0), truth, seed=0,
            inputs=inputs, vectors=vectors, ordered=known.ordered,
        )  # fmt: skip
        return made if name == "test" else [entry for entry in made if entry.relevance.any()]

    def training(self, *, permuted: bool) -> tuple[list[RankingList], list[RankingList]]:
        """Out-of-fold lists, and validation lists to choose by."""
        if permuted not in self._training:
            lists = [e for n in range(self.folds) for e in self.lists(f"fold-{n}", permuted=permuted)]
            self._training = {permuted: (lists, self.held(permuted=permuted)[0])}
        return self._training[permuted]

    def held(self, *, permuted: bool = False) -> tuple[list[RankingList], list[RankingList]]:
        """As `_held`, made once for the texts as they are."""
        return self._held(permuted=True) if permuted else self._own_held

    @cached_property
    def _own_held(self) -> tuple[list[RankingList], list[RankingList]]:
        return self._held(permuted=False)

    @cached_property
    def _own_test(self) -> list[RankingList]:
        return self.lists("test", permuted=False)

    def _held(self, *, permuted: bool) -> tuple[list[RankingList], list[RankingList]]:
        """Validation lists to choose by, and those of other users for the gate, at least half of them; of
        data cut by dates the later ones, without a truth of their time in the others.
        """
        lists, valid = self.lists("valid", permuted=permuted), self.parts[1]
        if not self.ordered or valid.timestamps is None:
            limit = min(self.token.finetune.validation_lists, len(lists) - len(lists) // 2)
            return lists[:limit], lists[limit:]
        first = np.full(valid.n_users, np.iinfo(np.int64).max)
        np.minimum.at(first, valid.user_rows, valid.timestamps)
        times = first[valid.user_rows_of([entry.user_id for entry in lists])]
        _, later = set_aside(np.arange(len(lists)), len(lists), 0, times)
        asked = {lists[row].user_id for row in later}
        earlier = self.lists("valid", permuted=permuted, truth=valid.take(valid.timestamps < moment(times)))
        return [entry for entry in earlier if entry.user_id not in asked], [lists[row] for row in later]

    def asked(self, name: str, *, permuted: bool = False) -> list[RankingList]:
        """The lists of the test, those to choose by, or those the gate decides on."""
        if name == "test":
            return self.lists("test", permuted=True) if permuted else self._own_test
        return self.held(permuted=permuted)[name == "gate"]

    def came_in(self, name: str) -> Candidates:
        """The same lists as they were retrieved."""
        if name == "test":
            return self.candidates("test")
        held = self.candidates("valid")
        row_of = {str(user): row for row, user in enumerate(held.user_ids)}
        return held.take(np.array([row_of[entry.user_id] for entry in self.asked(name)]))


def joined_films(data: Path, work: Path) -> Path:
    """The items of ml100k_posters with genres and plot of ml1m_posters, by its id."""
    path = work / "items.csv"
    with (data.parent / "ml1m_posters" / "items.csv").open(encoding="utf-8", newline="") as lines:
        films = {row["item_id"]: row for row in csv.DictReader(lines)}
    with (data / "item_map.csv").open(encoding="utf-8", newline="") as lines, path.open("w") as out:
        writer = csv.writer(out)
        writer.writerow(["item_id", "title", "plot", "genres"])
        for row in csv.DictReader(lines):
            film = films.get(row["ml1m_item_id"], {})
            writer.writerow([row["item_id"], row["title"], film.get("plot", ""), film.get("genres", "")])
    return path


def note(text: str) -> None:
    """A line for whoever waits."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
