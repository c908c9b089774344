"""Captions from vLLM's offline engine, in this process.

Greedy, one picture per prompt. vLLM batches by itself, so in half precision a caption may depend on its
neighbours. Left out: halving on lack of memory, which vLLM prevents by its own budget; several GPUs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image
from vllm import LLM, SamplingParams

from extract.engines import CaptionConfig, engine_fingerprint
from extract.models import find_model
from extract.prompts import control_tokens


class VllmCaptioner:
    """A vision-language model served by vLLM from local files; no code of the repository is run.

    Raises:
        MissingPrerequisite: the model is not there.
    """

    def __init__(self, config: CaptionConfig) -> None:
        files = find_model(config.model, config.revision)
        self.fingerprint: Mapping[str, str] = engine_fingerprint(config, files)
        self._model = LLM(
            model=str(files.folder),
            dtype=config.dtype,
            seed=0,
            trust_remote_code=False,
            limit_mm_per_prompt={"image": 1},
        )
        self._sampling = SamplingParams(temperature=0.0, max_tokens=config.max_new_tokens)
        self._control = control_tokens(self._model.get_tokenizer())

    def caption(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[str]:
        """One caption per RGB picture, in order."""
        pairs = zip(images, prompts, strict=True)
        chats = [self._chat(image, prompt) for image, prompt in pairs]
        answers = self._model.chat(chats, self._sampling, use_tqdm=False)
        return [answer.outputs[0].text.strip() for answer in answers]

    def _chat(self, image: Image.Image, prompt: str) -> list[dict[str, Any]]:
        # A title inside the prompt may spell a control token, which would add a picture or end the turn.
        text = self._control.sub(" ", prompt)
        content = [{"type": "image_pil", "image_pil": image}, {"type": "text", "text": text}]
        return [{"role": "user", "content": content}]
