"""Tiny random CLIP, SigLIP, DINOv2 and ViT encoders, built from configs, saved and loaded like real ones."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from extract import (  # noqa: E402
    MissingPrerequisite,
    PictureEmbedConfig,
    ResourceExhausted,
    build_picture_embedder,
    embed_pictures,
    embedded_table,
    picture_embed_store,
)

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SEEN = SMALL | {"intermediate_size": 64, "image_size": 32, "patch_size": 8}
WORDS = SMALL | {"intermediate_size": 64, "vocab_size": 50, "max_position_embeddings": 20}
ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
KINDS = ("clip", "siglip", "dinov2", "vit")


def drawn(seed, size=(24, 24)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


PICTURES = [drawn(1, (20, 40)), drawn(2, (64, 64)), drawn(3, (50, 30))]


def made(kind):
    torch.manual_seed(0)
    size, crop = {"shortest_edge": 32}, {"height": 32, "width": 32}
    if kind == "clip":
        config = transformers.CLIPConfig(text_config=WORDS | ENDS, vision_config=SEEN, projection_dim=16)
        return transformers.CLIPModel(config), transformers.CLIPImageProcessorPil(size=size, crop_size=crop)
    if kind == "siglip":
        config = transformers.SiglipConfig(text_config=WORDS | ENDS, vision_config=SEEN)
        return transformers.SiglipModel(config), transformers.SiglipImageProcessorPil(size=crop)
    if kind == "dinov2":
        config = transformers.Dinov2Config(**SMALL, image_size=32, patch_size=8)
        processor = transformers.BitImageProcessorPil(size=size, crop_size=crop)
        return transformers.Dinov2Model(config), processor
    return transformers.ViTModel(transformers.ViTConfig(**SEEN)), transformers.ViTImageProcessorPil(size=crop)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    found = {}
    for kind in KINDS:
        model, processor = made(kind)
        with torch.no_grad():
            for weight in model.parameters():
                # The default spread makes every picture look the same; this one lets pictures matter.
                if weight.ndim > 1:
                    weight.normal_(0, 0.2)
        found[kind] = tmp_path_factory.mktemp(kind)
        model.save_pretrained(found[kind])
        processor.save_pretrained(found[kind])
    return found


def encoder_of(folder, **changes):
    return build_picture_embedder(PictureEmbedConfig(model=str(folder), device="cpu", **changes))


def reference(kind, folder, picture):
    """What the model's own documentation computes for one picture."""
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    inputs = processor(images=picture, return_tensors="pt")
    with torch.inference_mode():
        if kind == "clip":
            return model.visual_projection(model.vision_model(**inputs).pooler_output)[0].numpy()
        return getattr(model, "vision_model", model)(**inputs).pooler_output[0].numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_equals_its_single_runs_and_the_models_own_vector(kind, folders):
    encoder = encoder_of(folders[kind])
    together = encoder.embed_pictures(PICTURES, [""] * 3)
    assert together.dtype == np.float32
    assert together.shape == (3, encoder.dimension) == (3, 16 if kind == "clip" else 32)
    for row, picture in zip(together, PICTURES, strict=True):
        assert np.abs(row - encoder.embed_pictures([picture], [""])[0]).max() < 1e-5
        assert np.abs(row - reference(kind, folders[kind], picture)).max() < 1e-4 * np.abs(row).max()
    assert np.abs(together[0] - together[1]).max() > 1e-3


def test_pooling_by_hand_is_the_first_or_the_mean_state(folders):
    model = transformers.AutoModel.from_pretrained(folders["dinov2"], dtype=torch.float32).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folders["dinov2"], backend="pil")
    with torch.inference_mode():
        states = model(**processor(images=PICTURES, return_tensors="pt")).last_hidden_state.numpy()
    for pooling, expected in (("cls", states[:, 0]), ("mean", states.mean(axis=1))):
        found = encoder_of(folders["dinov2"], pooling=pooling).embed_pictures(PICTURES, [""] * 3)
        assert np.abs(found - expected).max() < 1e-5


def test_truncation_normalisation_and_bfloat16(folders):
    exact = encoder_of(folders["clip"], truncate_dim=8, normalize=True)
    half = encoder_of(folders["clip"], truncate_dim=8, normalize=True, dtype="bfloat16")
    assert exact.dimension == half.dimension == 8
    one, two = (encoder.embed_pictures(PICTURES, [""] * 3) for encoder in (exact, half))
    for vectors in (one, two):
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (one * two).sum(axis=1).min() > 0.98


