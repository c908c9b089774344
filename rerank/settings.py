"""What a reranking run can be told, without importing a model."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Loss = Literal["ranknet", "listnet", "lambdarank"]


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
    """Validation lists for early stopping and the fusion weights; at most half where a gate needs others."""
    teacher: str | None = None
    """File of orders, under ``data.root``, to learn in place of held-out choices; null: none."""
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
    average: float = Field(default=0.0, ge=0, lt=1)
    """Decay per step of the running mean of the weights that is validated and kept; 0: the last weights."""
    lora: LoraConfig = LoraConfig()
    """The adapter."""


class InferenceConfig(BaseModel):
    """How trained weights are applied to lists."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    window: int | None = Field(default=None, ge=2)
    """Candidates read at a time; a longer list is read in windows, from its end to its top. None: all."""
    stride: int | None = Field(default=None, ge=1)
    """Places between the beginnings of two windows, at most `window`. None: half of `window`."""
    permutations: int = Field(default=1, ge=1)
    """Orders the candidates are shown in; a candidate's score is the mean over them."""
    max_move: int | None = Field(default=None, ge=0)
    """Places an item may move up or down from where it came in. None: no limit."""
    token_budget: int = Field(default=2048, ge=1)
    """Tokens per forward pass; on a CPU more of them fall out of its caches."""

    @model_validator(mode="after")
    def _windows_overlap_or_touch(self) -> Self:
        if self.stride is not None and self.stride > (self.window or 0):
            raise ValueError("stride needs a window that is at least as long")
        return self


class TokenConfig(BaseModel):
    """Items as soft tokens, and the decoder made fresh where no model is named."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: tuple[str, ...] = ()
    """Modalities whose vectors a soft token is made from; names from ``features``."""
    choices: int = Field(default=64, ge=0)
    """Width of the vectors made from choices (truncated SVD), beside the features; 0: none."""
    width: int = Field(default=64, ge=1)
    """Width of the fresh decoder."""
    feed_forward: int = Field(default=128, ge=1)
    """Width of its feed-forward layers."""
    layers: int = Field(default=2, ge=1)
    """Its layers."""
    heads: int = Field(default=4, ge=1)
    """Its attention heads; must divide `width`."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout on soft tokens and on the states scores are read from."""


class LambdaMartConfig(BaseModel):
    """LambdaMART beside the reranker: the same lists, the same numbers, tuned on the validation lists."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    leaves: tuple[int, ...] = (15, 31, 63)
    """Leaves per tree; each is tried, the best validation NDCG@20 is kept."""
    min_leaf: tuple[int, ...] = (50, 200)
    """Candidates per leaf at least; each is tried."""
    learning_rate: float = Field(default=0.1, gt=0)
    """Shrinkage of each tree."""
    trees: int = Field(default=500, ge=1)
    """Trees at most; it stops after 30 without a better validation NDCG@20."""


class GateConfig(BaseModel):
    """Where reordered lists are used: in groups of users in which held-out lists say that they are better."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    groups: Literal["activity", "given"] | None = "activity"
    """Groups told apart: thirds by number of choices, or ``evaluate.given``; null: all users alike."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Confidence that no group gets a worse list, over all groups and ways of ordering together."""
    k: int = Field(default=20, ge=1)
    """Cut-off of the NDCG that decides."""
    lists: int = Field(default=5000, ge=1)
    """Validation lists that decide at most; they are not among those that training or tuning saw."""
    least_lists: int = Field(default=50, ge=2)
    """A group with fewer of them keeps the retrieved order."""
    parts: int = Field(default=300, ge=0)
    """Of them, how many are read again by candidate, and with knowledge of others, for `gain_parts.json`."""


class GuardConfig(BaseModel):
    """Which words of an item's fields the model is shown, by what the catalogue's items hold."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    least_items: int = Field(default=2, ge=2)
    """Items that must have a word in the same field, or it is left out; more than one seller can list."""


class RerankConfig(BaseModel):
    """A listwise LLM reranker after FIRST (Reddy et al., EMNLP 2024), for recommendation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = None
    """Folder or hub name of a causal language model; null, for form ``token`` only: a fresh small decoder."""
    revision: str | None = None
    """Commit of the hub model."""
    form: Literal["text", "token", "hybrid"] = "text"
    """How an item is shown: its words; a soft token of vectors, scores and ranks; or words beside it."""
    prompt: str = "recommend"
    """Name of the prompt layout, see `rerank.prompts.LAYOUTS`."""
    item: str = "{title}"
    """Template of an item's text; slots {title}, {text}, {caption}, {attributes.NAME}."""
    history: int = Field(default=10, ge=0)
    """Items of a person's history that are shown: the latest, or a seeded sample where there is no order."""
    item_tokens: int = Field(default=32, ge=1)
    """An item's text is cut to this many tokens."""
    guard: GuardConfig | None = None
    """Limits against texts that are written to be ranked first; null: none but cleaning and `item_tokens`."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the weights."""
    token: TokenConfig = TokenConfig()
    """Soft tokens, for the forms ``token`` and ``hybrid``."""
    inference: InferenceConfig = InferenceConfig()
    """How lists are read."""
    lambdamart: LambdaMartConfig | None = None
    """LambdaMART as one more list to compare with; null: none. Needs the extra ``lambdamart``."""
    gate: GateConfig | None = GateConfig()
    """Where lists are reordered at all, decided on held-out lists; null: no such list is written."""
    finetune: FineTuneConfig = FineTuneConfig()
    """Training."""
