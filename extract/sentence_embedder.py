"""Vectors from a sentence-transformers model, in this process.

Models whose first module takes plain text are called module by module on tokens made once: counting them for
the batch plan and embedding them need the same tokens. All others go through ``encode``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from extract.engines import EmbedConfig, engine_fingerprint
from extract.errors import ConfigError
from extract.faults import HalvingBatch
from extract.inference import Rows, as_rows, free_memory, loading, refuse_lacking, tried
from extract.models import find_model
from extract.picture_engines import PictureEmbedConfig

Tokens = dict[str, list[int]]
"""Of one text: input_ids, attention_mask and what else the tokenizer gives, each [L]."""


class SentenceEmbedder:
    """A sentence-transformers model loaded from local files: safetensors only, no code of the repository.

    Raises:
        MissingPrerequisite: the model is not there or cannot be loaded.
        ConfigError: the model has no prompt of the name wanted.
    """

    def __init__(self, config: EmbedConfig) -> None:
        files = find_model(config.model, config.revision)
        self.fingerprint: Mapping[str, str] = engine_fingerprint(config, files)
        self._config = config
        self._model: Any = load_sentence_transformer(config, str(files.folder))
        if config.max_tokens is not None:
            limit = self._model.max_seq_length or config.max_tokens
            self._model.max_seq_length = min(config.max_tokens, limit)
        self._prompt = _prompt(self._model, config)
        # Tokens of the texts counted last, until they are embedded or others are counted.
        self._known: dict[str, Tokens] = {}
        with loading(config.model, KIND):
            self._own_batches = self._tokens_are_enough()
        heavy = self._model[0].auto_model if self._own_batches else self._model
        self._dimension = tried(config.model, KIND, heavy, lambda: self._embed_batch(PROBE))
        self._halving = HalvingBatch(self._embed_batch, free_memory)

    @property
    def dimension(self) -> int:
        """D, the width of a vector."""
        return self._dimension

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors float32 [N, D] of one padded batch; when memory runs out the batch is halved.

        Raises:
            ResourceExhausted: a single text does not fit in memory.
        """
        rows: list[NDArray[np.float32]] = self._halving(list(texts))
        return np.stack(rows) if rows else np.zeros((0, self.dimension), np.float32)

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text with the prompt before it, cut at the model's limit.

        Words stand for tokens where the model has no tokenizer of transformers' kind: static embeddings.
        """
        if not isinstance(self._model.tokenizer, PreTrainedTokenizerBase):
            return [1 + len(text.split()) for text in texts]
        self._known = dict(zip(texts, self._tokenize(texts), strict=True))
        return [len(self._known[text]["input_ids"]) for text in texts]

    def _tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        if not texts:
            return []
        limit = self._model.max_seq_length
        # A tokenizer without a limit says 10 to the 30, which it does not take back.
        cut = {"truncation": True, "max_length": limit} if limit and limit < 2**31 else {}
        made = self._model.tokenizer([self._prompt + text for text in texts], **cut)
        return [dict(zip(made.keys(), row, strict=True)) for row in zip(*made.values(), strict=True)]

    def _tokens_are_enough(self) -> bool:
        """Whether our own batches are what the model would be given by ``encode``."""
        if not isinstance(self._model.tokenizer, PreTrainedTokenizerBase):
            return False
        if any(isinstance(module, Pooling) and not module.include_prompt for module in self._model):
            # Such a model must be told where the prompt ends.
            return False
        limit = self._model.max_seq_length
        # The last is cut, where anything is: a model's settings for its tokenizer may cut elsewhere.
        texts = [*PROBE, "a " * (min(limit or LONGEST, LONGEST) + 8)]
        if any(getattr(self._model[0], "processing_kwargs", {}).get(part) for part in ("text", "common")):
            return False
        asked = self._model.preprocess(self._inputs(texts), prompt=self._prompt or None)
        asked = {name: value for name, value in asked.items() if name != "prompt_length"}
        modality, known = asked.pop("modality", None), self._tokenize(texts)
        if modality != "text" or not set(asked) == set(known[0]) <= {*_PADDING, "input_ids"}:
            return False
        return all(torch.equal(asked[name], made) for name, made in self._padded(known).items())

    def _inputs(self, texts: Sequence[str]) -> list[Any]:
        # A model that also sees pictures would take a bare text that looks like an address or a path of one
        # for the picture, fetch it and embed it.
        return list(texts) if self._model.modalities == ["text"] else [{"text": text} for text in texts]

    def _padded(self, rows: Sequence[Tokens]) -> dict[str, torch.Tensor]:
        tokenizer = self._model.tokenizer
        longest = max(len(row["input_ids"]) for row in rows)
        batch = {}
        for name in rows[0]:
            made = np.full((len(rows), longest), _PADDING.get(name, tokenizer.pad_token_id or 0), np.int64)
            for line, row in zip(made, rows, strict=True):
                size = len(row[name])
                line[longest - size if tokenizer.padding_side == "left" else 0 :][:size] = row[name]
            batch[name] = torch.from_numpy(made)
        return batch

    @torch.inference_mode()
    def _embed_batch(self, texts: Sequence[str]) -> Rows:
        if not self._own_batches:
            return self._encode(texts)
        unknown = [text for text in dict.fromkeys(texts) if text not in self._known]
        fresh = dict(zip(unknown, self._tokenize(unknown), strict=True))
        rows = [fresh[text] if text in fresh else self._known[text] for text in texts]
        features: dict[str, Any] = {k: v.to(self._model.device) for k, v in self._padded(rows).items()}
        first, *others = self._model
        features = first(features | {"modality": "text"})
        if all(type(module) in (Pooling, Normalize) for module in others) and "token_embeddings" in features:
            # They have no weights, so they may work in float32 behind a model of half precision.
            features["token_embeddings"] = features["token_embeddings"].float()
        for module in others:
            features = module(features)
        # The settings' width, or else the model's own.
        vectors = features["sentence_embedding"][:, : self._model.truncate_dim]
        return as_rows(vectors, normalize=self._config.normalize)

    def _encode(self, texts: Sequence[str]) -> Rows:
        vectors = self._model.encode(
            self._inputs(texts),
            prompt=self._prompt,
            batch_size=len(texts),
            convert_to_tensor=True,
            show_progress_bar=False,
        )
        return as_rows(vectors, normalize=self._config.normalize)


KIND = "a sentence-transformers model"

PROBE = ("A", "a somewhat longer text, to be padded beside")

LONGEST = 2**15
"""Tokens of the longest text that is tried."""

_PADDING = {"attention_mask": 0, "token_type_ids": 0}


def load_sentence_transformer(config: EmbedConfig | PictureEmbedConfig, folder: str) -> Any:
    """The SentenceTransformer of a folder, with the settings' type, device and width.

    Raises:
        MissingPrerequisite: it cannot be loaded, or lacks weights.
    """
    with loading(config.model, KIND):
        model = SentenceTransformer(
            folder,
            device=None if config.device == "auto" else config.device,
            trust_remote_code=False,
            local_files_only=True,
            truncate_dim=config.truncate_dim,
            model_kwargs={"dtype": config.dtype, "use_safetensors": True},
        ).eval()
        lacking = _lacking(model)
    refuse_lacking(config.model, lacking)
    return model


def _lacking(model: Any) -> set[str]:
    """Weights of the transformers inside that their checkpoints do not hold."""
    lacking: set[str] = set()
    for module in model.modules():
        inner = getattr(module, "auto_model", None)
        if not isinstance(inner, PreTrainedModel) or getattr(inner, "_hf_peft_config_loaded", False):
            continue
        for folder in _checkpoints(Path(inner.name_or_path), inner.config.model_type):
            # sentence-transformers keeps the report to itself; without data it is made again in no time.
            _, report = type(inner).from_pretrained(
                folder,
                device_map="meta",
                output_loading_info=True,
                use_safetensors=True,
                local_files_only=True,
            )
            lacking |= set(report["missing_keys"])
    if any(isinstance(module, Pooling) for module in model.modules()):
        # It pools the states itself; many checkpoints were saved without the layer it leaves aside.
        lacking = {name for name in lacking if "pooler" not in name}
    return lacking


def _checkpoints(folder: Path, model_type: str) -> list[Path]:
    """Where a model of this type has its weights: the folder, or folders in it that a router chooses from."""
    found = {path.parent for path in folder.rglob("*.safetensors") if (path.parent / "config.json").is_file()}
    if folder in found:
        return [folder]
    kinds = {part: json.loads((part / "config.json").read_text()).get("model_type") for part in found}
    return sorted(part for part, kind in kinds.items() if kind == model_type)


def _prompt(model: Any, config: EmbedConfig) -> str:
    """The text put before every input: literal, by the model's name for it, or the model's default."""
    name = config.prompt_name or (None if config.prompt else model.default_prompt_name)
    if name is None:
        return config.prompt
    if name not in model.prompts:
        raise ConfigError(
            "C401",
            f"the model has no prompt `{name}`",
            where=config.model,
            why=f"its prompts: {', '.join(model.prompts) or 'none'}",
            next_step="correct `prompt_name`, or write the words into `prompt`",
        )
    return str(model.prompts[name])
