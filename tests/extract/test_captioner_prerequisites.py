from __future__ import annotations

import json

import pytest

transformers = pytest.importorskip("transformers")

from extract import CaptionConfig, MissingPrerequisite, build_captioner  # noqa: E402

NUM2WORDS = (
    "Package `num2words` is required to run SmolVLM processor. Install it with `pip install num2words`."
)


@pytest.mark.parametrize(
    ("error", "package"),
    [
        (ImportError(NUM2WORDS), "num2words"),
        (ImportError("Qwen2VLVideoProcessor requires the Torchvision library"), "torchvision"),
        (ModuleNotFoundError("No module named 'timm'", name="timm"), "timm"),
    ],
)
def test_a_package_that_a_processor_needs_is_named(tmp_path, monkeypatch, error, package):
    def fail(*_, **__):
        raise error

    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava"}))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", fail)
    with pytest.raises(MissingPrerequisite) as caught:
        build_captioner(CaptionConfig(model=str(tmp_path)))
    assert (caught.value.code, caught.value.next_step) == ("M301", f"pip install {package}")
