from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from extract import (
    CaptionConfig,
    EmbedConfig,
    FakeEngine,
    MissingPrerequisite,
    PictureEmbedConfig,
    build_captioner,
    build_embedder,
    engine_fingerprint,
    engines,
    picture_engine_fingerprint,
)
from extract.models import find_model


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "none"}))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    return tmp_path


def test_the_fake_engine_needs_no_model():
    assert isinstance(build_captioner(CaptionConfig(engine="fake")), FakeEngine)
    assert isinstance(build_embedder(EmbedConfig(engine="fake")), FakeEngine)


def test_fake_captions_depend_on_pixels_and_prompt(picture_bytes):
    from extract import decode_picture

    one, two = (decode_picture(picture_bytes(seed)) for seed in (1, 2))
    engine = FakeEngine()
    captions = engine.caption([one, two, one], ["p", "p", "q"])
    assert len(set(captions)) == 3
    assert captions == FakeEngine().caption([one, two, one], ["p", "p", "q"])


def test_a_models_identity_is_its_content(folder):
    first = find_model(str(folder)).identity
    assert find_model(str(folder)).identity == first
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x").write_bytes(b"ignored")
    assert find_model(str(folder)).identity == first
    (folder / "model.safetensors").write_bytes(b"Weights")
    assert find_model(str(folder)).identity != first


@pytest.mark.parametrize("change", [{"max_new_tokens": 9}, {"dtype": "bfloat16"}, {"attention": "eager"}])
def test_every_setting_that_changes_captions_changes_the_fingerprint(folder, change):
    config = CaptionConfig(model=str(folder))
    assert engine_fingerprint(config) != engine_fingerprint(config.model_copy(update=change))


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "passage: "},
        {"prompt_name": "passage"},
        {"normalize": True},
        {"truncate_dim": 8},
        {"max_tokens": 9},
        {"dtype": "auto"},
    ],
)
def test_every_setting_that_changes_vectors_changes_the_fingerprint(folder, change):
    config = EmbedConfig(model=str(folder))
    assert engine_fingerprint(config) != engine_fingerprint(config.model_copy(update=change))


def test_the_kernels_version_counts_where_their_rounding_is_seen(folder, monkeypatch):
    def prints(dtype):
        settings = {"model": str(folder), "dtype": dtype}
        text, caption = EmbedConfig(**settings), CaptionConfig(**settings)
        pictures = picture_engine_fingerprint(PictureEmbedConfig(**settings))
        return [engine_fingerprint(text), engine_fingerprint(caption), pictures]

    exact, half = prints("float32"), prints("bfloat16")
    monkeypatch.setattr(engines, "KERNELS", "another")
    assert prints("float32") == exact
    assert all(now != before for now, before in zip(prints("bfloat16"), half, strict=True))


@pytest.mark.parametrize("reference", ["", "/no/such/folder", "./none", "package:os", "a/b/c"])
def test_a_model_that_is_not_there_is_a_missing_prerequisite(reference):
    with pytest.raises(MissingPrerequisite):
        find_model(reference)


def test_a_folder_without_a_config_is_no_model(tmp_path):
    with pytest.raises(MissingPrerequisite, match=r"no config\.json"):
        find_model(str(tmp_path))


def test_a_hub_model_without_a_network_says_how_to_get_it(monkeypatch):
    import huggingface_hub

    def offline(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(MissingPrerequisite) as caught:
        find_model("owner/name")
    assert "hf download owner/name" in caught.value.next_step


def test_a_hub_model_is_named_by_its_commit_and_pickles_are_not_fetched(monkeypatch, tmp_path):
    import huggingface_hub

    asked = {}

    def fetched(repository, **options):
        asked.update(options)
        return str(tmp_path / "0123abc")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetched)
    assert find_model("owner/name", "main").identity == "owner/name@0123abc"
    assert asked["revision"] == "main"
    assert not any(pattern in {"*", "*.bin", "*.pt", "*.py"} for pattern in asked["allow_patterns"])


def test_settings_refuse_unknown_keys_and_impossible_values():
    with pytest.raises(ValidationError, match="not both"):
        EmbedConfig(prompt="query: ", prompt_name="query")
    for wrong in ({"batch_sze": 4}, {"batch_size": 0}, {"engine": "none"}, {"buckets": 0}):
        with pytest.raises(ValidationError):
            CaptionConfig(**wrong)
