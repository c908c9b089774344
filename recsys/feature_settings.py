"""Settings of the recommenders that read features; `recsys.settings` says why they are apart from these."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class VBPRConfig(BaseModel):
    """Settings of VBPR."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    embedding_size: int = Field(default=64, ge=1)
    """Width D of the id vectors; an item has one number more, its bias."""
    feature_size: int = Field(default=64, ge=1)
    """Width V of the projected features and of the user vectors that meet them."""
    reg: float = Field(default=1e-3, ge=0)
    """Weight of the squared L2 term on the id vectors of the batch; `train.weight_decay` reaches the
    projection.
    """
    init_std: float = Field(default=0.1, gt=0)
    """Standard deviation of the normal start values; biases start at 0."""


class ContentSearchConfig(BaseModel):
    """Settings of content search; nothing is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: dict[str, float] = Field(default_factory=dict)
    """Weight of each modality's cosine; empty: all equal."""


class GraphFilterConfig(BaseModel):
    """Settings of the graph filter; nothing is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    content_weight: float = Field(default=0.3, ge=0, le=1)
    """Weight c of the feature graphs beside the graph of choices; without features it is 0."""
    knn_weights: dict[str, float] = Field(default_factory=dict)
    """Weight of each modality's neighbour graph; empty: all equal."""
    neighbours: int = Field(default=20, ge=1)
    """Neighbours k of an item in each modality's graph, itself included."""
    alpha: float = Field(default=0.5, ge=0, le=1)
    """How a choice is weighed down by the user's number of choices; 1 - alpha is for the item's."""
    power: float = Field(default=1.0, gt=0)
    """Power of every entry of the graph of choices: below 1 lifts weak ties."""
    coefficients: tuple[float, ...] = Field(default=(1.0,), min_length=1)
    """Weights w_1 to w_N of the powers of the graph; (2, -1) passes more of the middle frequencies."""


class FREEDOMConfig(BaseModel):
    """Settings of FREEDOM; the paper trains with learning rate 1e-3 and batches of 2048."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    embedding_size: int = Field(default=64, ge=1)
    """Width D of the embeddings."""
    layers: int = Field(default=2, ge=0)
    """Propagation steps L over the user-item graph."""
    neighbours: int = Field(default=10, ge=1)
    """Neighbours k of an item in each modality's graph, itself included."""
    knn_weights: dict[str, float] = Field(default_factory=dict)
    """Weight of each modality's neighbour graph; empty: all equal.

    The paper gives pictures 0.1 and texts 0.9.
    """
    kept_edges: float = Field(default=0.2, gt=0, le=1)
    """Share of the edges an epoch trains on; the paper drops 0.8 or 0.9 of them."""
    reg: float = Field(default=1e-3, ge=0)
    """Weight of the ranking losses on the features; the paper searches 0, 1e-5, 1e-4, 1e-3."""


class BM3Config(BaseModel):
    """Settings of BM3; the paper trains with learning rate 1e-3 and batches of 2048."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    embedding_size: int = Field(default=64, ge=1)
    """Width D of the embeddings."""
    layers: int = Field(default=1, ge=0)
    """Propagation steps L; the paper searches 1, 2."""
    dropout: float = Field(default=0.3, ge=0, lt=1)
    """Share dropped from a target view; the paper searches 0.3, 0.5."""
    feature_weight: float = Field(default=2.0, ge=0)
    """Weight w of the losses on features; the published code has 2."""
    reg: float = Field(default=0.1, ge=0)
    """Weight of the mean squares of the user and item tables."""


class SMOREConfig(BaseModel):
    """Settings of SMORE; the paper trains with learning rate 1e-3 and batches of 2048."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    embedding_size: int = Field(default=64, ge=1)
    """Width d of the embeddings."""
    layers: int = Field(default=3, ge=0)
    """Propagation steps L over the user-item graph; the paper uses 3 or 4."""
    neighbours: int = Field(default=10, ge=1)
    """Neighbours k of an item in each modality's graph, itself included."""
    reg: float = Field(default=1e-4, ge=0)
    """Weight of the squared L2 term on the final vectors of the batch."""
    contrast: float = Field(default=0.01, ge=0)
    """Weight of the contrast between side information and choices; the paper searches around 0.01."""
    temperature: float = Field(default=0.2, gt=0)
    """Temperature of the contrast."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share dropped from the gates; the paper uses 0 or 0.1."""


class CM3Config(BaseModel):
    """Settings of CM3; the paper trains with learning rate 1e-3 and batches of 2048."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    embedding_size: int = Field(default=64, ge=1)
    """Width d of one block; the whole vector has (M + 1) d."""
    layers: int = Field(default=3, ge=0)
    """Propagation steps L over the user-item graph; the paper searches 3, 4."""
    neighbours: int = Field(default=10, ge=1)
    """Neighbours k of an item in each modality's graph, itself included."""
    knn_weights: dict[str, float] = Field(default_factory=dict)
    """Weight of each modality's neighbour graph; empty: all equal.

    The paper gives pictures 0.1 and texts 0.9.
    """
    gamma: float = Field(default=0.9, ge=0)
    """Weight of uniformity; the paper searches 0.5, 0.9."""
    alpha: float = Field(default=0.5, gt=0)
    """Both parameters of the Beta distribution of the fusion point; the paper searches 0.1, 0.5, 0.9."""
    min_similarity: float = Field(default=0.0, ge=-1, le=1)
    """Least content similarity items are calibrated to."""
    max_similarity: float = Field(default=0.8, ge=-1, le=1)
    """Largest content similarity items are calibrated to; the paper searches 0.8, 1."""


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
    "vbpr": VBPRConfig,
    "content_search": ContentSearchConfig,
    "graph_filter": GraphFilterConfig,
    "freedom": FREEDOMConfig,
    "bm3": BM3Config,
    "smore": SMOREConfig,
    "lirdrec": LIRDRecConfig,
    "cm3": CM3Config,
}
"""Settings by the name of the model."""
