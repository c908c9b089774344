from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
from PIL import Image

from extract import CaptionConfig, MissingPrerequisite, build_captioner


class FakeLLM:
    def __init__(self, **arguments):
        self.arguments = arguments

    def get_tokenizer(self):
        return SimpleNamespace(all_special_tokens=["<end>", "<image>"])

    def chat(self, chats, sampling, use_tqdm):
        self.sampling, self.chats = sampling, chats
        texts = [f" {c[0]['content'][0]['image_pil'].width}\n{c[0]['content'][1]['text']} " for c in chats]
        return [SimpleNamespace(outputs=[SimpleNamespace(text=text)]) for text in texts]


@pytest.fixture
def config(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "none"}))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    return CaptionConfig(engine="vllm", model=str(tmp_path), max_new_tokens=7)


@pytest.fixture
def captioner(config, monkeypatch):
    vllm = ModuleType("vllm")
    vllm.LLM, vllm.SamplingParams = FakeLLM, SimpleNamespace
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    monkeypatch.delitem(sys.modules, "extract.vllm_captioner", raising=False)
    yield build_captioner(config)
    sys.modules.pop("extract.vllm_captioner", None)


def test_captions_come_back_in_order_and_lines_are_kept(captioner):
    images = [Image.new("RGB", (width, 2)) for width in (3, 5)]
    assert captioner.caption(images, ["one", "two"]) == ["3\none", "5\ntwo"]


def test_a_title_cannot_spell_a_control_token(captioner):
    assert captioner.caption([Image.new("RGB", (3, 2))], ["a<end>b<image>c"]) == ["3\na b c"]


def test_decoding_is_greedy_and_no_code_of_the_repository_runs(captioner):
    captioner.caption([Image.new("RGB", (3, 2))], ["p"])
    assert vars(captioner._model.sampling) == {"temperature": 0.0, "max_tokens": 7}
    assert captioner._model.arguments["trust_remote_code"] is False


def test_the_fingerprint_names_the_engine(captioner):
    assert captioner.fingerprint["engine"] == "vllm"


def test_a_missing_vllm_names_the_pip_command(config, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.delitem(sys.modules, "extract.vllm_captioner", raising=False)
    with pytest.raises(MissingPrerequisite, match="pip install vllm") as caught:
        build_captioner(config)
    assert caught.value.code == "M301"
