"""What a reranking run can be told, without importing a model."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Loss = Literal["ranknet", "listnet", "listmle", "lambdarank", "approx_ndcg", "policy_gradient"]


class LoraConfig(BaseModel):
    """Low-rank adaptation of every linear layer of the decoder (Hu et al. 2022)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = Field(default=16, ge=1)
    """Rank of each update."""
    alpha: float = Field(default=32.0, gt=0)
    """Scale: the update is multiplied by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before the update."""


class FineTuneConfig(BaseModel):
    """How the reranker is fine-tuned on out-of-fold candidate lists."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folds: int = Field(default=2, ge=1)
    """Folds the training interactions are cut into; without timestamps at least 2."""
    folds_used: int | None = Field(default=None, ge=1)
    """How many of the folds give lists; each costs one retriever fit. None: all."""
    max_lists: int | None = Field(default=None, ge=1)
    """Upper bound on training lists, drawn with the seed. None: all that contain a truth."""
    validation_lists: int = Field(default=500, ge=1)
    """Validation lists scored for early stopping and for the fusion weights."""
    loss: Loss = "ranknet"
    """Ranking loss on the scores, by `rerank.losses.LOSSES`; `ranknet` is FIRST's weighted RankNet."""
    rank_weight: float = Field(default=10.0, ge=0)
    """Weight of the ranking loss beside the language-model loss (FIRST: 10 for weighted RankNet)."""
    answer_length: int = Field(default=3, ge=1)
    """Identifiers in the answer the language-model loss is taken on."""
    epochs: int = Field(default=3, ge=1)
    """Passes over the lists."""
    batch_size: int = Field(default=16, ge=1)
    """Lists per optimizer step."""
    token_budget: int = Field(default=8192, ge=1)
    """Padded tokens per forward pass; a step is cut into as many passes as it needs."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak learning rate, reached after `warmup` and then lowered along a cosine."""
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps the learning rate rises."""
    patience: int = Field(default=2, ge=1)
    """Evaluations without a better validation NDCG@10 before it stops; there are two an epoch."""
    lora: LoraConfig = LoraConfig()
    """The adapter."""


class RerankConfig(BaseModel):
    """A listwise LLM reranker after FIRST (Reddy et al., EMNLP 2024), for recommendation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    """Folder or hub name of a causal language model."""
    revision: str | None = None
    """Commit of the hub model."""
    prompt: str = "recommend"
    """Name of the prompt layout, see `rerank.prompts.LAYOUTS`."""
    item: str = "{title}"
    """Template of an item's text; slots {title}, {text}, {caption}, {attributes.NAME}."""
    history: int = Field(default=10, ge=0)
    """Items of a person's history that are shown: the latest, or a seeded sample where there is no order."""
    item_tokens: int = Field(default=32, ge=1)
    """An item's text is cut to this many tokens."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the weights."""
    finetune: FineTuneConfig = FineTuneConfig()
    """Training."""
