"""The drawn shop: what its pictures show, what its titles hide, and how its people choose."""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from catalograph import demo
from catalograph.demo import packaged_config, prepare_demo
from catalograph.demo.draw import (
    ALL_TRAITS,
    COLOURS,
    PATTERNS,
    SHAPES,
    TRAINING_STYLES,
    UNSEEN_STYLE,
    Traits,
    draw,
    is_held_out,
)
from catalograph.demo.shop import BRANDS, CATEGORIES, MODELS, Shop, _utility, open_shop, write_shop
from extract.errors import RunFolderError

WEIGHTS = Path(demo.__file__).parent / "weights"
FILES = {"catalog.parquet", "interactions.parquet", "pictures.zip", "truth.json"}


@pytest.fixture(scope="module")
def traits_rule() -> Shop:
    """Many people and many items, so that shares are near their expectation."""
    return open_shop(600, 800, dial=1, seed=7)


@pytest.fixture(scope="module")
def traits_idle() -> Shop:
    return open_shop(600, 800, dial=0, seed=7)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_the_same_numbers_write_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_shop(open_shop(12, 6, dial=1, seed=seed), tmp_path / name, picture_size=32)
    first, second, other = (digests(tmp_path / name) for name in "abc")
    assert set(first) == FILES and first == second
    assert all(first[name] != other[name] for name in FILES)


def test_the_dial_moves_choices_and_nothing_else(traits_rule: Shop, traits_idle: Shop) -> None:
    for name in ("category", "model", "brand", "traits"):
        assert np.array_equal(getattr(traits_rule, name), getattr(traits_idle, name))
    assert np.array_equal(traits_rule.people, traits_idle.people)
    assert not np.array_equal(traits_rule.chosen, traits_idle.chosen)


def test_no_title_mentions_what_only_the_picture_shows(traits_rule: Shop) -> None:
    words = {word for name in (*COLOURS, *PATTERNS, *SHAPES) for word in name.split()}
    possible = {word.lower() for text in (*CATEGORIES, *MODELS, *BRANDS) for word in text.split()}
    assert not words & possible
    for row in range(600):
        assert not words & set(re.findall(r"\w+", traits_rule.title(row).lower()))


def test_titles_tell_nothing_about_traits(traits_rule: Shop) -> None:
    # Were traits to follow from categories, a table of both would be far from the product of its margins. The
    # statistic has (10 - 1) (8 - 1) = 63 degrees of freedom: mean 63, deviation 11.
    table = np.zeros((len(CATEGORIES), len(COLOURS)))
    np.add.at(table, (traits_rule.category, traits_rule.traits[:, 0]), 1)
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
    assert ((table - expected) ** 2 / expected).sum() < 63 + 4 * 11


def test_one_trait_combination_in_five_is_held_out() -> None:
    assert len(ALL_TRAITS) == 8 * 6 * 6
    share = sum(map(is_held_out, ALL_TRAITS)) / len(ALL_TRAITS)
    # Binomial with 288 draws at 0.2: deviation 0.024.
    assert abs(share - 0.2) < 3 * 0.024
    for position, group in enumerate((tuple(COLOURS), PATTERNS, SHAPES)):
        known = {(t.colour, t.pattern, t.shape)[position] for t in ALL_TRAITS if not is_held_out(t)}
        assert known == set(group)


def test_the_captioner_never_trains_on_a_held_out_combination() -> None:
    from catalograph.demo import train_captioner

    known, unknown = set(train_captioner.KNOWN_TRAITS), set(train_captioner.UNKNOWN_TRAITS)
    assert unknown and known.isdisjoint(unknown) and known | unknown == set(ALL_TRAITS)
    assert all(is_held_out(traits) for traits in unknown)
    drawn = {traits for seed in range(3) for traits in train_captioner._drawn_batch((seed, 40))[1]}
    assert len(drawn) > 50 and not any(map(is_held_out, drawn))


def test_the_shop_is_drawn_in_a_style_the_captioner_never_trains_on() -> None:
    assert UNSEEN_STYLE not in TRAINING_STYLES.values()
    assert all(style.hatch == 0 for style in TRAINING_STYLES.values()) and UNSEEN_STYLE.hatch > 0


