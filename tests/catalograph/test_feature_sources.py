"""One run with a feature from each source: texts, pictures, and ready vectors of every format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from catalograph.cli import main
from extract.features import FeatureTable
from extract.items import CatalogColumns, read_catalog
from extract.pictures import decode_picture

if TYPE_CHECKING:
    from conftest import Run, World

READY = ("npy", "parquet", "safetensors", "mmrec_image", "mmrec_text")
SOURCES = ("title", "photo", *READY)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a ViT of random weights and its image processor."""
    import torch
    from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

    folder = tmp_path_factory.mktemp("encoder")
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ViTModel(ViTConfig(**shape, image_size=32, patch_size=8)).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def ids_of(world: World) -> list[str]:
    return pq.read_table(world.data / "catalog.parquet")["product"].to_pylist()


def write_vectors(folder: Path, ids: list[str]) -> dict[str, np.ndarray]:
    """A file of each format with the rows in another order than the catalogue's; what each must give."""
    order = np.random.default_rng(0).permutation(len(ids))
    stored = [ids[row] for row in order]
    made = {
        name: np.random.default_rng(seed).normal(size=(len(ids), 3 + seed)).astype(np.float32)
        for seed, name in enumerate(READY)
    }
    rows = {name: matrix[order] for name, matrix in made.items()}
    np.save(folder / "audio.npy", rows["npy"])
    (folder / "audio_ids.txt").write_text("\n".join(stored))
    lists = pa.FixedSizeListArray.from_arrays(pa.array(rows["parquet"].ravel()), 4)
    pq.write_table(pa.table({"product": stored, "audio": lists}), folder / "audio.parquet")
    save_file({"audio": rows["safetensors"]}, folder / "audio.safetensors")
    np.save(folder / "image_feat.npy", rows["mmrec_image"])
    np.save(folder / "text_feat.npy", rows["mmrec_text"])
    mapping = [f"{item_id}\t{row}" for row, item_id in enumerate(stored)]
    (folder / "i_id_mapping.csv").write_text("\n".join(["asin\titemID", *reversed(mapping)]))
    np.savetxt(folder / "missed_img_itemIDs.csv", [4, 7], delimiter=",", fmt="%d")
    made["mmrec_image"][order[[4, 7]]] = 0
    return made


def features(encoder: Path) -> dict[str, Any]:
    mmrec = {"ids": "i_id_mapping.csv", "id_column": "asin", "row_column": "itemID"}
    return {
        "title": {"template": "{title}", "embed": {"engine": "fake", "buckets": 4}},
        "photo": {"pictures": {"model": str(encoder), "device": "cpu", "buckets": 4}},
        "npy": {"vectors": {"path": "audio.npy", "ids": "audio_ids.txt"}},
        "parquet": {"vectors": {"path": "audio.parquet", "id_column": "product", "vector_column": "audio"}},
        "safetensors": {"vectors": {"path": "audio.safetensors", "ids": "audio_ids.txt"}},
        "mmrec_image": {
            "vectors": {"path": "image_feat.npy", "absent_rows": "missed_img_itemIDs.csv", **mmrec}
        },
        "mmrec_text": {"vectors": {"path": "text_feat.npy", **mmrec}},
    }


def run(world: World, name: str, wanted: dict[str, Any], *arguments: str, verb: str = "run") -> Run:
    retriever = {"model": "lirdrec", "features": list(wanted), "train": {"epochs": 1}}
    changes: dict[str, Any] = {
        "caption": None,
        "rerank": None,
        "features": wanted,
        "retrievers": {"all": retriever},
        "candidates": {"k": 10},
        "evaluate": {"bootstrap": 100},
    }
    return world.run(name, *arguments, verb=verb, **changes)


def table(run: Run, name: str) -> FeatureTable:
    return FeatureTable.load(run.folder / f"stages/30-embed/{name}.safetensors")


def test_a_run_learns_from_texts_pictures_and_ready_vectors_of_every_format(
    world: World, encoder: Path
) -> None:
    ids = ids_of(world)
    made = write_vectors(world.data, ids)
    done = run(world, "sources", features(encoder), "--json")
    assert done.code == 0, done.err
    counts = json.loads(done.out)["stages"]["embed"]
    # Two rows of image_feat.npy are MMRec's fillings.
    assert (counts["in"], counts["absent"], counts["quarantined"]) == (7 * len(ids), 2, 0)
    assert json.loads(done.out)["metrics"]["retrieved"]
    for name, matrix in made.items():
        assert np.array_equal(table(done, name).aligned_to(ids).matrix, matrix), name
    assert not table(done, "mmrec_image").aligned_to(ids).present[matrix_rows_of_zeros(made)].any()
    photo = table(done, "photo").aligned_to(ids)
    assert photo.present.all() and photo.width == 16
    assert photo.provenance.dtype == "float32"
    again = run(world, "sources", features(encoder), "--json")
    assert all(stage["reused"] for stage in json.loads(again.out)["stages"].values())


