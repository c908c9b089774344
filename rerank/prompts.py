"""The listwise prompt: a history or a query and K candidates as token ids, one identifier token each.

Every piece of the prompt is tokenised once and the prompt is the concatenation of the pieces, so no text can
be read as an identifier or as a special token, whatever it says, and the same item is the same tokens
everywhere.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from extract.errors import InvalidData, MissingPrerequisite
from extract.faults import describe
from extract.prompts import control_tokens, plain
from rerank.layouts import LAYOUTS, Layout

__all__ = ["LAYOUTS", "EncodedList", "Layout", "PromptEncoder", "clean", "item_words"]

_BODY = "\u241e"
_BRACKETS = str.maketrans("[]\uff3b\uff3d\ufe47\ufe48", "()()()")
"""Square brackets and the characters that a tokenizer's normaliser (NFKC) makes square brackets of."""

MOST_CANDIDATES = len(string.ascii_letters)
"""Candidates of a list that can be told apart: one letter each. A tokenizer may have fewer."""

MOST_QUERY_TOKENS = 512
"""A query is cut to this many tokens."""


def clean(text: str) -> str:
    """Item text as data: one line, no control or invisible characters, square brackets made round."""
    return plain(text.translate(_BRACKETS))


def item_words(tokenizer: Any, text: str, most: int, *, lead: str = "") -> list[int]:
    """Tokens of one item's text as data: cleaned, at most `most`, and none of them a control token.

    A special token is data only by its characters. Added tokens in brackets (`<think>`, `<tool_call>`) are
    control tokens too, though many tokenizers do not mark them special; they are left out.

    Args:
        lead: a blank that is tokenised with the text, where the tokens follow others.
    """
    cleaned = clean(text)
    if not cleaned:
        return []
    ids = _continued(tokenizer, lead + cleaned)
    forbidden = forbidden_tokens(tokenizer)
    return [token for token in ids if token not in forbidden][:most]


@lru_cache(maxsize=16)
def forbidden_tokens(tokenizer: Any) -> frozenset[int]:
    """Ids that no item's text may bring into a prompt: special tokens, and added ones in brackets."""
    control = control_tokens(tokenizer)
    added = getattr(tokenizer, "added_tokens_decoder", {})
    found = {number for number, token in added.items() if control.fullmatch(str(token))}
    return frozenset(found | set(tokenizer.all_special_ids))


def _continued(tokenizer: Any, text: str, *, split: bool = True) -> list[int]:
    """Tokens of a text as it stands behind other text: without the blank some tokenizers put before a first
    word. Special tokens in it are read as such only if not `split`.
    """
    for anchor in ("\n", "]", ":"):
        before = _encoded(tokenizer, anchor, split=split)
        whole = _encoded(tokenizer, anchor + text, split=split)
        if whole[: len(before)] == before:
            return whole[len(before) :]
    # The text's beginning melts into whatever stands before it.
    return _encoded(tokenizer, text, split=split)


@dataclass(frozen=True, slots=True)
class EncodedList:
    """One prompt.

    Attributes:
        tokens: L prompt ids; the next token is the first identifier of the answer.
        candidates: K, how many identifiers are in use.
        answer: tokens to learn to answer with; none when scoring.
        shared: how many tokens at the beginning other lists of the same person or query have too.
        starts: where the words of each item begin: of the history, as it is shown, then of the candidates.
    """

    tokens: list[int]
    candidates: int
    answer: Sequence[int] = ()
    shared: int = 0
    starts: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.tokens) + len(self.answer)


