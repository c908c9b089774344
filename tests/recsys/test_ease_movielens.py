import csv
import os
from pathlib import Path

import numpy as np
import pytest

from recsys import InteractionColumns, SplitConfig, evaluate, read_interactions, retrieve, split_interactions
from recsys.models import build_model
from recsys.train import TrainConfig, fit

FOLDER = Path(os.environ.get("CATALOGRAPH_DATA", "absent")) / "ml1m_posters"


@pytest.mark.slow
@pytest.mark.skipif(not FOLDER.is_dir(), reason="CATALOGRAPH_DATA names no folder with ml1m_posters")
def test_ease_reaches_the_figures_known_for_movielens() -> None:
    with (FOLDER / "items.csv").open(encoding="utf-8") as lines:
        ids = [row["item_id"] for row in csv.DictReader(lines)]
    whole, _ = read_interactions(
        FOLDER / "interactions.csv.gz", InteractionColumns(label="colakg_split"), ids
    )
    config = SplitConfig(method="label", train_labels=("0",), test_labels=("1",), valid_share=0)
    split = split_interactions(whole, config)
    model = build_model("ease", {"l2": 300.0}, split.train)
    fit(model, split.train, None, TrainConfig())
    users = split.train.user_ids[np.unique(split.test.user_rows)]
    got = evaluate(retrieve({"ease": model}, split.train, users, 20), split.test, [20]).mean()
    assert got["recall@20"] == pytest.approx(0.2723, abs=0.002)
    assert got["ndcg@20"] == pytest.approx(0.4051, abs=0.002)
