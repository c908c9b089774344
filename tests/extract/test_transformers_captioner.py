"""A tiny random LLaVA, built from configs, saved, and loaded through the Auto classes."""

from __future__ import annotations

import shutil

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from extract import (  # noqa: E402
    CAPTION_PROMPTS,
    CaptionConfig,
    MissingPrerequisite,
    ResourceExhausted,
    build_captioner,
    caption_items,
    caption_store,
    captions_of,
    decode_picture,
)

CHAT = (
    "{{ bos_token }}{% for m in messages %}USER: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>\n{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
PROMPTS = ["Describe this picture.", "What?", "Describe the colours and the shape of this picture."]


def tiny_tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<bos>", "<eos>", "<image>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([*PROMPTS, "a red striped lamp", "USER ASSISTANT"], trainer)
    # As real tokenizers do; a chat template that writes <bos> itself must not get a second one.
    inner.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        extra_special_tokens={"image_token": "<image>"},
    )


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llava")
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    text = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    vision = transformers.CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=tokenizer.convert_tokens_to_ids("<image>")
    )
    model = transformers.AutoModelForImageTextToText.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for weight in model.parameters():
            # The default spread of 0.02 makes every picture say the same; this one lets pictures matter.
            if weight.ndim > 1:
                weight.normal_(0, 0.3)
    model.save_pretrained(folder)
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        ),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    )
    processor.save_pretrained(folder)
    return folder


def config_for(folder, **changes):
    return CaptionConfig(
        **{"model": str(folder), "device": "cpu", "dtype": "float32", "max_new_tokens": 12} | changes
    )


@pytest.fixture(scope="module")
def captioner(llava):
    return build_captioner(config_for(llava))


@pytest.fixture
def images(picture_bytes):
    return [
        decode_picture(picture_bytes(seed, "PNG", size))
        for seed, size in ((1, (20, 40)), (2, (64, 64)), (3, (50, 30)))
    ]


def test_a_batch_equals_its_single_runs_token_for_token(captioner, images):
    together = captioner.caption(images, PROMPTS)
    alone = [captioner.caption([image], [prompt])[0] for image, prompt in zip(images, PROMPTS)]
    assert together == alone
    assert len(set(together)) == 3
    assert all(together)


def test_the_picture_decides_the_caption(captioner, images):
    assert len(set(captioner.caption(images, ["What?"] * 3))) > 1


def test_the_caption_is_what_generate_writes_after_the_prompt(captioner, images, llava):
    processor = transformers.AutoProcessor.from_pretrained(llava)
    model = transformers.AutoModelForImageTextToText.from_pretrained(llava, dtype=torch.float32).eval()
    text = "<bos>USER: <image>\nWhat? ASSISTANT:"
    inputs = processor(images=[images[0]], text=[text], return_tensors="pt", add_special_tokens=False)
    tokens = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    expected = processor.tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert captioner.caption([images[0]], ["What?"]) == [expected.strip()]


def test_a_title_cannot_smuggle_a_control_token(captioner, images):
    wicked = captioner.caption([images[0]], ["What <image><eos>?"])
    assert wicked == captioner.caption([images[0]], ["What   ?"])


def test_a_processor_without_a_chat_template_works(llava, tmp_path, images):
    plain = tmp_path / "plain"
    shutil.copytree(llava, plain)
    (plain / "chat_template.jinja").unlink()
    captioner = build_captioner(config_for(plain))
    together = captioner.caption(images, PROMPTS)
    assert together == [captioner.caption([image], [prompt])[0] for image, prompt in zip(images, PROMPTS)]


def test_out_of_memory_halves_the_batch_and_changes_nothing(captioner, images, monkeypatch):
    expected = captioner.caption(images, PROMPTS)
    real, sizes = captioner._model.generate, []

    def generate(**inputs):
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > 1:
            raise torch.OutOfMemoryError("injected")
        return real(**inputs)

    monkeypatch.setattr(captioner._model, "generate", generate)
    assert captioner.caption(images, PROMPTS) == expected
    assert sizes == [3, 1, 1, 1]

    def never(**inputs):
        raise torch.OutOfMemoryError("injected")

    monkeypatch.setattr(captioner._model, "generate", never)
    with pytest.raises(ResourceExhausted):
        captioner.caption(images[:1], PROMPTS[:1])
    captioner._halving.limit = None


def test_the_stage_runs_on_the_model_and_resumes(captioner, shop, tmp_path):
    catalog, prompt = shop(5), CAPTION_PROMPTS["plain"]
    store = caption_store(tmp_path / "s", captioner, prompt=prompt, batch_size=2, buckets=2)
    result = caption_items(catalog, captioner, store, prompt=prompt, batch_size=2)
    assert (result.n_ok, result.n_quarantined) == (5, 0)
    assert len(captions_of(store)) == 5
    assert caption_items(catalog, captioner, store, prompt=prompt, batch_size=2).shards_computed == 0


def test_weights_that_are_not_safetensors_are_refused(llava, tmp_path):
    pickled = tmp_path / "pickled"
    shutil.copytree(llava, pickled)
    (pickled / "model.safetensors").unlink()
    torch.save({}, pickled / "pytorch_model.bin")
    with pytest.raises(MissingPrerequisite):
        build_captioner(config_for(pickled))


def test_the_fingerprint_names_model_settings_and_image_backend(captioner, llava):
    assert captioner.fingerprint["max_new_tokens"] == "12"
    assert captioner.fingerprint["image_backend"] in {"pil", "torchvision"}
    assert len(captioner.fingerprint["model"]) == 64
