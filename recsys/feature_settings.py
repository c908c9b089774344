"""Settings of the recommenders that read features; `recsys.settings` says why they are apart from these."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class LIRDRecConfig(BaseModel):
    """Settings of LIRDRec; the paper trains with learning rate 1e-4, batches of 2048 and weight decay 0 to
    1e-5.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    embedding_size: int = Field(default=64, ge=1)
    """Width d of one block; the whole vector has (M + 1) d."""
    layers: int = Field(default=3, ge=0)
    """Propagation steps L over the user-item graph; the paper searches 2, 3, 4."""
    neighbours: int = Field(default=10, ge=1)
    """Neighbours k of an item in each modality's graph, itself included."""
    knn_weights: dict[str, float] = Field(default_factory=dict)
    """Weight of each modality's neighbour graph; empty: all equal.

    The paper gives pictures 0.1 and texts 0.9.
    """
    reg: float = Field(default=1e-3, ge=0)
    """Weight of the mean squares of the user and item tables; the paper searches 1e-2, 1e-3, 1e-4."""
    copy_base: float = Field(default=0.9, gt=0, le=1)
    """Base b of the hand-over from computed to copied attention; 1 keeps the first weights for ever."""
    copy_start: float = Field(default=0.9, gt=0, lt=1)
    """Weight of the computed attention in the first epoch; the copied part has the rest."""


FEATURE_SETTINGS: dict[str, type[BaseModel]] = {
    "lirdrec": LIRDRecConfig,
}
"""Settings by the name of the model."""
