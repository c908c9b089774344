from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
import extract
from extract import CaptionConfig, EmbedConfig, FakeEngine, build_captioner, build_embedder
build_captioner(CaptionConfig(engine="fake"))
build_embedder(EmbedConfig(engine="fake"))
heavy = ("torch", "transformers", "sentence_transformers", "datasets")
print([name for name in heavy if name in sys.modules])
"""


def test_extract_imports_neither_torch_nor_transformers():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_public_name_is_there():
    import extract

    assert all(hasattr(extract, name) for name in extract.__all__)
