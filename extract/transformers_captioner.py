"""Captions from any image-text-to-text model of transformers, in this process.

Batches are padded and decoded greedily, so in float32 a caption does not depend on its neighbours. Left out:
sampling, beams, several pictures per item, static caches.
"""

from __future__ import annotations

import copy
import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, GenerationConfig

from extract.cpu_kernels import is_half, speed_up, suits
from extract.decoder_kernels import fewer_passes
from extract.engines import CaptionConfig, engine_fingerprint
from extract.errors import MissingPrerequisite
from extract.faults import HalvingBatch, describe
from extract.model_fit import picture_fit
from extract.models import ModelFiles, find_model
from extract.picture_inputs import PictureInputs
from extract.picture_processor import load_processor, picture_mark
from extract.prompts import control_tokens

logger = logging.getLogger(__name__)


def pick_device(name: str) -> str:
    """The torch device of a config: "auto" is cuda where there is one, else cpu."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


class TransformersCaptioner:
    """An image-text-to-text model and its processor, loaded from local files.

    Weights are read from safetensors only and no code of the repository is run.

    Raises:
        MissingPrerequisite: the model is not there, or its processor needs a package that is not installed.
    """

    def __init__(self, config: CaptionConfig) -> None:
        files = find_model(config.model, config.revision)
        self.fingerprint: Mapping[str, str] = engine_fingerprint(config, files)
        self.device = pick_device(config.device)
        with warnings.catch_warnings():
            # Loading warns about backends and old field names; none of it is the user's to act on.
            warnings.simplefilter("ignore")
            self._processor, self._model = _load(config, files, self.device)
        if suits(self._model):
            if not is_half(self._model):
                fewer_passes(self._model)
            speed_up(self._model)
        self._tokenizer = self._processor.tokenizer
        # A decoder goes on from the last token; an encoder counts positions from the first.
        self._tokenizer.padding_side = "right" if self._model.config.is_encoder_decoder else "left"
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._generation = _greedy(
            self._model.generation_config, config.max_new_tokens, self._tokenizer.pad_token_id
        )
        marks = (getattr(self._processor, f"{kind}_token", None) for kind in ("image", "video"))
        self._control = control_tokens(self._tokenizer, *marks)
        self.picture_fit = picture_fit(
            self._processor.image_processor, resizer=config.resizer, reduced_jpeg=config.reduced_jpeg
        )
        self._inputs = PictureInputs(self._processor)
        self._halving = HalvingBatch(self._caption_batch, _release)

    def caption(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[str]:
        """One caption per RGB picture; when memory runs out the batch is halved.

        Raises:
            ResourceExhausted: a single picture does not fit in memory.
        """
        return list(self._halving(list(zip(images, prompts, strict=True))))

    def _text(self, prompt: str) -> str:
        # A title inside the prompt may spell a control token, which would add a picture or end the turn.
        prompt = self._control.sub(" ", prompt)
        if self._has_template:
            content = [{"type": "image"}, {"type": "text", "text": prompt}]
            messages = [{"role": "user", "content": content}]
            return str(
                self._processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            )
        return picture_mark(self._model.config.model_type, self._processor) + prompt

    @property
    def _has_template(self) -> bool:
        return getattr(self._processor, "chat_template", None) is not None

    @torch.inference_mode()
    def _caption_batch(self, batch: Sequence[tuple[Image.Image, str]]) -> list[str]:
        # Most catalogues have one instruction for all items, and a chat template is slow to fill in.
        written = {prompt: self._text(prompt) for prompt in dict.fromkeys(prompt for _, prompt in batch)}
        texts = [written[prompt] for _, prompt in batch]
        begin = self._tokenizer.bos_token
        inputs = self._inputs(
            [image for image, _ in batch],
            texts,
            # Most chat templates write the begin token; a second one changes the output, as none would.
            add_special_tokens=not (begin and texts[0].startswith(begin)),
        ).to(self.device, dtype=self._model.dtype)
        tokens = self._model.generate(**inputs, generation_config=self._generation)
        if not self._model.config.is_encoder_decoder:
            tokens = tokens[:, inputs["input_ids"].shape[1] :]
        answers: list[str] = self._tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [answer.strip() for answer in answers]


def _load(config: CaptionConfig, files: ModelFiles, device: str) -> tuple[Any, Any]:
    arguments: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        processor = load_processor(files.folder)
        if config.attention is not None:
            arguments["attn_implementation"] = config.attention
        model = AutoModelForImageTextToText.from_pretrained(
            files.folder, dtype=config.dtype, use_safetensors=True, **arguments
        )
    except ImportError as error:
        package = _missing_package(error)
        raise MissingPrerequisite(
            "M301",
            f"this model's processor needs a package that is missing: {package}",
            where=config.model,
            why=describe(error),
            next_step=f"pip install {package}",
        ) from error
    except (OSError, ValueError, AttributeError) as error:
        raise MissingPrerequisite(
            "M303", "not an image-text-to-text model we can load", where=config.model, why=describe(error)
        ) from error
    return processor, model.to(device).eval()


def _missing_package(error: ImportError) -> str:
    # transformers raises most of its own import errors without a name, the command only in the message.
    if "orchvision" in str(error):
        return "torchvision"
    command = re.search(r"pip install ([\w-]+)", str(error))
    return error.name or (command[1] if command else "transformers")


def _greedy(found: GenerationConfig, max_new_tokens: int, pad_token_id: int) -> GenerationConfig:
    generation = copy.deepcopy(found)
    generation.update(
        do_sample=False,
        num_beams=1,
        temperature=None,
        top_p=None,
        top_k=None,
        max_length=None,
        max_new_tokens=max_new_tokens,
        pad_token_id=pad_token_id,
    )
    return generation


def _release() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
