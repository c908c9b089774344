"""A model, a loss, a captioner, a metric and a stage of somebody else's, without a change to the packages.

docs/architecture.md says where each of them goes; this is the proof that nothing else needs to know.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict
from torch import Tensor

import catalograph
from catalograph.demo.sample import write_sample
from catalograph.road import Counts, Road
from catalograph.stages import STAGES, Stage
from extract.caption import caption_items, caption_store
from extract.caption_shards import captions_of
from extract.features import FeatureTable
from extract.items import CatalogColumns, read_catalog
from extract.prompts import caption_prompt
from recsys.candidates import Candidates, retrieve
from recsys.interactions import Interactions, interactions_from
from recsys.metrics import METRICS, Hits, PerUser, evaluate
from recsys.metrics import Counts as TruthCounts
from recsys.settings import TrainConfig
from recsys.train import fit
from rerank.inputs import item_vectors, list_inputs
from rerank.lists import RankingList, ranking_lists
from rerank.losses import LOSSES, RankingLoss
from rerank.settings import FineTuneConfig, RerankConfig, TokenConfig
from rerank.token import build_token_scorer
from rerank.train import fine_tune


class FreshnessConfig(BaseModel):
    """Settings of `Freshness`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    decay: float = 0.5
    """What a choice weighs, by its place from the end of the file."""


class Freshness:
    """Popularity in which late choices count more."""

    def __init__(
        self, config: FreshnessConfig, train: Interactions,
        features: Mapping[str, FeatureTable] | None = None, *, seed: int = 0,
    ) -> None:  # fmt: skip
        self.config, self.axes, self._train = config, train.axes_hash(), train
        self.weights = np.zeros(train.n_items, np.float32)

    def solve(self) -> None:
        age = np.arange(len(self._train))[::-1]
        np.add.at(self.weights, self._train.item_rows, self.config.decay**age)

    def score(self, user_rows: NDArray[np.int32]) -> NDArray[np.float32]:
        return np.tile(self.weights, (len(user_rows), 1))


def first_hit_is_first(hits: Hits, n_truth: TruthCounts, k: int) -> PerUser:
    """1 where the first place is a truth."""
    found: PerUser = hits[:, 0].astype(np.float64)
    return found


def test_a_model_and_a_metric_are_passed_in() -> None:
    train = interactions_from(["u1", "u1", "u2", "u2"], ["a", "b", "b", "c"], ["a", "b", "c", "d"])
    model = Freshness(FreshnessConfig(decay=0.5), train)
    assert fit(model, train, None, TrainConfig()).stopped == "closed_form"
    # Ages 3, 2, 1, 0: a has 1/8, b 1/4 + 1/2, c 1.
    assert model.weights.tolist() == [0.125, 0.75, 1.0, 0.0]
    lists = retrieve({"freshness": model}, train, ["u1", "u2"], 2)
    assert lists.items.tolist() == [["c", "d"], ["a", "d"]]
    truth = interactions_from(["u1", "u2"], ["c", "d"], ["a", "b", "c", "d"])
    found = evaluate(lists, truth, [2], {**METRICS, "first": first_hit_is_first})
    assert found.per_user["first@2"].tolist() == [1.0, 0.0] and "ndcg@2" in found.per_user


