"""Settings of the recommenders and of their training.

They live apart from the models, against the habit of one file per method, because a configuration is checked
without importing torch.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator

from recsys.metrics import METRICS


class PopularityConfig(BaseModel):
    """Popularity has nothing to set."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ItemKNNConfig(BaseModel):
    """Settings of ItemKNN."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    neighbours: int = Field(default=100, ge=1)
    """Neighbours kept per item, the item itself not among them."""
    shrink: float = Field(default=0.0, ge=0)
    """Added to the product of norms: damps the similarity of rare items."""


class EaseConfig(BaseModel):
    """Settings of EASE."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    l2: float = Field(default=300.0, gt=0)
    """Lambda, the ridge on the diagonal; search it on a logarithmic scale, 10 to 10,000."""


class LightGCNConfig(BaseModel):
    """Settings of LightGCN; the paper trains with learning rate 1e-3 and batches of 2048."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    embedding_size: int = Field(default=64, ge=1)
    """Width D of the embeddings."""
    layers: int = Field(default=3, ge=0)
    """Propagation steps L; 0 is plain matrix factorisation."""
    reg: float = Field(default=1e-4, ge=0)
    """Weight of the squared L2 term on the embeddings of the batch before propagation."""
    init_std: float = Field(default=0.1, gt=0)
    """Standard deviation of the normal start values."""


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


SETTINGS: dict[str, type[BaseModel]] = {
    "popularity": PopularityConfig,
    "item_knn": ItemKNNConfig,
    "ease": EaseConfig,
    "lightgcn": LightGCNConfig,
    "lirdrec": LIRDRecConfig,
}
"""Settings by the name of the model; the models themselves are in `recsys.models.MODELS`."""

NEED_FEATURES = frozenset({"lirdrec"})
"""Models that cannot be built without at least one feature table."""


class TrainConfig(BaseModel):
    """How a trainable recommender is fitted; closed-form models ignore it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=200, ge=1)
    """Passes over the train pairs at most; exactly this many where there is no validation split."""
    batch_size: int = Field(default=2048, ge=1)
    """Train pairs per step.

    The whole graph is propagated once per step: with a million pairs on a CPU take 16384 or more.
    """
    learning_rate: float = Field(default=1e-3, gt=0)
    """Adam's step size; LIRDRec's paper uses 1e-4."""
    weight_decay: float = Field(default=0.0, ge=0)
    """L2 inside Adam, on every parameter."""
    patience: int = Field(default=10, ge=1)
    """Stop after this many evaluations in a row without a new best."""
    evaluate_every: int = Field(default=1, ge=1)
    """Epochs between validations; the last epoch is always validated."""
    metric: str = "ndcg@20"
    """What validation maximises: recall, ndcg, mrr or hit at k."""
    checkpoint_every: int = Field(default=1, ge=1)
    """Epochs between checkpoints, where a folder for them is given."""
    seed: int = 0
    """Seed of shuffling and negatives. The start weights have their own, given when the model is built."""

    @field_validator("metric")
    @classmethod
    def _known(cls, value: str) -> str:
        name, _, k = value.partition("@")
        if name not in METRICS or not k.isdigit() or int(k) < 1:
            raise ValueError(
                f"`{value}` is no metric; use one of {', '.join(METRICS)} with @k, such as ndcg@20"
            )
        return value
