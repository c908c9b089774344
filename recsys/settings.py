"""How a trainable recommender is fitted, as settings that import no model library."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator

from recsys.metrics import METRICS


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
