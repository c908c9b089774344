"""Settings of the recommenders and of their training.

They live apart from the models, against the habit of one file per method, because a configuration is checked
without importing torch. Those of the models that read features are in `recsys.feature_settings`.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator

from recsys.feature_settings import FEATURE_SETTINGS
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
    denoise: float = Field(default=0.0, ge=0, lt=1)
    """Share of choices a denoising autoencoder drops: more ridge for popular items; try 0.3. 0: off."""
    user_power: float = Field(default=0.0, ge=0, le=2)
    """A user of n choices weighs n to minus this power in the error, so that few heavy users do not decide;
    try 0.5. 0: all weigh alike.
    """


class SparseEaseConfig(BaseModel):
    """Settings of sparse EASE."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    l2: float = Field(default=300.0, gt=0)
    """Lambda, as in EASE."""
    neighbours: int = Field(default=100, ge=1)
    """Items behind each item, k; one less than all items makes it EASE."""


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


class BPRMFConfig(BaseModel):
    """Settings of BPR-MF."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    embedding_size: int = Field(default=64, ge=1)
    """Width D of the embeddings; an item has one number more, its bias."""
    reg: float = Field(default=1e-3, ge=0)
    """Weight of the squared L2 term on the embeddings and biases of the batch."""
    init_std: float = Field(default=0.1, gt=0)
    """Standard deviation of the normal start values; biases start at 0."""


class ALSConfig(BaseModel):
    """Settings of implicit ALS."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    embedding_size: int = Field(default=64, ge=1)
    """Width D of the embeddings."""
    iterations: int = Field(default=15, ge=1)
    """Rounds of solving all users and then all items."""
    alpha0: float = Field(default=0.1, gt=0)
    """Weight of every pair, a choice weighing 1 more; search it from 0.003 to 1."""
    l2: float = Field(default=3e-3, gt=0)
    """Lambda of the ridge; search it on a logarithmic scale, 1e-4 to 1e-1 with `nu` 1."""
    nu: float = Field(default=1.0, ge=0, le=1)
    """How the ridge grows with the number of choices: 0 not at all, 1 in proportion."""
    init_std: float = Field(default=0.1, gt=0)
    """Deviation of the start values of the items, times the root of D."""


SETTINGS: dict[str, type[BaseModel]] = {
    "popularity": PopularityConfig,
    "item_knn": ItemKNNConfig,
    "ease": EaseConfig,
    "sparse_ease": SparseEaseConfig,
    "lightgcn": LightGCNConfig,
    "als": ALSConfig,
    "bpr_mf": BPRMFConfig,
    **FEATURE_SETTINGS,
}
"""Settings by the name of the model; the models themselves are in `recsys.models.MODELS`."""

NEED_FEATURES = frozenset(FEATURE_SETTINGS) - {"graph_filter"}
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
    parts: int = Field(default=1, ge=1)
    """Parts of a batch, each with its loss and its propagation; processes of `torchrun` share them."""
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