class Painter:
    """A captioner that says which of three colours there is most of."""

    fingerprint: Mapping[str, str] = {"engine": "painter", "version": "1"}

    def caption(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Sequence[str]:
        names = ("red", "green", "blue")
        return [names[int(np.asarray(image).mean((0, 1)).argmax())] for image in images]


def test_a_captioner_is_passed_in(tmp_path: Path) -> None:
    for name, colour in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{name}.png")
    (tmp_path / "items.csv").write_text("item_id\na\nb\nc\n")
    columns = CatalogColumns(title=None, picture_pattern="{item_id}.png")
    catalog = read_catalog(tmp_path / "items.csv", columns, tmp_path)
    settings: dict[str, Any] = {"prompt": caption_prompt("product"), "batch_size": 2}
    store = caption_store(tmp_path / "store", Painter(), buckets=2, **settings)
    caption_items(catalog, Painter(), store, max_bad=1.0, **settings)
    assert captions_of(store) == {"a": "red", "b": "blue"}


def hinge(scores: Tensor, relevance: Tensor, mask: Tensor) -> Tensor:
    """Every truth should be 1 above every other candidate."""
    worse = (relevance[:, :, None] > relevance[:, None, :]) & mask[:, :, None] & mask[:, None, :]
    gap = (1 - scores[:, :, None] + scores[:, None, :]).clamp(min=0)
    return (gap * worse).sum() / worse.sum().clamp(min=1)


def told_lists(count: int, seed: int) -> list[RankingList]:
    """Lists of four of which the first source gives the truth its highest score."""
    rng = np.random.default_rng(seed)
    users, ids = [f"u{n}" for n in range(count)], [f"i{n}" for n in range(6)]
    shown = np.array([rng.permutation(6)[:4] for _ in users])
    scores = rng.normal(size=shown.shape).astype(np.float32)
    best = shown[np.arange(count), scores.argmax(1)]
    ranks = (1 + np.argsort(np.argsort(-scores))).astype(np.int32)
    candidates = Candidates(np.array(users), np.array(ids)[shown], {"s": scores}, {"s": ranks}, scores)
    others = [next(i for i in range(6) if i not in row) for row in shown.tolist()]
    known = interactions_from(users, [ids[i] for i in others], ids)
    truth = interactions_from(users, [ids[i] for i in best], ids)
    vectors = item_vectors(known, {}, width=2)
    inputs = list_inputs(candidates, known, vectors, ["s"])
    history = {user: (ids[i],) for user, i in zip(users, others, strict=True)}
    return ranking_lists(candidates, history, truth, seed=seed, inputs=inputs, vectors=vectors)


def test_a_loss_is_passed_in_to_the_training_of_the_reranker() -> None:
    lists = told_lists(96, 1)
    token = TokenConfig(width=16, feed_forward=32, heads=2, dropout=0.0)
    config = FineTuneConfig(epochs=3, batch_size=16, learning_rate=1e-2, rank_weight=1.0, patience=50)

    def trained(loss: RankingLoss | None, name: str) -> float:
        scorer = build_token_scorer(RerankConfig(form="token", token=token), lists[0], seed=0)
        settings = config.model_copy(update={"loss": name})
        return fine_tune(scorer, lists, told_lists(24, 2), {}, settings, seed=0, loss=loss).steps[-1][
            "rank_loss"
        ]

    # The one that is passed in goes before the one that is named.
    assert trained(LOSSES["listnet"], "ranknet") == trained(None, "listnet")
    first = float(
        hinge(torch.zeros(1, 4), torch.tensor([[1.0, 0, 0, 0]]), torch.ones(1, 4, dtype=torch.bool))
    )
    assert first == 1.0
    assert trained(hinge, "ranknet") < 0.5


class Favourite:
    """A stage that writes which item has been chosen most often."""

    def parts(self, road: Road) -> dict[str, Any]:
        return {"prepare": road.hash_of("prepare")}

    def work(self, road: Road) -> Counts:
        train = road.part("train")
        counts = np.bincount(train.item_rows, minlength=train.n_items)
        best = {"item": str(train.item_ids[counts.argmax()]), "choices": int(counts.max())}
        road.path("favourite", "favourite.json").write_text(json.dumps(best))
        return Counts(len(train), len(train), outputs=("favourite.json",))


def test_a_stage_is_added_to_the_road(tmp_path: Path) -> None:
    write_sample(tmp_path, items=20, people=30)
    catalograph.draft_config(tmp_path, template="recommend")
    favourite = Favourite()
    table = {**STAGES, "favourite": Stage("95-favourite", ("prepare",), favourite.parts, favourite.work)}
    settings = {
        "features": {}, "retrievers": {"popularity": {"model": "popularity"}}, "evaluate.baselines": [],
    }  # fmt: skip
    made = catalograph.run(tmp_path / "shop.yaml", tmp_path / "run", settings, table=table)
    assert made.stages["favourite"]["ok"] > 0
    found = json.loads((tmp_path / "run/stages/95-favourite/favourite.json").read_text())
    train = pq_column(made.path("prepare", "train.parquet"), "item_id")
    assert found["choices"] == max(map(train.count, train)) == train.count(found["item"])
    again = catalograph.run(made.folder, table=table)
    assert again.stages["favourite"]["reused"]


def pq_column(path: Path, name: str) -> list[str]:
    column: list[str] = pq.read_table(path)[name].to_pylist()
    return column
