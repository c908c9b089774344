"""Vectors from a picture encoder of transformers: CLIP, SigLIP, DINOv2, ViT and their kind, in this process.

Left out: text towers (texts go to sentence-transformers) and states of inner layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

from extract.engines import image_backend
from extract.faults import HalvingBatch
from extract.inference import PICTURE, Rows, as_rows, free_memory, loading, refuse_lacking, tried
from extract.models import find_model
from extract.picture_engines import PictureEmbedConfig, picture_engine_fingerprint


class PictureEncoder:
    """A picture encoder and its image processor, loaded from local files.

    Weights are read from safetensors only and no code of the repository is run. The vector of "auto" is that
    of `get_image_features` where the model has it (CLIP, SigLIP: the space shared with texts), else the
    model's pooled output (DINOv2, ViT), else its first state.

    Raises:
        MissingPrerequisite: the model is not there, cannot be loaded, or lacks weights that the vector needs.
    """

    def __init__(self, config: PictureEmbedConfig) -> None:
        files = find_model(config.model, config.revision)
        self.fingerprint: Mapping[str, str] = picture_engine_fingerprint(config, files)
        self._config = config
        cuda = torch.cuda.is_available()
        self._device = ("cuda" if cuda else "cpu") if config.device == "auto" else config.device
        self._processor, self._model = _load(config, str(files.folder), self._device)
        self._halving = HalvingBatch(self._embed_batch, free_memory)
        # Configurations name the width in a dozen ways; a picture tells it.
        self.dimension = tried(config.model, KIND, self._model, lambda: self._embed_batch([PICTURE]))

    def embed_pictures(self, images: Sequence[Image.Image], texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors float32 [N, D] of RGB pictures; when memory runs out the batch is halved.

        Raises:
            ResourceExhausted: a single picture does not fit in memory.
        """
        rows: list[NDArray[np.float32]] = self._halving(list(images))
        return np.stack(rows) if rows else np.zeros((0, self.dimension), np.float32)

    @torch.inference_mode()
    def _embed_batch(self, images: Sequence[Image.Image]) -> Rows:
        inputs = self._processor(images=list(images), return_tensors="pt")
        inputs = inputs.to(self._device, dtype=self._model.dtype)
        return as_rows(self._pooled(inputs)[:, : self._config.truncate_dim], normalize=self._config.normalize)

    def _pooled(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        own = getattr(self._model, "get_image_features", None)
        if self._config.pooling == "auto" and own is not None:
            found = own(**inputs)
            # Since transformers 5 an output whose pooled vector is the projected one; a tensor before.
            vectors: torch.Tensor = found if isinstance(found, torch.Tensor) else found.pooler_output
            return vectors
        output = getattr(self._model, "vision_model", self._model)(**inputs)
        if self._config.pooling == "auto" and getattr(output, "pooler_output", None) is not None:
            pooled: torch.Tensor = output.pooler_output
            return pooled.flatten(1)
        states: torch.Tensor = output.last_hidden_state
        if states.ndim == 4:
            # Convolutions give channels over a grid; as a sequence they have no first state of a kind.
            states = states.flatten(2).transpose(1, 2)
        return _mean(states, inputs) if self._config.pooling == "mean" else states[:, 0]


KIND = "a picture encoder"


def _mean(states: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The mean [B, D] of the states [B, L, D] of patches; models of any aspect ratio fill up with others."""
    seen = inputs.get("pixel_attention_mask")
    if seen is None or seen.shape != states.shape[:2]:
        return states.float().mean(1)
    weights = seen.float()[:, :, None]
    return (states.float() * weights).sum(1) / weights.sum(1)


def _load(config: PictureEmbedConfig, folder: str, device: str) -> tuple[Any, Any]:
    arguments: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    with loading(config.model, KIND):
        processor = AutoImageProcessor.from_pretrained(folder, backend=image_backend(), **arguments)
        model, report = AutoModel.from_pretrained(
            folder, dtype=config.dtype, use_safetensors=True, output_loading_info=True, **arguments
        )
        model = model.to(device).eval()
    # A checkpoint saved without its pooling layer gets a random one: another vector at every start.
    lacking = list(report["missing_keys"])
    if config.pooling != "auto":
        lacking = [name for name in lacking if "pooler" not in name and "head." not in name]
    step = "set `pooling: cls` or `pooling: mean` if only the pooling layer is lacking"
    refuse_lacking(config.model, lacking, step)
    return processor, model