class PromptEncoder:
    """Builds prompts for one tokenizer and one layout.

    Args:
        tokenizer: a transformers tokenizer.
        layout: the words around the items.
        max_candidates: identifiers to find; letters that the tokenizer writes as exactly one token each.
        item_tokens: an item's text is cut to this many tokens.
        context: tokens a prompt may have; None: no limit. A longer one loses the oldest history, then the
            ends of its longest candidates' texts, never a candidate.
    """

    def __init__(
        self, tokenizer: Any, layout: Layout, *, max_candidates: int, item_tokens: int,
        context: int | None = None,
    ) -> None:  # fmt: skip
        self.tokenizer, self.layout, self.context = tokenizer, layout, context
        self.identifiers = single_token_identifiers(tokenizer, max_candidates)
        self.item_tokens = item_tokens
        encode = self._encode
        before, after = _chat_frame(tokenizer, layout)
        # A blank at the end of the frame is tokenised with the word behind it.
        self._before = _encoded(tokenizer, before.rstrip(" "))
        self._lead = before[len(before.rstrip(" ")) :]
        self._history_item, self._empty = encode(layout.history_item), encode(layout.empty_history)
        self._between = encode(layout.between)
        behind = layout.identifier_last
        opened = " [" if behind else "["
        self._open = encode(opened)
        self._ending = _continued(tokenizer, after + opened, split=False)
        self._close = encode("]" if behind or layout.item_blank else "] ")
        self._newline, self._next = encode("\n"), encode("] > [")
        self._end = encode("]") + ([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else [])
        self._framed: dict[tuple[str, int, str], list[int]] = {}

    def item(self, text: str) -> list[int]:
        """Tokens of one item's text, cleaned, at most `item_tokens`."""
        if self.layout.most_words is not None:
            text = " ".join(text.split()[: self.layout.most_words])
        return item_words(self.tokenizer, text, self.item_tokens, lead=" " if self.layout.item_blank else "")

    def encode(
        self, history: Sequence[list[int]], candidates: Sequence[list[int]], query: str = ""
    ) -> EncodedList:
        """The prompt for one list: H items, oldest first, and K candidates, as tokens from `item`.

        Args:
            query: what is searched for, where the layout has a place for it.

        Raises:
            InvalidData: R301, more candidates than identifiers; R306, even without the items' texts the
                prompt is longer than the context.
        """
        if len(candidates) > len(self.identifiers):
            raise InvalidData(
                "R301",
                f"a list has {len(candidates)} candidates but there are {len(self.identifiers)} identifiers",
                next_step="lower candidates.k or rerank.inference.window",
            )  # fmt: skip
        opening = self._before + self._words_with(self._lead + self.layout.opening, len(candidates), query)
        closing = self._words_with(self.layout.closing, len(candidates), query) + self._ending
        if self.context is not None:
            history, candidates = self._fitted(history, candidates, len(opening) + len(closing))
        tokens, starts = list(opening), []
        for item in reversed(history) if self.layout.newest_first else history:
            tokens += self._history_item
            starts.append(len(tokens))
            tokens += item
        if not history:
            tokens += self._empty
        tokens += self._between
        shared = len(tokens)
        for identifier, item in zip(self.identifiers, candidates, strict=False):
            mark = [*self._open, identifier, *self._close]
            before, behind = ([], mark) if self.layout.identifier_last else (mark, [])
            tokens += self._newline + before
            starts.append(len(tokens))
            tokens += item + behind
        return EncodedList(tokens + closing, len(candidates), shared=shared, starts=starts)

    def _fitted(
        self, history: Sequence[list[int]], candidates: Sequence[list[int]], frame: int
    ) -> tuple[Sequence[list[int]], Sequence[list[int]]]:
        """What fits into the context beside `frame` tokens: the latest history, and shortened candidates."""
        mark = len(self._newline) + len(self._open) + 1 + len(self._close)
        room = (self.context or 0) - frame - len(self._between) - len(candidates) * mark
        wanted = sum(map(len, candidates))
        kept = list(history)
        while kept and sum(len(self._history_item) + len(item) for item in kept) + wanted > room:
            kept = kept[1:]
        room -= sum(len(self._history_item) + len(item) for item in kept) if kept else len(self._empty)
        if room < 0:
            raise InvalidData(
                "R306", f"a list of {len(candidates)} candidates is longer than the model's context",
                why=f"the context has {self.context} tokens, {-room} too few for the words around the items",
                next_step="lower candidates.k or rerank.inference.window",
            )  # fmt: skip
        if wanted <= room:
            return kept, candidates
        # The longest texts lose their ends first, down to one length for all of them.
        most = next(
            m for m in range(max(map(len, candidates)), -1, -1)
            if sum(min(len(item), m) for item in candidates) <= room
        )  # fmt: skip
        return kept, [item[:most] for item in candidates]

    def candidates_start(self, tokens: Sequence[int]) -> int:
        """Where the candidates of a prompt begin."""
        between = self._between
        last = max(i for i in range(len(tokens)) if list(tokens[i : i + len(between)]) == between)
        return last + len(between)

    def answer(self, order: Sequence[int]) -> list[int]:
        """Tokens of the answer `A] > [B] > [C]` and the end token, for candidate places in `order`."""
        tokens: list[int] = []
        for place in order:
            tokens += self._next if tokens else []
            tokens.append(self.identifiers[place])
        return tokens + self._end

    def _words_with(self, words: str, count: int, query: str) -> list[int]:
        """Tokens of the layout's words with their slots filled; the query is data, like an item's text."""
        key = (words, count, query)
        if key not in self._framed:
            if len(self._framed) > 4096:
                self._framed.clear()
            tokens: list[int] = []
            for piece in re.split(r"( ?\{query\})", words.replace("{num}", str(count))):
                if piece.endswith("{query}"):
                    lead = piece.removesuffix("{query}")
                    tokens += item_words(self.tokenizer, query, MOST_QUERY_TOKENS, lead=lead)
                elif piece:
                    tokens += self._encode(piece)
            self._framed[key] = tokens
        return self._framed[key]

    def _encode(self, text: str) -> list[int]:
        return _continued(self.tokenizer, text) if text else []


def single_token_identifiers(tokenizer: Any, count: int) -> list[int]:
    """Token ids of the first `count` letters A to Z, a to z that the tokenizer writes as one token each.

    The tokenizer is asked for the letter behind other text: there some write another token than for a letter
    that stands alone.
    """
    found: list[int] = []
    for letter in string.ascii_letters[26:] + string.ascii_letters[:26]:
        ids = _continued(tokenizer, letter)
        if len(ids) == 1 and ids[0] not in found and tokenizer.decode(ids).strip() == letter:
            found.append(ids[0])
        if len(found) == count:
            return found
    raise InvalidData(
        "R302", f"the tokenizer has {len(found)} one-letter tokens and {count} candidates need one each",
        next_step="lower candidates.k",
    )  # fmt: skip


def _encoded(tokenizer: Any, text: str, *, split: bool = False) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=split)["input_ids"]
    return ids


def _chat_frame(tokenizer: Any, layout: Layout) -> tuple[str, str]:
    """What stands before and after the user's words: the chat template's frame, or the system line alone."""
    if not getattr(tokenizer, "chat_template", None):
        return (tokenizer.bos_token or "") + (f"{layout.system}\n" if layout.system else ""), "\n"
    system, user = {"role": "system", "content": layout.system}, {"role": "user", "content": _BODY}
    merged = {"role": "user", "content": f"{layout.system}{layout.system_joint}{_BODY}"}
    # A model that thinks first would put its thoughts where the identifier is read.
    options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
    try:
        framed = tokenizer.apply_chat_template([system, user], **options)
    except Exception:
        # Templates that refuse a system turn raise jinja2's TemplateError through several wrappers.
        framed = ""
    if layout.system not in framed or _BODY not in framed:
        try:
            framed = tokenizer.apply_chat_template([merged], **options)
        except Exception as error:
            # The sandbox's refusal of a template that reaches for more than text is among them.
            what = "the model's chat template cannot be filled in"
            raise MissingPrerequisite("M303", what, why=describe(error)) from error
    before, _, after = framed.partition(_BODY)
    return before, after
