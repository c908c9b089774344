"""Readers of the public data that the benchmarks measure on; nothing to run."""

from __future__ import annotations

import csv
import gzip
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from catalograph.filling import model_folder
from extract.embed import embed_texts
from extract.engines import EmbedConfig, build_embedder
from extract.features import FeatureTable
from extract.items import CatalogColumns, read_catalog
from extract.prompts import render_text
from recsys import read_interactions
from recsys.interactions import InteractionColumns, Interactions
from recsys.split import Split, SplitConfig, split_interactions


@dataclass(frozen=True)
class Data:
    """What a table is measured on, and whether the chosen setting learns from validation too, before test."""

    split: Split
    features: Mapping[str, FeatureTable]
    published: Mapping[str, tuple[float, float]]
    refit: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Of the processor, for reading the choices and for embedding each feature."""

    @property
    def known(self) -> Interactions:
        """What the measured model has learned from, and what is masked at test."""
        return self.split.train.concat(self.split.valid) if self.refit else self.split.train


def films(folder: Path, cache: Path, names: Sequence[str] = ("plot", "told")) -> Data:
    """MovieLens-1M with CoLaKG's split and the named features, whose vectors are kept in `cache`: `title`,
    `plot` (title, genres and plot) and `told` (what a language model wrote).
    """
    began = time.process_time()
    columns = InteractionColumns(user="user_id", item="item_id", label="colakg_split")
    labels = SplitConfig(method="label", train_labels=("0",), test_labels=("1",), valid_share=0.2)
    described = CatalogColumns(item_id="item_id", title="title", text=("plot",), attributes=("genres",))
    items = read_catalog(folder / "items.csv", described)
    interactions, _ = read_interactions(folder / "interactions.csv.gz", columns, items.ids)
    with gzip.open(folder / "llm_item_text_colakg.jsonl.gz", "rt", encoding="utf-8") as lines:
        told = {str(row["item_id"]): row["text"] for row in map(json.loads, lines)}
    texts = {
        "title": [item.title for item in items],
        "plot": [render_text("{title}. {attributes.genres}. {text}", item) for item in items],
        "told": [told.get(item.item_id, "") for item in items],
    }
    split = split_interactions(interactions, labels)
    seconds = {"choices": time.process_time() - began}
    features = {}
    for name in names:
        path = cache / f"{name}.safetensors"
        features[name] = embedded(path, items.ids, texts[name])
        seconds[name] = json.loads(path.with_suffix(".json").read_text())
    return Data(split, features, {"EASE": (0.2723, 0.4051)}, refit=True, seconds=seconds)


def embedded(path: Path, ids: Sequence[str], texts: Sequence[str]) -> FeatureTable:
    """MiniLM vectors of texts, made once; an empty text has none. What that took is kept beside."""
    if not path.with_suffix(".json").is_file():
        began = time.process_time()
        embedder = build_embedder(EmbedConfig(model=model_folder(EmbedConfig().model)))
        present = np.array([bool(text) for text in texts])
        FeatureTable(tuple(ids), embed_texts(list(texts), embedder), present).save(path)
        path.with_suffix(".json").write_text(json.dumps(time.process_time() - began))
    return FeatureTable.load(path)


def timed_films(folder: Path, cache: Path, split: SplitConfig, texts: Path | None = None) -> Data:
    """MovieLens-100K, which has times, divided by `split`; with `texts`, the folder of ml1m_posters, the
    feature `plot` of title, genres and plot.

    Only users with a train choice are asked for in validation and test: of others nothing is known.
    """
    began = time.process_time()
    ids, titles, other = [], [], []
    with (folder / "item_map.csv").open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            ids.append(row["item_id"])
            titles.append(row["title"])
            other.append(row["ml1m_item_id"])
    columns = InteractionColumns(timestamp="timestamp", weight="rating")
    interactions, _ = read_interactions(folder / "interactions.csv.gz", columns, ids)
    parts = split_interactions(interactions, split)
    known = np.unique(parts.train.user_rows)
    valid, test = (part.take(np.isin(part.user_rows, known)) for part in (parts.valid, parts.test))
    features, seconds = {}, {"choices": time.process_time() - began}
    if texts is not None:
        described = CatalogColumns(item_id="item_id", title="title", text=["plot"], attributes=["genres"])
        items = read_catalog(texts / "items.csv", described)
        told = [
            render_text("{title}. {attributes.genres}. {text}", items[same]) if same else title
            for same, title in zip(other, titles, strict=True)
        ]
        path = cache / "plot-100k.safetensors"
        features["plot"] = embedded(path, ids, told)
        seconds["plot"] = json.loads(path.with_suffix(".json").read_text())
    return Data(Split(parts.train, valid, test), features, {}, refit=True, seconds=seconds)


def baby(folder: Path, cache: Path, names: Sequence[str] = ()) -> Data:
    """Amazon Baby with DiffMM's split and the figures of DiffMM's table that use no features; it has none."""
    began = time.process_time()
    columns = InteractionColumns(user="userID", item="itemID", label="x_label_diffmm")
    labels = SplitConfig(method="label", train_labels=("0",), valid_labels=("1",), test_labels=("2",))
    items = read_catalog(folder / "items.csv", CatalogColumns(item_id="itemID", title="asin"))
    interactions, _ = read_interactions(folder / "interactions.csv.gz", columns, items.ids)
    published = {
        "MF-BPR": (0.0440, 0.0200),
        "NGCF": (0.0591, 0.0261),
        "LightGCN": (0.0698, 0.0319),
        "SGL": (0.0678, 0.0296),
        "NCL": (0.0703, 0.0311),
        "HCCF": (0.0705, 0.0308),
    }
    split = split_interactions(interactions, labels)
    return Data(split, {}, published, seconds={"choices": time.process_time() - began})
