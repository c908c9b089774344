import math

import numpy as np
import pytest
import torch

from extract.features import FeatureTable
from recsys import Interactions, interactions_from
from recsys.freedom import FREEDOM, FREEDOMConfig

Tables = dict[str, FeatureTable]
WEIGHTS = {"picture": 1.0, "text": 3.0}


def of_the_ring(ring: Interactions, pairs: Tables, **settings: object) -> FREEDOM:
    chosen = {"embedding_size": 1, "layers": 1, "neighbours": 2, "kept_edges": 1.0, "knn_weights": WEIGHTS}
    model = FREEDOM(FREEDOMConfig.model_validate(chosen | settings), ring, pairs)
    model.restore({
        "embedding": np.float32([[1, 2, 3, 4, 5, 6, 7, 8]]).T,
        "projections.0": np.float32([[1, 2]]),
        "projections.1": np.float32([[0, 0, 3]]),
    })
    return model


def test_freedom_on_the_ring_worked_by_hand(ring: Interactions, pairs: Tables) -> None:
    users, items = of_the_ring(ring, pairs).embeddings()
    # Half of each neighbour on a side; pictures pair 0-1 and 2-3 (1/4 of the weight), texts 0-3 and 1-2.
    assert users.ravel().tolist() == [(1 + 5.5) / 2, (2 + 6.5) / 2, (3 + 7.5) / 2, (4 + 6.5) / 2]
    near = [0.25 * 5.5 + 0.75 * 6.5, 0.25 * 5.5 + 0.75 * 6.5, 0.25 * 7.5 + 0.75 * 6.5]
    assert items.ravel()[:3].tolist() == [
        (5 + 2.5) / 2 + near[0],
        (6 + 1.5) / 2 + near[1],
        (7 + 2.5) / 2 + near[2],
    ]


def test_the_loss_of_one_triple_worked_by_hand(ring: Interactions, pairs: Tables) -> None:
    model = of_the_ring(ring, pairs, reg=0.5)
    loss = model.loss(torch.tensor([0]), torch.tensor([0]), torch.tensor([2]))
    ids = 3.25 * (3.75 + 6.25 - 4.75 - 6.75)
    picture, text = 3.25 * (1 - 2), 3.25 * (0 - 6)
    parts = [math.log(1 + math.exp(-x)) for x in (ids, picture, text)]
    assert loss.item() == pytest.approx(parts[0] + 0.5 * (parts[1] + parts[2]))


def test_an_epoch_trains_on_its_share_of_the_edges_and_ranks_on_all(
    checkerboard: Interactions, parity: Tables
) -> None:
    model = FREEDOM(FREEDOMConfig(kept_edges=0.3), checkerboard, parity)
    whole = model.embeddings()
    model.start_epoch(0)
    first = model.pruned.to_dense()
    assert int((first > 0).sum()) == 2 * int(0.3 * len(checkerboard))
    assert ((model.adjacency.to_dense() > 0) >= (first > 0)).all()
    model.start_epoch(1)
    assert not torch.equal(model.pruned.to_dense(), first)
    model.start_epoch(0)
    assert torch.equal(model.pruned.to_dense(), first)
    assert all(np.array_equal(a, b) for a, b in zip(model.embeddings(), whole, strict=True))


def test_edges_are_drawn_in_proportion_to_their_weights() -> None:
    # Degrees: u 2, v 1, a 1, b 2; one of the three edges is kept, with odds 1/sqrt(2) : 1/2 : 1/sqrt(2).
    train = interactions_from("uuv", "abb", "ab")
    table = {"x": FeatureTable(("a", "b"), np.eye(2, dtype=np.float32))}
    model = FREEDOM(FREEDOMConfig(kept_edges=0.34, embedding_size=1), train, table)
    counts = np.zeros(3)
    for epoch in range(2000):
        model.start_epoch(epoch)
        kept = model.pruned.to_dense()
        counts += [kept[0, 2] > 0, kept[0, 3] > 0, kept[1, 3] > 0]
    odds = np.array([2**-0.5, 0.5, 2**-0.5])
    shares = odds / odds.sum()
    # Four standard deviations of a share.
    assert (np.abs(counts / 2000 - shares) < 4 * np.sqrt(shares * (1 - shares) / 2000)).all()


def test_an_item_nobody_chose_is_ranked_by_its_neighbours(ring: Interactions, pairs: Tables) -> None:
    fewer = ring.take(ring.item_rows != 3)
    table = {"picture": pairs["picture"]}
    model = FREEDOM(FREEDOMConfig(embedding_size=1, layers=0, neighbours=2), fewer, table)
    model.restore({
        "embedding": np.float32([[1, 2, 3, 4, 5, 6, 7, 99]]).T,
        "projections.0": np.float32([[1, 2]]),
    })
    # Item 3's picture is next to item 2's: half of 7 and half of its own nothing.
    assert model.embeddings()[1].ravel().tolist() == [5 + 5.5, 6 + 5.5, 7 + 3.5, 3.5]
