"""A configuration drafted from somebody's tables is one that validates, and says what was guessed."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from catalograph.cli import main
from catalograph.config_file import load_config
from catalograph.drafting import draft_config
from catalograph.validate import check_inputs
from extract.errors import CatalographError, ConfigError

PRODUCTS = (
    "id,name,description,price,category,image\n"
    + "\n".join(f"{n},Lamp {n},Warm light.,{n}.5,{'big' if n % 2 else 'small'},p{n}.png" for n in range(1, 9))
    + "\n"
)
ORDERS = (
    "order_id,customer_id,product_id,ordered_at\n"
    + "\n".join(f"{100 + n},{n % 4 + 1},{n % 8 + 1},2026-03-{n % 28 + 1:02} 10:00:00" for n in range(24))
    + "\n"
)


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    (tmp_path / "products.csv").write_text(PRODUCTS)
    (tmp_path / "orders.csv").write_text(ORDERS)
    (tmp_path / "images").mkdir()
    for n in range(1, 9):
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / f"p{n}.png")
    return tmp_path


def drafted(folder: Path, **options: object) -> dict[str, object]:
    made = draft_config(folder, **options)  # type: ignore[arg-type]
    check_inputs(load_config(made.config))
    raw: dict[str, object] = yaml.safe_load(made.config.read_text())
    return raw


def test_the_columns_of_both_tables_are_told_by_names_and_values(tables: Path) -> None:
    # customer_id holds 1 to 4, which are ids of the catalogue too: only the name tells it from product_id.
    assert drafted(tables)["data"] == {
        "catalog": "products.csv",
        "pictures": "images",
        "interactions": "orders.csv",
        "catalog_columns": {
            "item_id": "id", "title": "name", "text": ["description"], "picture": "image",
            "attributes": ["category"],
        },
        "interaction_columns": {"user": "customer_id", "item": "product_id", "timestamp": "ordered_at"},
        "split": {"method": "leave_last_out"},
        "unknown_items": "drop",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("template", "sections"),
    [
        ("features", {"data", "features"}),
        ("recommend", {"data", "features", "retrievers", "candidates", "evaluate"}),
        ("rerank", {"data", "features", "retrievers", "candidates", "rerank", "evaluate"}),
    ],
)
def test_a_template_holds_its_sections_and_validates(template: str, sections: set[str], tables: Path) -> None:
    assert set(drafted(tables, template=template)) == sections


def test_without_choices_the_draft_is_about_features_only(tables: Path) -> None:
    (tables / "orders.csv").unlink()
    assert "interactions" not in drafted(tables)["data"]  # type: ignore[operator]
    with pytest.raises(ConfigError, match="C301"):
        draft_config(tables, template="recommend", name="other.yaml")


def test_pictures_named_by_the_id_become_a_pattern(tables: Path) -> None:
    text = "\n".join(",".join(line.split(",")[:-1]) for line in PRODUCTS.splitlines())
    (tables / "products.csv").write_text(text + "\n")
    for n in range(1, 9):
        (tables / "images" / f"p{n}.png").rename(tables / "images" / f"{n}.png")
    assert drafted(tables)["data"]["catalog_columns"]["picture_pattern"] == "{item_id}.png"  # type: ignore[index]


def test_choices_without_times_are_split_at_random(tables: Path) -> None:
    lines = [line.rpartition(",")[0] for line in ORDERS.splitlines()]
    (tables / "orders.csv").write_text("\n".join(lines) + "\n")
    assert drafted(tables)["data"]["split"] == {"method": "random"}  # type: ignore[index]


def test_files_of_mmrec_keep_their_own_split(tables: Path) -> None:
    rows = "\n".join(f"{n % 4}\t{n % 8 + 1}\t{min(n // 8, 2)}" for n in range(24))
    (tables / "orders.csv").unlink()
    (tables / "baby.inter").write_text("userID\titemID\tx_label\n" + rows + "\n")
    data = drafted(tables)["data"]
    assert data["interaction_columns"] == {"user": "userID", "item": "itemID", "label": "x_label"}  # type: ignore[index]
    assert data["split"] == {  # type: ignore[index]
        "method": "label", "train_labels": ["0"], "valid_labels": ["1"], "test_labels": ["2"],
    }  # fmt: skip


def test_a_configuration_that_is_there_is_kept(tables: Path) -> None:
    (tables / "shop.yaml").write_text("mine")
    with pytest.raises(ConfigError, match="C303"):
        draft_config(tables)
    assert (tables / "shop.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda f: (f / "products.csv").unlink(), "C301"),
        (lambda f: (f / "more.csv").write_text(PRODUCTS), "C301"),
        (lambda f: (f / "products.csv").write_text("name\nlamp\nlamp\n"), "C302"),
        (lambda f: (f / "orders.csv").write_text("customer_id,product_id\n1,SKU-1\n1,SKU-2\n"), "C302"),
    ],
    ids=["no items", "two tables of items", "no id", "ids spelled otherwise"],
)
def test_what_cannot_be_told_is_an_error_that_says_what_to_give(
    spoil: object, code: str, tables: Path
) -> None:
    spoil(tables)  # type: ignore[operator]
    with pytest.raises(ConfigError, match=code):
        draft_config(tables)
    assert not (tables / "shop.yaml").exists()


def told(folder: Path) -> str:
    with pytest.raises(CatalographError) as caught:
        draft_config(folder)
    return str(caught.value)


def test_what_spreadsheets_do_to_a_table_is_named(tables: Path) -> None:
    (tables / "products.csv").write_text(PRODUCTS.replace(",", ";"))
    assert "parted by ';'" in told(tables) and "as a .csv with commas" in told(tables)
    (tables / "products.csv").write_bytes(PRODUCTS.replace("Warm", "Wärme").encode("cp1252"))
    assert "UTF-8" in told(tables) and "products.csv" in told(tables)
    (tables / "products.csv").write_text("name,kind\na,b\na,b\na,c\n")
    assert "`kind` comes nearest, 2 values in 3 rows; twice: 'b'" in told(tables)
    (tables / "products.csv").write_text(PRODUCTS)
    (tables / "orders.csv").write_text("customer_id,product_id\nc,1.0\nd,2.0\n")
    assert "product_id (1.0, 2.0)" in told(tables) and "id (1, 2)" in told(tables)
    (tables / "orders.csv").write_bytes("customer_id,product_id\nç,1\n".encode("cp1252"))
    assert "UTF-8" in told(tables)


def test_addresses_of_pictures_and_times_of_another_form_are_pointed_out(tables: Path) -> None:
    (tables / "products.csv").write_text(PRODUCTS.replace("p1.png", "https://x.example/p1.png?s=1"))
    for n in range(2, 9):
        text = (tables / "products.csv").read_text()
        (tables / "products.csv").write_text(text.replace(f"p{n}.png", f"https://x.example/p{n}.png"))
    (tables / "orders.csv").write_text(ORDERS.replace("2026-03-", "March ").replace(" 10:00:00", ""))
    text = draft_config(tables).config.read_text()
    assert (
        "# image holds addresses" in text and "pictures:" not in text.split("# Captions")[0].split("image")[0]
    )
    assert "# ordered_at is called like a time" in text and "split: {method: random}" in text


def test_the_editor_finds_the_schema_beside_the_configuration(tables: Path) -> None:
    made = draft_config(tables)
    assert made.config.read_text().startswith(f"# yaml-language-server: $schema={made.schema.name}\n")
    assert "retrievers" in json.loads(made.schema.read_text())["properties"]


def test_the_sample_validates_as_drafted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--sample", "--template", "rerank", str(tmp_path / "new")]) == 0
    assert "60 items" in capsys.readouterr().out
    assert main(["validate", "-c", str(tmp_path / "new" / "shop.yaml")]) == 0
    assert main(["init", "--sample", str(tmp_path / "new")]) == 2


def test_a_template_that_is_none_is_refused_with_those_there_are(
    tables: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", str(tables), "--template", "ranking"]) == 2
    assert "features, recommend, rerank" in " ".join(capsys.readouterr().err.split())


FEATURES_ONLY = "data: {catalog: products.csv, catalog_columns: {item_id: id, title: name}}\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (FEATURES_ONLY + "retrievers: {p: {model: popularity}}\n", "data.interactions"),
        (FEATURES_ONLY.replace("products.csv,", "products.csv, interactions: orders.csv,"), "retrievers"),
    ],
)
def test_interactions_and_retrievers_come_together_or_not_at_all(text: str, told: str, tables: Path) -> None:
    (tables / "half.yaml").write_text(text)
    with pytest.raises(ConfigError, match=told):
        load_config(tables / "half.yaml")


def test_a_verb_that_needs_choices_says_so_where_there_are_none(
    tables: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tables / "features.yaml").write_text(FEATURES_ONLY)
    assert main(["validate", "-c", str(tables / "features.yaml")]) == 0
    folder = str(tables / "run")
    assert main(["recommend", "-c", str(tables / "features.yaml"), "--run-dir", folder]) == 2
    assert "C004" in capsys.readouterr().err


def test_columns_with_line_breaks_stay_inside_their_comments(tmp_path: Path) -> None:
    # YAML ends a line at U+0085 and U+2028 too, which JSON does not escape.
    names = ["odd\nseed: 7", "odd\u2028seed: 8", "odd\x85seed: 9"]
    columns = {"id": range(60), "name": [f"Lamp {n}" for n in range(60)]}
    columns |= {name: [f"{n}{name}" for n in range(60)] for name in names}
    pq.write_table(pa.table(columns), tmp_path / "products.parquet")
    raw = drafted(tmp_path)
    assert "seed" not in raw
    text = (tmp_path / "shop.yaml").read_text()
    assert '"odd\\nseed: 7", "odd\\u2028seed: 8", "odd\\u0085seed: 9"' in text
