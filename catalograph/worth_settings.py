"""The settings of `catalograph worth`, apart from its work, which needs torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class WorthConfig(BaseModel):
    """How it is tried whether captions are worth their price; it decides no result of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    items: int = Field(default=2000, ge=50)
    """Items of the sample: a third each of popular, middle and rare ones, as far as there are so many."""
    retriever: str | None = None
    """The retriever that is trained; null: the first that reads a feature with captions."""
    seeds: int = Field(default=3, ge=2)
    """Trainings of each kind, each with other start weights and other controls."""
    cold_share: float = Field(default=0.2, ge=0, lt=1)
    """Share of the sampled items, drawn at random, that nobody has chosen yet when the model learns."""
    least_gain: float = Field(default=0.05, gt=0)
    """Smallest relative gain that would be worth the price; below it the answer is no."""
    seed: int = Field(default=0, ge=0)
    """Seed of the sample, of the cold items and of the first training."""
