"""What the engines that run a model in this process share: loading it, trying it, and giving vectors back."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from extract.cpu_kernels import is_half, speed_up, suits
from extract.errors import CatalographError, MissingPrerequisite
from extract.faults import describe, is_out_of_memory

PICTURE = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
"""What picture models are tried on; its parts differ, for models that look at some of them only."""

Rows = list[NDArray[np.float32]]


@contextmanager
def loading(model: str, kind: str) -> Iterator[None]:
    """Tells whatever a broken checkpoint raises as M303; silences what loading warns about.

    Args:
        model: how the user named it.
        kind: what it should be, with its article.

    Raises:
        MissingPrerequisite: M303, something inside the block failed for another reason than memory.
    """
    try:
        with warnings.catch_warnings():
            # Backends and old field names; none of it is the user's to act on.
            warnings.simplefilter("ignore")
            yield
    except CatalographError:
        raise
    except Exception as error:
        # Damaged weights, odd settings and absent devices each raise a type of their own library.
        if is_out_of_memory(error):
            raise
        raise MissingPrerequisite(
            "M303", f"not {kind} we can load", where=model, why=describe(error)
        ) from error


def refuse_lacking(model: str, lacking: Iterable[str], next_step: str = "") -> None:
    """Refuse a checkpoint that lacks weights: they would be random, and other ones at every start.

    Raises:
        MissingPrerequisite: M306, some are lacking.
    """
    if names := sorted(lacking):
        raise MissingPrerequisite(
            "M306",
            f"the checkpoint lacks {len(names)} weights that the vector needs",
            where=model,
            why=f"first: {', '.join(names[:3])}",
            next_step=next_step or "fetch the model again, or choose another one",
        )


def tried(name: str, kind: str, model: nn.Module, probe: Callable[[], Rows]) -> int:
    """D of a loaded model, which is sped up where this machine gains by it.

    Args:
        name: how the user named it.
        kind: what it should be, with its article.
        model: whose kernels may be swapped.
        probe: the vectors of some small inputs.

    Raises:
        MissingPrerequisite: M303, it cannot embed the probe; M308, it does not do so twice alike.
    """
    with loading(name, kind):
        first, again = np.stack(probe()), np.stack(probe())
    # Encoders that draw what they look at are far off; an accelerator's order of sums is not.
    bound = 0.01 if is_half(model) else 1e-4
    if not np.linalg.norm(first - again) <= bound * np.linalg.norm(first):
        raise MissingPrerequisite(
            "M308",
            "the model gives other vectors for the same input",
            where=name,
            why="it draws random numbers, or its vectors are not finite",
            next_step="choose an encoder, not a model for pretraining",
        )
    if suits(model):
        speed_up(model, lambda: np.stack(probe()))
    return int(first.shape[1])


def as_rows(vectors: Tensor, *, normalize: bool) -> Rows:
    """The rows of [N, D] in float32, where they are also normalised: half precision gives lengths beside 1.

    Raises:
        ValueError: it is no matrix.
    """
    if vectors.ndim != 2:
        raise ValueError(f"expected one vector for each input, found the shape {list(vectors.shape)}")
    vectors = vectors.float()
    if normalize:
        vectors = torch.nn.functional.normalize(vectors, dim=1)
    return list(vectors.cpu().numpy())


def free_memory() -> None:
    """Give cached accelerator memory back."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