def test_the_shop_holds_combinations_the_captioner_never_saw(traits_rule: Shop) -> None:
    share = np.mean([is_held_out(traits_rule.trait_names(row)) for row in range(600)])
    assert 0.12 < share < 0.28


@pytest.mark.parametrize("style", [*TRAINING_STYLES, "unseen"])
def test_a_picture_is_one_function_of_traits_style_and_seed(style: str) -> None:
    look = TRAINING_STYLES.get(style, UNSEEN_STYLE)
    traits = Traits("red", "striped", "star")
    first, second, other = (draw(traits, look, np.random.default_rng(seed), 40) for seed in (1, 1, 2))
    assert first.shape == (40, 40, 3) and first.dtype == np.uint8
    assert np.array_equal(first, second) and not np.array_equal(first, other)


@pytest.mark.parametrize("colour", ["red", "green", "blue"])
def test_a_picture_shows_its_colour_in_the_middle(colour: str) -> None:
    picture = draw(Traits(colour, "plain", "circle"), TRAINING_STYLES["flat"], np.random.default_rng(0), 64)
    assert np.abs(picture[28:36, 28:36].mean(axis=(0, 1)) - COLOURS[colour]).max() < 30


def test_a_written_shop_is_what_was_drawn(tmp_path: Path) -> None:
    shop = open_shop(8, 5, dial=1, seed=2)
    write_shop(shop, tmp_path, picture_size=32)
    catalog = pq.read_table(tmp_path / "catalog.parquet").to_pylist()
    assert [row["product"] for row in catalog] == [f"p00000{row}" for row in range(8)]
    assert [row["name"] for row in catalog] == [shop.title(row) for row in range(8)]
    with zipfile.ZipFile(tmp_path / "pictures.zip") as archive:
        assert archive.namelist() == [row["photo"] for row in catalog]
        picture = Image.open(io.BytesIO(archive.read("p000000.jpg")))
        assert (picture.format, picture.size, picture.mode) == ("JPEG", (32, 32), "RGB")
    clicks = pq.read_table(tmp_path / "interactions.parquet").to_pylist()
    assert [(row["person"], row["product"], row["time"]) for row in clicks] == [
        (f"u{who:06d}", f"p{what:06d}", when)
        for who, what, when in zip(shop.people, shop.chosen, shop.seconds, strict=True)
    ]
    truth = json.loads((tmp_path / "truth.json").read_text())
    assert {item: row[0] for item, row in truth.items()} == {
        f"p00000{row}": shop.trait_names(row).caption for row in range(8)
    }


@pytest.mark.parametrize(("items", "people", "seed"), [(600, 800, 7), (60, 80, 3), (40, 30, 0)])
def test_nobody_chooses_an_item_twice_and_time_goes_on(items: int, people: int, seed: int) -> None:
    shop = open_shop(items, people, dial=1, seed=seed)
    assert len(np.unique(shop.people * items + shop.chosen)) == len(shop.chosen)
    same = np.diff(shop.people) == 0
    assert (np.diff(shop.seconds)[same] > 0).all()
    assert (np.diff(shop.people) >= 0).all()
    counts = np.bincount(shop.people, minlength=people)
    assert counts.min() >= 9 and counts.max() <= 17


def matches(shop: Shop, column: int) -> float:
    """Share of choices with the trait of the choice before, in deviations from what chance would give."""
    values = shop.traits[shop.chosen, column]
    pairs = np.flatnonzero(np.diff(shop.people) == 0)
    shares = np.bincount(shop.traits[:, column]) / len(shop.traits)
    chance = float(np.sum(shares**2))
    found = float(np.mean(values[pairs] == values[pairs + 1]))
    return (found - chance) / float(np.sqrt(chance * (1 - chance) / len(pairs)))


@pytest.mark.parametrize("column", [0, 1, 2])
def test_traits_drive_choices_with_the_dial_and_not_without(
    column: int, traits_rule: Shop, traits_idle: Shop
) -> None:
    assert abs(matches(traits_idle, column)) < 4
    assert matches(traits_rule, column) > 20


def test_the_dial_turns_gradually() -> None:
    found = [matches(open_shop(600, 800, dial=dial, seed=7), 0) for dial in (0, 0.5, 1)]
    assert found[0] < found[1] < found[2]


