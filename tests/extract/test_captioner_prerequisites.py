from __future__ import annotations

import json
import subprocess
import sys

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


def test_a_torchvision_that_does_not_fit_torch_is_told_as_that(tmp_path):
    # What a release for another build of torch does when it is imported.
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        'raise RuntimeError("operator torchvision::nms does not exist")'
    )
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava"}))
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from extract import CaptionConfig, CatalographError, build_captioner\n"
        "try: build_captioner(CaptionConfig(model=sys.argv[1]))\n"
        "except CatalographError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert "error[M301]: an installed package does not fit the others" in done.stdout, done.stderr
    assert "operator torchvision::nms does not exist" in done.stdout
