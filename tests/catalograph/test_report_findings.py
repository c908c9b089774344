"""What the report concludes: why items moved, where lists fall short, what is worth a headline."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from catalograph.config import RunConfig
from catalograph.delivered import Delivered
from catalograph.examples import examples
from catalograph.headlines import headlines
from catalograph.item_cards import ItemCards
from catalograph.report.data import Card
from catalograph.road import Road
from catalograph.shortfalls import outcomes, shortfalls, weakest
from extract.decoding import decoding
from extract.items import Catalog, Item
from extract.pictures import PictureLimits, PictureSource
from recsys.candidates import Candidates
from recsys.interactions import Interactions, interactions_from
from rerank.fusion import Fusion, fused
from rerank.inference import held_within


class Titles:
    """Cards without a catalogue."""

    def __getitem__(self, item_id: str) -> Card:
        return Card(item_id, item_id.upper())


CARDS = cast(ItemCards, Titles())


def candidates(users: list[str], items: list[list[str]], **scores: Any) -> Candidates:
    shape = (len(users), len(items[0]))
    own = {name: np.asarray(values, np.float32) for name, values in scores.items()}
    ranks = {
        name: np.argsort(np.argsort(-values, axis=1), axis=1).astype(np.int32) + 1
        for name, values in own.items()
    }
    return Candidates(
        np.array(users),
        np.array(items),
        own,
        ranks,
        -np.arange(shape[1], dtype=np.float32)[None].repeat(shape[0], 0),
    )


def choices(pairs: list[tuple[str, str]], items: list[str]) -> Interactions:
    return interactions_from([u for u, _ in pairs], [i for _, i in pairs], item_ids=items)


@pytest.fixture
def lists() -> Delivered:
    before = candidates(
        ["u1", "u2"],
        [["a", "b", "c"], ["c", "b", "a"]],
        knn=[[3, 2, 1], [9, 8, 1]],
        llm=[[0, 0, 3], [0, 0, 0]],
    )
    fusion = Fusion(("score:knn", "rank:knn", "score:llm"), np.array([1.0, 0.5, 2.0]))
    after = fused(before, fusion, "fused")
    return Delivered(before, after, "reranked", {"u1": frozenset("c"), "u2": frozenset("b")}, fusion, after)


def test_the_parts_of_a_place_sum_to_the_fused_score(lists: Delivered) -> None:
    for row, parts in enumerate(lists.pulls([0, 1])):
        assert set(parts) == {"knn", "llm"}
        np.testing.assert_allclose(
            sum(parts.values()), lists.after.scores["fused"][row], rtol=1e-5, atol=1e-6
        )


def test_the_part_of_a_source_is_its_weight_times_its_standing_in_the_list(lists: Delivered) -> None:
    # u1: llm's scores 0, 0, 3 have mean 1 and deviation sqrt(2): c gets 2 * (3 - 1) / sqrt(2).
    (parts,) = lists.pulls([0])
    assert lists.after.items[0].tolist() == ["c", "a", "b"]
    np.testing.assert_allclose(parts["llm"], [2 * 2 / 2**0.5, -2 / 2**0.5, -2 / 2**0.5], rtol=1e-6)
    # u2: one source says nothing, so it moves nothing.
    assert lists.pulls([1])[0]["llm"].tolist() == [0, 0, 0]


def test_a_row_whose_moves_were_limited_has_no_parts(lists: Delivered) -> None:
    # u1 was retrieved as a, b, c and is fused to c, a, b; one place at most leaves a, c, b.
    assert lists.fused is not None
    held = held_within(lists.fused, lists.before, "fused", 1)
    assert held.items[0].tolist() == ["a", "c", "b"]
    limited = Delivered(lists.before, held, "reranked", lists.truths, lists.fusion, held)
    assert [bool(parts) for parts in limited.pulls([0, 1])] == [False, True]


def test_a_row_that_the_gate_left_as_retrieved_has_no_parts(lists: Delivered) -> None:
    gated = Delivered(
        lists.before, lists.before.take([0, 1]), "gated", lists.truths, lists.fusion, lists.fused
    )
    assert [bool(parts) for parts in gated.pulls([0, 1])] == [False, True]


def test_without_a_reranker_nothing_moved(lists: Delivered) -> None:
    plain = Delivered(lists.before, lists.before, "retrieved", lists.truths)
    assert not plain.reranked and lists.reranked and plain.pulls([0]) == [{}]


def test_examples_say_why_they_are_shown_and_what_moved(lists: Delivered) -> None:
    known = choices([("u1", "b"), ("u2", "a")], ["a", "b", "c"])
    config = SimpleNamespace(
        report=SimpleNamespace(examples=3),
        seed=0,
        candidates=SimpleNamespace(sources=()),
        retrievers={"knn": None},
    )
    road = cast(Road, SimpleNamespace(config=config, known=known))
    first, second = examples(road, lists, CARDS)
    assert (first.user_id, first.reason) == ("u1", "reranking helped most")
    assert first.note == "What this person chose next went from place 3 to place 1."
    assert second.reason == "drawn by lot" and [card.item_id for card in second.history] == ["a"]
    top = first.after[0]
    assert (top.card.item_id, top.rank, top.rank_before, top.is_truth) == ("c", 1, 3, True)
    assert set(top.pulls) == {"knn", "llm"} and first.before[0].pulls == {}
    assert first.before[0].scores == {"knn": 3.0}


def test_users_are_served_or_lost_by_order_or_lost_by_retrieval() -> None:
    items = [[f"i{place}" for place in range(1, 13)]] * 4
    users = ["first", "late", "absent", "untested"]
    lists = candidates(users, items)
    truths = {"first": frozenset({"i10", "i12"}), "late": frozenset({"i11"}), "absent": frozenset({"x"})}
    found = outcomes(Delivered(lists, lists, "retrieved", truths))
    assert [(row.name, row.users) for row in found] == [
        ("among the first 10", 1), ("at places 11 to 12", 1), ("not among the 12 candidates", 1),
    ]  # fmt: skip
    assert [row.share for row in found] == pytest.approx([1 / 3] * 3)


def test_short_lists_have_no_places_below_the_first() -> None:
    lists = candidates(["found", "absent"], [["a", "b"], ["a", "b"]])
    truths = {"found": frozenset("b"), "absent": frozenset("x")}
    found = outcomes(Delivered(lists, lists, "retrieved", truths))
    assert [(row.name, row.users) for row in found] == [
        ("among the first 2", 1), ("not among the 2 candidates", 1),
    ]  # fmt: skip


def test_items_missed_by_most_come_first_with_how_often_they_were_wanted() -> None:
    lists = candidates(["u1", "u2", "u3"], [["a", "b"], ["a", "b"], ["b", "c"]])
    truths = {"u1": frozenset({"c", "a"}), "u2": frozenset({"c"}), "u3": frozenset({"c", "d"})}
    road = cast(
        Road, SimpleNamespace(known=choices([("u1", "b"), ("u2", "c"), ("u3", "c")], ["a", "b", "c", "d"]))
    )
    delivered = Delivered(lists, lists, "retrieved", truths)
    found: dict[str, Any] = {"lists": {"retrieved": {}}, "groups": {}}
    rows = shortfalls(road, delivered, CARDS, found).missed
    assert [(r.card.title, r.wanted, r.missed, r.choices) for r in rows] == [("C", 3, 2, 2), ("D", 1, 1, 0)]
    # a and d were never chosen; a is shown; of their two held-out choices one is a candidate.
    assert shortfalls(road, delivered, CARDS, found).cold_note == (
        "2 of 4 items were never chosen before the test split; 1 of them are among anybody's first 10. "
        "Of 2 held-out choices of such items 1 are among the candidates."
    )
    warm = cast(Road, SimpleNamespace(known=choices([("u1", item) for item in "abcd"], ["a", "b", "c", "d"])))
    assert shortfalls(warm, delivered, CARDS, found).cold_note.startswith(
        "Every item of the catalogue was chosen"
    )


def measured(value: float) -> dict[str, dict[str, float]]:
    return {"ndcg@10": {"mean": value, "low": value - 0.01, "high": value + 0.01}}


def test_the_weakest_groups_come_lowest_first_and_a_group_of_everybody_is_no_group() -> None:
    groups = {
        "activity": {"few": {"users": 60, "lists": {"retrieved": measured(0.3)}},
                     "many": {"users": 40, "lists": {"retrieved": measured(0.1)}}},
        "warmth": {"warm": {"users": 100, "lists": {"retrieved": measured(0.2)}}},
    }  # fmt: skip
    found = {"users": 100, "lists": {"retrieved": measured(0.2)}, "groups": groups}
    table = weakest(found, "retrieved")
    assert table is not None
    assert [row.name for row in table.rows] == ["activity: many", "activity: few", "everybody"]
    assert [row.description for row in table.rows] == ["40 users", "60 users", "100 users"]
    assert weakest({**found, "groups": {}}, "retrieved") is None


def run_config(tmp_path: Path, **more: Any) -> RunConfig:
    knn = {"model": "item_knn"}
    return RunConfig.model_validate({
        "data": {"catalog": "items.csv", "interactions": "clicks.csv", "root": str(tmp_path)},
        "features": {"title": {"embed": {"engine": "fake"}}, "caption": {"embed": {"engine": "fake"}}},
        "retrievers": {
            "both": {"model": "lirdrec", "features": ["title", "caption"]},
            "titles": {"model": "lirdrec", "features": ["title"]},
            "knn": knn,
        },
        "candidates": {"order_by": "both"},
        "evaluate": {"baselines": ["titles", "knn"]},
        **more,
    })


def gap(a: str, b: str, difference: float, half: float, p: float) -> dict[str, Any]:
    return {
        "a": a, "b": b, "metric": "ndcg@10", "difference": difference, "low": difference - half,
        "high": difference + half, "p": p, "p_holm": p,
    }  # fmt: skip


def test_headlines_tell_each_step_with_its_interval_and_no_more_than_it_shows(tmp_path: Path) -> None:
    found = {
        "users": 1500,
        "lists": {
            "titles": measured(0.03), "knn": measured(0.05), "retrieved": measured(0.08),
            "fused_without_llm": measured(0.09), "reranked": measured(0.1),
        },
        "oracle": {"ndcg@10": 0.27},
        "comparisons": [
            gap("titles", "retrieved", 0.05, 0.01, 0.004), gap("knn", "retrieved", 0.03, 0.01, 0.004),
            gap("retrieved", "reranked", 0.02, 0.01, 0.2),
            gap("fused_without_llm", "reranked", 0.01, 0.02, 0.5),
        ],
        "diagnosis": {"gain_parts": {"metric": "ndcg@10", "lists": 200, "parts": [
            {"part": "of others: histories", "gain": 0.5, "low": 0.4, "high": 0.6},
            {"part": "of others: captions", "gain": -0.02, "low": -0.03, "high": -0.01},
        ]}},
    }  # fmt: skip
    lines = headlines(run_config(tmp_path), found, "both", "reranked")
    assert [(line.label, line.value, line.verdict) for line in lines] == [
        ("Delivered lists, ndcg@10", "0.1000", ""),
        ("Retrieval over knn, the strongest plain baseline", "+0.0300", "better"),
        ("What retrieval gains by caption", "+0.0500", "better"),
        # Its interval lies above 0, but not after the correction for the other comparisons.
        ("Reranking over the retrieved order", "+0.0200", "open"),
        ("The language model over fusion without it", "+0.0100", "open"),
        # One of several parts, not corrected for their number: no verdict.
        ("The reranker's use of captions", "−0.0200", "open"),
    ]
    assert lines[0].sentence == (
        "Mean over 1,500 test users, 0.0900 to 0.1100. "
        "The best order of the same candidates would reach 0.2700."
    )
    assert lines[1].sentence == (
        "ndcg@10 from 0.0500 to 0.0800 (+60.0 %); 95 % interval of the difference +0.0200 to +0.0400, "
        "corrected p = 0.0040: shown to be a gain."
    )


def test_a_run_of_one_list_has_one_headline(tmp_path: Path) -> None:
    found = {
        "users": 5, "lists": {"retrieved": measured(0.08)}, "oracle": {"ndcg@10": 0.2}, "comparisons": [],
        "diagnosis": None,
    }  # fmt: skip
    (line,) = headlines(run_config(tmp_path, evaluate={}), found, "merged", "retrieved")
    assert line.value == "0.0800"


def test_a_card_is_made_once_and_a_picture_that_cannot_be_used_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (80, 40), (200, 0, 0)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    items = [Item("a", picture="good.png", title="A"), Item("b", picture="bad.png"), Item("c", title="C")]
    monkeypatch.setattr("catalograph.item_cards.captions", lambda road: {"a": "a red one"})
    catalog = Catalog.from_items(items, PictureSource(tmp_path))
    with decoding(PictureLimits(), 0) as decoder:
        cards = ItemCards(cast(Road, SimpleNamespace(catalog=catalog)), decoder)
        good, bad, plain = cards["a"], cards["b"], cards["c"]
        assert cards["a"] is good
    assert (good.title, good.caption) == ("A", "a red one") and (good.picture or "").startswith(
        "data:image/jpeg"
    )
    assert (bad.picture, bad.caption, plain.picture) == (None, None, None)