def matrix_rows_of_zeros(made: dict[str, np.ndarray]) -> np.ndarray:
    return ~made["mmrec_image"].any(axis=1)


def test_a_picture_vector_is_what_the_model_computes_for_that_items_picture(
    world: World, encoder: Path
) -> None:
    import torch
    from transformers import AutoImageProcessor, AutoModel

    done = run(world, "photo", {"photo": features(encoder)["photo"]}, verb="extract")
    assert done.code == 0, done.err
    columns = {"item_id": "product", "title": "name", "picture": "photo"}
    catalog = read_catalog(
        world.data / "catalog.parquet", CatalogColumns(**columns), world.data / "pictures.zip"
    )
    item = catalog[ids_of(world)[5]]
    picture = decode_picture(catalog.pictures.read(item.picture))
    model, processor = (
        AutoModel.from_pretrained(encoder).eval(),
        AutoImageProcessor.from_pretrained(encoder, backend="pil"),
    )
    with torch.inference_mode():
        wanted = model(**processor(images=[picture], return_tensors="pt")).pooler_output[0].numpy()
    assert np.abs(table(done, "photo").aligned_to([item.item_id]).matrix[0] - wanted).max() < 1e-5


def test_vectors_of_items_that_the_catalogue_lacks_stop_the_run_or_are_dropped(world: World) -> None:
    ids = ids_of(world)
    np.save(world.data / "audio.npy", np.ones((len(ids) + 1, 2), np.float32))
    (world.data / "ids.json").write_text(json.dumps([*ids, "a stranger"]))
    vectors = {"path": "audio.npy", "ids": "ids.json"}
    done = run(world, "strangers", {"audio": {"vectors": vectors}}, verb="extract")
    assert done.code == 5
    assert "D121" in done.err and "a stranger" in done.err
    dropped = {"audio": {"vectors": {**vectors, "unknown_items": "drop"}}}
    done = run(world, "dropped", dropped, verb="extract")
    assert done.code == 0, done.err
    assert sorted(table(done, "audio").ids) == sorted(ids)


def test_vectors_with_nan_are_quarantined_and_too_many_of_them_stop_the_run(world: World) -> None:
    ids = ids_of(world)
    rows = np.ones((len(ids), 2), np.float32)
    rows[3, 1] = np.nan
    np.save(world.data / "audio.npy", rows)
    (world.data / "ids.txt").write_text("\n".join(ids))
    wanted = {"audio": {"vectors": {"path": "audio.npy", "ids": "ids.txt"}}}
    done = run(world, "nan", wanted, "--json", verb="extract")
    assert done.code == 7, done.err
    counts = json.loads(done.out)["stages"]["embed"]
    assert (counts["in"], counts["ok"], counts["quarantined"]) == (len(ids), len(ids) - 1, 1)
    bad = pq.read_table(done.folder / "stages/30-embed/quarantine.parquet").to_pylist()
    assert [(row["item_id"], row["reason"]) for row in bad] == [(ids[3], "not-finite")]
    assert not table(done, "audio").aligned_to([ids[3]]).present[0]
    rows[:5] = np.inf
    np.save(world.data / "audio.npy", rows)
    done = run(world, "many", wanted, verb="extract")
    assert done.code == 8
    assert "D110" in done.err


def test_a_file_of_vectors_that_is_missing_is_told_by_validate(world: World) -> None:
    wanted = {"audio": {"vectors": {"path": "none.npy", "ids": "ids.txt"}}}
    path = world.root / "missing.yaml"
    assert run(world, "missing", wanted, verb="extract").code == 4
    assert main(["validate", "-c", str(path)]) == 4


@pytest.mark.parametrize(
    ("feature", "told"),
    [
        ({"template": "{title}"}, "give one of embed, pictures and vectors"),
        (
            {"embed": {"engine": "fake"}, "vectors": {"path": "v.parquet"}},
            "give one of embed, pictures and vectors",
        ),
        ({"pictures": {"engine": "fake"}}, "needs data.pictures, and data.catalog_columns.picture"),
    ],
)
def test_a_feature_has_exactly_one_source_that_can_work(
    feature: dict[str, Any], told: str, world: World
) -> None:
    changes: dict[str, Any] = {"features": {"it": feature}, "retrievers": {"p": {"model": "popularity"}}}
    data = world.config()["data"]
    del data["catalog_columns"]["picture"]
    done = world.run(
        "wrong", verb="extract", data=data, caption=None, rerank=None, candidates={}, evaluate={}, **changes
    )
    assert done.code == 2
    assert told in done.err