def rows(*values: int) -> NDArray[np.int64]:
    return np.array(values)


def test_the_utility_is_the_formula_by_hand() -> None:
    # One person, four items. Likes categories 0, 1 and 2 and is looking for 1; lasting taste (colour 2,
    # pattern 0, shape 3), mood now (2, 4, 5).
    category = rows(1, 0, 7, 7)
    traits = np.array([[2, 0, 5], [2, 4, 5], [0, 0, 3], [1, 1, 1]])
    appeal = np.array([0.25, -0.5, 0.0, 1.0], np.float32)
    person = {
        "liked": np.array([[0, 1, 2]]), "wanted": rows(1),
        "taste": np.array([[2, 0, 3]]), "mood": np.array([[2, 4, 5]]),
    }  # fmt: skip
    by_hand = {
        # Item 0: liked and looked for (1.5 + 1.5); colour is taste and mood (0.8 + 2.0), pattern taste
        # (0.8), shape mood (2.0). Item 1: liked; colour both, pattern and shape mood. Item 2: pattern and
        # shape taste. Item 3: nothing but its appeal.
        1.0: [0.25 + 3.0 + 2.8 + 0.8 + 2.0, -0.5 + 1.5 + 2.8 + 2.0 + 2.0, 0.8 + 0.8, 1.0],
        0.5: [0.25 + 3.0 + 2.8, -0.5 + 1.5 + 3.4, 0.8, 1.0],
        0.0: [3.25, 1.0, 0.0, 1.0],
    }
    for dial, expected in by_hand.items():
        shelf = np.array([[0, 1, 2, 3]])
        found = _utility(rows(0), shelf, category, traits, appeal, **person, dial=dial)
        assert found.shape == (1, 4)
        assert found[0].tolist() == pytest.approx(expected)
    swapped = _utility(rows(0), np.array([[3, 0]]), category, traits, appeal, **person, dial=1.0)
    assert swapped[0].tolist() == pytest.approx([1.0, by_hand[1.0][0]])


def test_people_choose_better_than_chance_by_the_utility_of_their_last_choice(traits_rule: Shop) -> None:
    last = np.flatnonzero(np.append(np.diff(traits_rule.people) != 0, True))
    utility = traits_rule.utility_of_last
    assert utility.shape == (800, 600)
    chosen = utility[np.arange(800), traits_rule.chosen[last]]
    # Uniform choices would lie at the middle of everyone's utilities.
    places = (utility < chosen[:, None]).mean(axis=1)
    assert places.mean() > 0.9


def test_the_demo_is_prepared_once(tmp_path: Path) -> None:
    config = prepare_demo(tmp_path, seed=1, items=12, users=6, hidden=0.5)
    before = digests(tmp_path / "shop")
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "shop").iterdir()}
    assert set(before) == {*FILES, "shop.json"}
    assert prepare_demo(tmp_path, seed=1, items=12, users=6, hidden=0.5) == config
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "shop").iterdir()} == times
    assert config.seed == 1 and config.data.catalog_path == tmp_path / "shop" / "catalog.parquet"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"seed": 2}, "seed: 1 before, 2 now"),
        ({"items": 13}, "items: 12 before, 13 now"),
        ({"users": 7}, "users: 6 before, 7 now"),
        ({"hidden": 0.0}, "hidden: 0.5 before, 0.0 now"),
    ],
)
def test_a_folder_keeps_one_shop(changed: dict[str, float], told: str, tmp_path: Path) -> None:
    first = {"seed": 1, "items": 12, "users": 6, "hidden": 0.5}
    prepare_demo(tmp_path, **first)  # type: ignore[arg-type]
    with pytest.raises(RunFolderError) as caught:
        prepare_demo(tmp_path, **(first | changed))  # type: ignore[arg-type]
    assert (caught.value.code, caught.value.exit_code, caught.value.why) == ("R106", 10, told)


def test_the_demo_config_says_what_it_is() -> None:
    text = packaged_config("demo").read_text()
    assert "not evidence about your data" in text and "demo:captioner" in text


def test_packaged_weights_are_small_and_plain() -> None:
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files if path.suffix == ".safetensors"} == {
        "captioner",
        "language_model",
    }
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".jinja"}
    assert sum(path.stat().st_size for path in files) <= 8_000_000