def test_a_checkpoint_without_its_pooling_layer_is_refused_unless_it_is_not_needed(folders, tmp_path):
    bare = transformers.ViTModel(transformers.ViTConfig(**SEEN), add_pooling_layer=False)
    bare.save_pretrained(tmp_path)
    transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    with pytest.raises(MissingPrerequisite, match=r"pooler") as caught:
        encoder_of(tmp_path)
    assert caught.value.code == "M306"
    assert encoder_of(tmp_path, pooling="cls").embed_pictures(PICTURES, [""] * 3).shape == (3, 32)


def test_a_folder_that_is_no_encoder_is_a_missing_prerequisite(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(MissingPrerequisite) as caught:
        encoder_of(tmp_path)
    assert caught.value.code == "M303"


@pytest.mark.parametrize("how", ["cut", "other width", "no number", "no device"])
def test_an_encoder_that_cannot_be_loaded_is_a_missing_prerequisite(folders, tmp_path, how):
    shutil.copytree(folders["vit"], tmp_path / "vit")
    if how == "cut":
        weights = (tmp_path / "vit" / "model.safetensors").read_bytes()
        (tmp_path / "vit" / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    settings = json.loads((tmp_path / "vit" / "config.json").read_text())
    settings |= {"other width": {"intermediate_size": 48}, "no number": {"hidden_size": "x"}}.get(how, {})
    (tmp_path / "vit" / "config.json").write_text(json.dumps(settings))
    device = "cuda:99" if how == "no device" else "cpu"
    with pytest.raises(MissingPrerequisite) as caught:
        build_picture_embedder(PictureEmbedConfig(model=str(tmp_path / "vit"), device=device))
    assert caught.value.code == "M303"


def test_an_encoder_that_draws_what_it_sees_is_refused(tmp_path):
    model = transformers.ViTMAEModel(transformers.ViTMAEConfig(**SEEN))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.2)
    model.save_pretrained(tmp_path)
    transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    with pytest.raises(MissingPrerequisite, match="other vectors for the same") as caught:
        encoder_of(tmp_path, pooling="cls")
    assert caught.value.code == "M308"


def test_the_mean_of_a_picture_of_any_shape_leaves_the_fillings_out(tmp_path):
    torch.manual_seed(0)
    vision = SMALL | {"intermediate_size": 64, "patch_size": 8, "num_patches": 16}
    model = transformers.Siglip2Model(
        transformers.Siglip2Config(text_config=WORDS | ENDS, vision_config=vision)
    ).eval()
    processor = transformers.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    pictures = [drawn(1, (20, 40)), drawn(2, (60, 16))]
    inputs = processor(images=pictures, return_tensors="pt")
    counts = inputs["pixel_attention_mask"].sum(dim=1).tolist()
    assert min(counts) < 16
    with torch.inference_mode():
        states = model.vision_model(**inputs).last_hidden_state.numpy()
    expected = [rows[:count].mean(axis=0) for rows, count in zip(states, counts, strict=True)]
    found = encoder_of(tmp_path, pooling="mean").embed_pictures(pictures, ["", ""])
    assert np.abs(found - np.stack(expected)).max() < 1e-5


def test_out_of_memory_halves_the_batch_and_changes_nothing(folders, monkeypatch):
    encoder = encoder_of(folders["dinov2"])
    expected, real, sizes = encoder.embed_pictures(PICTURES, [""] * 3), encoder._model.forward, []

    def forward(pixel_values, **options):
        sizes.append(len(pixel_values))
        if sizes[-1] > 1:
            raise torch.OutOfMemoryError("injected")
        return real(pixel_values=pixel_values, **options)

    monkeypatch.setattr(encoder._model, "forward", forward)
    assert np.abs(encoder.embed_pictures(PICTURES, [""] * 3) - expected).max() < 1e-5
    assert sizes == [3, 1, 1, 1]

    def never(**inputs):
        raise torch.OutOfMemoryError("injected")

    monkeypatch.setattr(encoder._model, "forward", never)
    with pytest.raises(ResourceExhausted):
        encoder.embed_pictures(PICTURES[:1], [""])


def test_the_stage_runs_on_a_model_and_says_how_its_table_was_made(folders, shop, tmp_path):
    catalog, encoder = shop(7, every_third_absent=True), encoder_of(folders["clip"], pooling="auto")
    store = picture_embed_store(tmp_path / "s", encoder, batch_size=2, buckets=2)
    result = embed_pictures(catalog, [None] * 7, encoder, store, batch_size=2)
    assert (result.n_ok, result.n_absent, result.n_quarantined) == (7, 3, 0)
    table = embedded_table(store)
    assert table.width == 16
    assert table.provenance.pooling == "auto"
    assert table.provenance.settings["engine"]["image_backend"] in {"pil", "torchvision"}
