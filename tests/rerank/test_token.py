"""Soft tokens: what the decoder reads, that scores depend on nothing else, that it learns from vectors."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from extract.errors import InvalidData
from extract.features import FeatureTable
from recsys.candidates import Candidates
from recsys.interactions import Interactions
from rerank.inference import reorder, score_lists
from rerank.inputs import input_names, item_vectors, list_inputs
from rerank.lists import ranking_lists, reshuffled
from rerank.settings import FineTuneConfig, RerankConfig, TokenConfig
from rerank.token import (
    build_token_scorer,
    collate,
    load_trained,
    save_trained,
    soft_prompt,
)
from rerank.train import fine_tune

ITEMS = np.array([f"i{n}" for n in range(8)])
CONFIG = RerankConfig(form="token", token=TokenConfig(width=16, feed_forward=32, heads=2, dropout=0.0))


def interactions(pairs, users, times=None):
    rows = np.array(pairs, np.int32).reshape(-1, 2)
    stamps = None if times is None else np.array(times, np.int64)
    return Interactions(np.array(users), ITEMS, rows[:, 0], rows[:, 1], stamps)


def colour_world(count, seed, *, choices=0):
    """Each person likes one of two colours, which only the feature tells; K = 4, two of each colour."""
    rng = np.random.default_rng(seed)
    users = np.array([f"u{n:03}" for n in range(count)])
    liked = rng.integers(0, 2, count)
    # Items 0 to 3 are red, 4 to 7 blue; two of the liked colour were chosen before.
    own = np.array([rng.permutation(4) + 4 * colour for colour in liked])
    other = np.array([rng.permutation(4) + 4 * (1 - colour) for colour in liked])
    known = interactions([(u, i) for u in range(count) for i in own[u, :2]], users)
    truth = interactions([(u, own[u, 2]) for u in range(count)], users)
    shown = np.concatenate([own[:, 2:3], other[:, :3]], axis=1)
    shown = np.take_along_axis(shown, rng.permuted(np.tile(np.arange(4), (count, 1)), axis=1), axis=1)
    scores = rng.normal(size=shown.shape).astype(np.float32)
    ranks = (1 + np.argsort(np.argsort(-scores))).astype(np.int32)
    candidates = Candidates(users, ITEMS[shown], {"s": scores}, {"s": ranks}, scores)
    colour = FeatureTable(tuple(ITEMS), np.repeat([[1.0, 0.0], [0.0, 1.0]], 4, axis=0).astype(np.float32))
    vectors = item_vectors(known, {"colour": colour}, width=choices)
    inputs = list_inputs(candidates, known, vectors, ["s"])
    # Likeness to the history would tell by itself; what is left must come through attention.
    inputs = inputs[:, :, :2]
    histories = {
        str(user): tuple(str(i) for i in ITEMS[np.sort(row[:2])])
        for user, row in zip(users, own, strict=True)
    }
    lists = ranking_lists(candidates, histories, truth, seed=seed, inputs=inputs, vectors=vectors)
    return candidates, lists


def test_an_item_is_one_place_and_all_candidates_share_one_position():
    _, lists = colour_world(1, 0)
    prompt = soft_prompt(lists[0])
    # Two choices in order at 0 and 1, four candidates all at 2.
    assert prompt.positions.tolist() == [0, 1, 2, 2, 2, 2]
    batch = collate([prompt], torch.device("cpu"))
    assert batch.kinds.tolist() == [[0, 0, 1, 1, 1, 1]]
    assert batch.starts.tolist() == [[2, 3, 4, 5]]


def test_a_history_without_order_shares_one_place():
    _, lists = colour_world(1, 0)
    entry = ranking_lists(
        Candidates(np.array(["u"]), ITEMS[None, :2], {}, {}, np.zeros((1, 2), np.float32)),
        {"u": ("i4", "i5", "i6")}, None, seed=0, inputs=np.zeros((1, 2, 2), np.float32),
        vectors=lists[0].vectors, ordered=False,
    )[0]  # fmt: skip
    assert soft_prompt(entry).positions.tolist() == [0, 0, 0, 1, 1]


def test_a_score_does_not_depend_on_the_other_lists_of_a_batch():
    candidates, lists = colour_world(6, 1)
    short = ranking_lists(
        candidates.take(np.array([0])).head(2), {lists[0].user_id: ()}, None, seed=0,
        inputs=lists[0].inputs[None, :2], vectors=lists[0].vectors,
    )  # fmt: skip
    scorer = build_token_scorer(CONFIG, lists[0], seed=0)
    together = score_lists(scorer, [*lists, *short], {}, token_budget=10_000)
    for entry, scores in zip([*lists, *short], together, strict=True):
        alone = score_lists(scorer, [entry], {}, token_budget=1)[0]
        np.testing.assert_allclose(alone, scores, atol=1e-5)


def test_the_scores_are_the_fusion_of_the_numbers_where_the_decoder_is_silent():
    _, lists = colour_world(3, 2)
    scorer = build_token_scorer(CONFIG, lists[0], seed=0)
    with torch.no_grad():
        scorer.model.head.weight.zero_()
        scorer.model.head.bias.zero_()
        for layer in scorer.model.fusion[::2]:
            layer.weight.zero_()
            layer.bias.fill_(0.5)
        # Unit 0 carries 2 x_0 - x_1 + 100 through; GELU leaves numbers of that size as they are.
        scorer.model.fusion[0].weight[0] = torch.tensor([2.0, -1.0])
        scorer.model.fusion[0].bias[0] = 100.0
        scorer.model.fusion[2].weight[0, 0] = scorer.model.fusion[4].weight[0, 0] = 1.0
    for entry, scores in zip(lists, score_lists(scorer, lists, {}), strict=True):
        expected = entry.inputs @ np.array([2.0, -1.0], np.float32) + 101.0
        np.testing.assert_allclose(scores[entry.places], expected, rtol=1e-5)


def test_an_item_without_a_vector_is_the_bias_alone():
    _, lists = colour_world(2, 0)
    entry = ranking_lists(
        Candidates(np.array(["u"]), np.array([["new", "i1"]]), {}, {}, np.zeros((1, 2), np.float32)),
        {"u": ()}, None, seed=0, inputs=np.zeros((1, 2, 2), np.float32), vectors=lists[0].vectors,
    )[0]  # fmt: skip
    batch = collate([soft_prompt(entry)], torch.device("cpu"))
    unknown = batch.items[0][entry.candidates.index("new")]
    assert batch.vectors[unknown].abs().sum() == 0
    assert batch.vectors[batch.items[0][entry.candidates.index("i1")]].abs().sum() > 0


def test_a_list_of_a_hundred_is_scored_and_stays_a_permutation():
    ids = np.array(sorted(f"x{n:03}" for n in range(100)))
    known = Interactions(np.array(["u"]), ids, np.zeros(3, np.int32), np.arange(3, dtype=np.int32))
    scores = np.arange(100, dtype=np.float32)[None, ::-1].copy()
    candidates = Candidates(
        np.array(["u"]), ids[None, :], {"s": scores}, {"s": np.arange(1, 101, dtype=np.int32)[None]}, scores
    )
    vectors = item_vectors(known, {}, width=4)
    inputs = list_inputs(candidates, known, vectors, ["s"])
    lists = ranking_lists(candidates, {"u": ("x000",)}, None, seed=0, inputs=inputs, vectors=vectors)
    ordered = reorder(build_token_scorer(CONFIG, lists[0], seed=0), candidates, lists, {})
    assert sorted(ordered.items[0].tolist()) == ids.tolist()
    assert ordered.items[0].tolist() != ids.tolist()


SETTINGS = FineTuneConfig(
    epochs=6, batch_size=16, learning_rate=1e-2, loss="listnet", rank_weight=1.0, patience=50, average=0.9
)


def test_it_learns_what_only_the_vectors_of_the_history_tell():
    _, lists = colour_world(160, 3)
    _, valid = colour_world(40, 4)
    scorer = build_token_scorer(CONFIG, lists[0], seed=0)
    history = fine_tune(scorer, lists, valid, {}, SETTINGS, seed=0)
    assert history.evaluations[0]["ndcg@10"] < 0.85
    assert history.best > 0.97


def test_what_was_trained_comes_back_from_its_file(tmp_path):
    _, lists = colour_world(32, 5)
    scorer = build_token_scorer(CONFIG, lists[0], seed=0)
    fine_tune(scorer, lists, [], {}, SETTINGS.model_copy(update={"epochs": 1}), seed=0)
    save_trained(scorer, tmp_path / "w.safetensors")
    other = build_token_scorer(CONFIG, lists[0], seed=9)
    load_trained(other, tmp_path / "w.safetensors")
    for a, b in zip(score_lists(scorer, lists, {}), score_lists(other, lists, {}), strict=True):
        np.testing.assert_array_equal(a, b)
    wider = CONFIG.model_copy(update={"token": TokenConfig(width=32, feed_forward=32, heads=2)})
    with pytest.raises(InvalidData, match="do not fit"):
        load_trained(build_token_scorer(wider, lists[0], seed=0), tmp_path / "w.safetensors")


def test_a_resumed_fit_keeps_its_running_mean(tmp_path):
    _, lists = colour_world(64, 6)
    _, valid = colour_world(16, 7)
    config = SETTINGS.model_copy(update={"epochs": 2})

    class Killed(Exception):
        pass

    def stop(step, total, losses):
        if step == 5:
            raise Killed

    def fit(**options):
        scorer = build_token_scorer(CONFIG, lists[0], seed=0)
        fine_tune(scorer, lists, valid, {}, config, seed=0, **options)
        return scorer

    whole = fit()
    with pytest.raises(Killed):
        fit(checkpoints=tmp_path / "c", progress=stop)
    resumed = fit(checkpoints=tmp_path / "c")
    for (name, a), b in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_the_running_mean_is_what_is_kept():
    # One step of rate 0 leaves the weights; with a decay the kept mean is theirs as well, to the bit.
    _, lists = colour_world(16, 8)
    scorer = build_token_scorer(CONFIG, lists[0], seed=0)
    before = [p.detach().clone() for p in scorer.model.parameters()]
    config = SETTINGS.model_copy(update={"epochs": 1, "learning_rate": 1e-30})
    fine_tune(scorer, lists, [], {}, config, seed=0)
    assert all(torch.allclose(a, b) for a, b in zip(before, scorer.model.parameters(), strict=True))


def test_reshuffling_takes_the_inputs_along():
    _, lists = colour_world(1, 10)
    entry = lists[0]
    again = reshuffled(entry, seed=[1, 2])
    assert again.candidates != entry.candidates
    by_item = dict(zip(entry.candidates, entry.inputs.tolist(), strict=True))
    assert [by_item[item] for item in again.candidates] == again.inputs.tolist()


def test_a_list_without_inputs_is_refused_by_name():
    _, lists = colour_world(1, 11)
    bare = ranking_lists(
        Candidates(np.array(["u7"]), ITEMS[None, :2], {}, {}, np.zeros((1, 2), np.float32)), {"u7": ()},
        None, seed=0,
    )  # fmt: skip
    with pytest.raises(InvalidData, match="u7"):
        score_lists(build_token_scorer(CONFIG, lists[0], seed=0), bare, {})


def test_the_inputs_of_a_list_by_hand():
    # Person a chose i0 and i1; the feature of i0, i1, i2 is one way, of the others the other way.
    known = interactions([(0, 0), (0, 1), (1, 3)], ["a", "b"])
    feature = FeatureTable(
        ("i0", "i1", "i2", "i3"), np.array([[1.0], [1.0], [1.0], [-3.0]], np.float32)
    )  # Centred already.
    vectors = item_vectors(known, {"f": feature}, width=0)
    shown = Candidates(
        np.array(["a"]), np.array([["i2", "i3", ""]]),
        {"s": np.array([[3.0, 1.0, np.nan]], np.float32)}, {"s": np.array([[1, 4, 0]], np.int32)},
        np.array([[3.0, 1.0, np.nan]], np.float32),
    )  # fmt: skip
    assert input_names(["s"], vectors) == ("score:s", "rank:s", "history:f", "popularity", "activity")
    inputs = list_inputs(shown, known, vectors, ["s"])
    np.testing.assert_allclose(inputs[0, 0, :3], [1, 1, 1], atol=1e-6)
    np.testing.assert_allclose(inputs[0, 1, :3], [-1, -1, -1], atol=1e-6)
    assert inputs[0, 0, 4] == pytest.approx(np.log(3) - 4)
    # Five of eight items were never chosen, three once: i2 was not, i3 was.
    assert inputs[0, 1, 3] > 0 > inputs[0, 0, 3]
    assert (inputs[0, 2] == 0).all()


def test_vectors_of_a_fold_are_turned_to_the_basis_of_the_whole():
    # Two tastes that part the items at different places, so that each has a direction of its own.
    rng = np.random.default_rng(0)
    ways = np.array([[1, 1, 1, 1, -1, -1, -1, -1], [1, -1, 1, -1, 1, -1, 1, -1]])
    odds = 0.5 + 0.4 * ways[rng.integers(0, 2, 400)] * rng.choice([-1, 1], 400)[:, None]
    pairs = np.argwhere(rng.random((400, 8)) < odds)
    users = [f"u{n:03}" for n in range(400)]
    whole, fold = interactions(pairs, users), interactions(pairs[rng.random(len(pairs)) < 0.7], users)
    reference = item_vectors(whole, {}, width=3)
    basis = reference.matrix[:, :3]
    turned = item_vectors(fold, {}, width=3, reference=reference).matrix[:, :3]
    for column in range(3):
        assert np.corrcoef(basis[:, column], turned[:, column])[0, 1] > (0.9 if column else 0)


def test_an_item_without_a_feature_or_off_the_axis_has_zeros():
    known = interactions([(0, 0)], ["a"])
    vectors = item_vectors(known, {"f": FeatureTable(("i0", "i1"), np.array([[1.0], [3.0]]))}, width=0)
    assert vectors.matrix[2, 0] == 0
    assert vectors.rows(["i1", "zz", "i0"]).tolist() == [1, -1, 0]


def test_rows_are_found_by_id_whatever_the_order_of_the_axis():
    axis, one = np.array(["z", "b", "k"]), np.zeros(1, np.int32)
    known = Interactions(np.array(["a"]), axis, one, one)
    vectors = item_vectors(known, {"f": FeatureTable(("b", "z"), np.array([[1.0], [3.0]]))}, width=0)
    assert vectors.rows(["k", "z", "b", "a"]).tolist() == [2, 0, 1, -1]
    assert vectors.matrix[vectors.rows(["z"])[0], 0] > 0 > vectors.matrix[vectors.rows(["b"])[0], 0]


def test_one_candidate_two_equal_ones_and_no_history_have_finite_scores_in_the_incoming_order():
    _, lists = colour_world(1, 12)
    for shown in (["i1"], ["i1", "i1"], ["new", "i1", "i1"]):
        count = len(shown)
        table = np.zeros((1, count), np.float32)
        arrived = Candidates(np.array(["u"]), np.array([shown]), {}, {}, table)
        made = ranking_lists(
            arrived, {"u": ()}, None, seed=0, inputs=np.zeros((1, count, 2), np.float32),
            vectors=lists[0].vectors,
        )  # fmt: skip
        ordered = reorder(build_token_scorer(CONFIG, lists[0], seed=0), arrived, made, {})
        assert np.isfinite(ordered.final).all()
        assert sorted(ordered.items[0].tolist()) == sorted(shown)


def test_in_training_a_list_whose_candidates_are_all_alike_moves_nothing():
    _, lists = colour_world(4, 13)
    alike = [replace(entry, relevance=np.ones(4, np.float32)) for entry in lists]
    scorer = build_token_scorer(CONFIG, lists[0], seed=0)
    before = [p.detach().clone() for p in scorer.model.parameters()]
    config = SETTINGS.model_copy(update={"epochs": 1, "loss": "lambdarank", "average": 0.0})
    fine_tune(scorer, alike, [], {}, config, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(before, scorer.model.parameters(), strict=True))


def test_the_input_made_from_choices_is_the_low_rank_filter():
    # Persons a, b chose i0 and i1; c, d chose i2 and i3: two blocks, every degree 2, so that the filter of
    # rank 2 passes all there is. Person e chose i0 alone.
    users = ["a", "b", "c", "d", "e"]
    known = interactions([(0, 0), (0, 1), (1, 0), (1, 1), (2, 2), (2, 3), (3, 2), (3, 3), (4, 0)], users)
    vectors = item_vectors(known, {}, width=2)
    table, ranks = np.zeros((1, 3), np.float32), np.ones((1, 3), np.int32)
    arrived = Candidates(np.array(["e"]), np.array([["i2", "i1", "i3"]]), {"s": table}, {"s": ranks}, table)
    inputs = list_inputs(arrived, known, vectors, ["s"])
    assert input_names(["s"], vectors)[2] == "history:@choices"
    # i1 shares its block with i0; the others score 0 and stand one half deviation below.
    np.testing.assert_allclose(inputs[0, :, 2], np.array([-1, 2, -1]) / np.sqrt(2), atol=1e-5)
