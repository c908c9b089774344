"""Scores K candidates in one forward pass: last hidden state times the identifiers' output rows (FIRST)."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from extract.cpu_kernels import is_half
from extract.embed import token_batches
from extract.faults import describe
from extract.inference import loading, refuse_lacking
from rerank.lists import RankingList
from rerank.packing import PackedDecoder
from rerank.passes import Passes
from rerank.prompts import LAYOUTS, EncodedList, PromptEncoder
from rerank.settings import LoraConfig, RerankConfig

logger = logging.getLogger(__name__)


class ListwiseScorer:
    """A causal language model that ranks lists.

    The prompt ends where the answer's first identifier would stand. The score of a candidate is the logit of
    its identifier there; no other logit is computed and nothing is generated. Lists are packed end to end
    after `pack`, else padded on the right, which a causal model does not see: a score does not depend on the
    other lists of its batch.
    """

    def __init__(self, model: Any, encoder: PromptEncoder) -> None:
        self.model, self.encoder = model, encoder
        self._passes: Passes | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        first: Tensor = next(self.model.parameters())
        return first.device

    def pack(self) -> None:
        """Makes the model faster and unfit for training: adapters merged, weights packed, lists end to end.

        A decoder that is not understood, or whose packed states differ from its own, stays as it is.
        """
        if self.packs:
            return
        self.model.eval()
        if hasattr(self.model, "merge_and_unload"):
            self.model = self.model.merge_and_unload()
        vocabulary = self.output_rows().shape[0]
        sample = [
            [(7 * n + 3 * k) % vocabulary for n in range(length)] for k, length in enumerate((5, 40, 17))
        ]
        try:
            with torch.no_grad():
                states, lengths = self.hidden(sample)
                expected = states[torch.arange(len(sample), device=states.device), lengths - 1].float()
                packed = PackedDecoder(self.model.get_decoder())
        except ValueError as error:
            logger.info("lists are padded, not packed: %s", error)
            return
        try:
            with torch.no_grad():
                found = packed.last_states(sample, [None] * len(sample)).float()
            moved = float((found - expected).norm() / expected.norm())
            why = "" if moved < (0.05 if is_half(self.model) else 1e-4) else f"states move by {moved:.1e}"
        except Exception as error:
            # Layers that want more than attention over the pack raise whatever they miss.
            why = describe(error)
        if why:
            logger.warning("lists are padded, not packed: %s", why)
            packed.put_back()
            return
        packed.keep()
        self._passes = Passes(packed)

    @property
    def packs(self) -> bool:
        """Whether lists are packed end to end."""
        return self._passes is not None

    def remembering(self) -> Any:
        """A block inside which beginnings that lists share, once read, stay for further calls."""
        return nullcontext() if self._passes is None else self._passes.remembering()

    def words(self, text: str) -> list[int]:
        """Tokens of one item's text."""
        return self.encoder.item(text)

    def prompt(self, entry: RankingList, words: Mapping[str, list[int]], answer: int = 0) -> EncodedList:
        """The prompt of one list, with an answer of the `answer` best candidates to learn from.

        Args:
            words: item id to the tokens of its text.
        """
        history, candidates = ([words[i] for i in part] for part in (entry.history, entry.candidates))
        shown = self.encoder.encode(history, candidates, entry.query)
        return replace(shown, answer=self.encoder.answer(entry.best_first()[:answer])) if answer else shown

    def learn(self, prompts: Sequence[EncodedList]) -> tuple[Tensor, Tensor, Tensor]:
        """Scores [B, K] and mask [B, K] at the answers' first place, and the answers' language-model loss."""
        states, _ = self.hidden([[*prompt.tokens, *prompt.answer] for prompt in prompts])
        return self.read(states, prompts)

    def read(self, states: Tensor, prompts: Sequence[EncodedList]) -> tuple[Tensor, Tensor, Tensor]:
        """What `learn` gives, from the last hidden states [B, L, D] of prompts and answers."""
        spans = [states[row, len(p.tokens) - 1 : len(p) - 1] for row, p in enumerate(prompts)]
        first = torch.stack([span[0] for span in spans])
        scores, mask = self.identifier_scores(first, [prompt.candidates for prompt in prompts])
        return scores, mask, self._language_loss(spans, [prompt.answer for prompt in prompts])

    def _language_loss(self, spans: Sequence[Tensor], answers: Sequence[Sequence[int]]) -> Tensor:
        """Cross-entropy of the answers' tokens, mean over each, then over answers; projects these only."""
        logits = torch.cat(list(spans)).float() @ self.output_rows().float().T
        targets = torch.tensor([token for answer in answers for token in answer], device=logits.device)
        weight = torch.cat([torch.full((len(a),), 1 / (len(a) * len(answers))) for a in answers])
        return (cross_entropy(logits, targets, reduction="none") * weight.to(logits.device)).sum()

    def hidden(
        self, rows: Sequence[Sequence[int]], beside: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Last hidden states of right-padded `rows`: [B, L, D], and the true lengths [B].

        Args:
            beside: row and place [N, 2] of tokens, and vectors [N, D] that are added to their embeddings.

        Raises:
            RuntimeError: the scorer was packed, and can no longer be trained.
        """
        if self.packs:
            raise RuntimeError("a packed scorer can only score")
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long, device=self.device)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = torch.tensor(row, device=self.device)
        mask = torch.arange(ids.shape[1], device=self.device)[None, :] < lengths[:, None]
        model, shown = causal_model(self.model), {"input_ids": ids}
        if beside is not None:
            (where, added), words = beside, model.get_input_embeddings()(ids)
            places = (where[:, 0], where[:, 1])
            shown = {"inputs_embeds": words.index_put(places, added.to(words.dtype), accumulate=True)}
        decoder = model.get_decoder()
        return decoder(**shown, attention_mask=mask.long(), use_cache=False).last_hidden_state, lengths

    def output_rows(self) -> Tensor:
        """The output embedding, [vocabulary, D]."""
        rows: Tensor = causal_model(self.model).get_output_embeddings().weight
        return rows

    def identifier_scores(self, states: Tensor, candidates: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Scores [B, K] of `states` [B, D] and their mask [B, K], K the longest of `candidates`."""
        width = max(candidates)
        head = causal_model(self.model).get_output_embeddings()
        wanted = self.encoder.identifiers[:width]
        counts = torch.tensor(candidates, device=states.device)
        mask = torch.arange(width, device=states.device)[None, :] < counts[:, None]
        scores = states.float() @ head.weight[wanted].float().T
        if getattr(head, "bias", None) is not None:
            scores = scores + head.bias[wanted].float()
        cap = getattr(causal_model(self.model).config.get_text_config(), "final_logit_softcapping", None)
        return scores if cap is None else cap * torch.tanh(scores / cap), mask

    @torch.no_grad()
    def score(self, lists: Sequence[EncodedList], *, token_budget: int = 8192) -> list[NDArray[np.float32]]:
        """The candidates' scores of each list, float32 [K], comparable within a list."""
        self.model.eval()
        scores: list[NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(lists)
        for batch, last in self._last_states(lists, token_budget):
            table, _ = self.identifier_scores(last, [lists[i].candidates for i in batch])
            for row, place in zip(table.cpu().numpy(), batch, strict=True):
                scores[place] = row[: lists[place].candidates].astype(np.float32)
        return scores

    def _last_states(
        self, lists: Sequence[EncodedList], token_budget: int
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Lists of a batch and their last states [B, D]."""
        if self._passes is not None:
            yield list(range(len(lists))), self._passes.last_states(lists, token_budget)
            return
        for batch in token_batches([len(item.tokens) for item in lists], token_budget):
            states, lengths = self.hidden([lists[i].tokens for i in batch])
            yield batch, states[torch.arange(len(batch), device=states.device), lengths - 1]


def load_scorer(config: RerankConfig, *, max_candidates: int, adapter: Path | None = None) -> ListwiseScorer:
    """Loads the model from a folder or the local cache, and one of our adapters if given."""
    from peft import PeftModel

    tokenizer, model = load_model(config)
    if adapter is not None:
        with _quiet_peft():
            model = PeftModel.from_pretrained(model, adapter)
    encoder = PromptEncoder(
        tokenizer, LAYOUTS[config.prompt], max_candidates=max_candidates, item_tokens=config.item_tokens,
        context=context_of(model),
    )  # fmt: skip
    return ListwiseScorer(model.eval(), encoder)


def load_model(config: RerankConfig) -> tuple[Any, Any]:
    """Tokenizer and causal model from a folder or the local cache; safetensors, no remote code or network.

    Raises:
        MissingPrerequisite: M303, it cannot be loaded; M306, the checkpoint lacks weights.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"revision": config.revision, "local_files_only": True, "trust_remote_code": False}
    name = str(config.model)
    with loading(name, "a causal language model"):
        tokenizer = AutoTokenizer.from_pretrained(name, **where)
        model, found = AutoModelForCausalLM.from_pretrained(
            name,
            dtype=getattr(torch, config.dtype),
            use_safetensors=True,
            output_loading_info=True,
            **where,
        )
        refuse_lacking(name, found["missing_keys"])
    return tokenizer, model


def context_of(model: Any) -> int | None:
    """Tokens the model can read at once; None where its configuration does not say."""
    found: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return found


def with_lora(scorer: ListwiseScorer, config: LoraConfig, *, seed: int) -> ListwiseScorer:
    """The scorer with a fresh adapter on every linear layer of its decoder; only the adapter is trainable."""
    torch.manual_seed(seed)
    return ListwiseScorer(adapted(scorer.model, config), scorer.encoder)


def adapted(model: Any, config: LoraConfig) -> Any:
    """The causal model with a fresh adapter, drawn from torch's global generator."""
    from peft import LoraConfig as PeftLoraConfig
    from peft import get_peft_model

    peft_config = PeftLoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules="all-linear",
        task_type="CAUSAL_LM",
    )  # fmt: skip
    with _quiet_peft():
        return get_peft_model(model, peft_config)


@contextmanager
def _quiet_peft() -> Iterator[None]:
    """peft reads a property that transformers 5 renamed; the warning is theirs and tells our user nothing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        yield


def causal_model(model: Any) -> Any:
    """The causal model inside a peft wrapper or a data-parallel one."""
    inner = getattr(model, "module", model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner
