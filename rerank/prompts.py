"""The listwise prompt: a history and K candidates as token ids, one identifier token per candidate.

Every piece of the prompt is tokenised once and the prompt is the concatenation of the pieces, so no text can
be read as an identifier or as a special token, whatever it says, and the same item is the same tokens
everywhere.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from extract.errors import InvalidData
from extract.prompts import plain

_BODY = "\u241e"

MOST_CANDIDATES = len(string.ascii_letters)
"""Candidates of a list that can be told apart: one letter each. A tokenizer may have fewer."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The words around the items; they go through the tokenizer's chat template if it has one."""

    version: str
    system: str
    opening: str
    history_item: str
    between: str
    closing: str
    empty_history: str
    identifier_last: bool = False
    """Whether a candidate's identifier stands behind its text. In front (FIRST) it names what follows;
    behind, a causal model has read the text by then, which is one hop less for a model of few layers."""
    newest_first: bool = False
    """Whether the history starts with what was chosen last. A causal model knows how far a word stands from
    the beginning, not from an end that it has not read yet: newest first, every word of the history knows its
    own age."""


LAYOUTS = {
    "recommend": Layout(
        version="1",
        system="You rank products for a person by what the person chose before.",
        opening="The person chose, oldest first:",
        history_item="\n- ",
        between="\n\nCandidates, in no order:",
        closing="\n\nRank the candidates by how likely the person chooses them next, most likely first. "
        "Answer with identifiers only, such as [B] > [A].",
        empty_history="\n- nothing yet",
    ),
    "compact": Layout(
        version="2", system="", opening="chose:", history_item="\n", between="\nrank:", closing="\nbest:",
        empty_history="\nnothing", identifier_last=True, newest_first=True,
    ),
}  # fmt: skip


def clean(text: str) -> str:
    """Item text as data: one line, no control or invisible characters, square brackets made round."""
    return plain(text.replace("[", "(").replace("]", ")"))


def item_words(tokenizer: Any, text: str, most: int) -> list[int]:
    """Tokens of one item's text as data: cleaned, at most `most`, and none of them special."""
    ids: list[int] = tokenizer(
        clean(text), add_special_tokens=False, split_special_tokens=True, truncation=True, max_length=most
    )["input_ids"]
    return ids


@dataclass(frozen=True, slots=True)
class EncodedList:
    """One prompt.

    Attributes:
        tokens: L prompt ids; the next token is the first identifier of the answer.
        candidates: K, how many identifiers are in use.
        answer: tokens to learn to answer with; none when scoring.
    """

    tokens: list[int]
    candidates: int
    answer: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.tokens) + len(self.answer)


class PromptEncoder:
    """Builds prompts for one tokenizer and one layout.

    Args:
        tokenizer: a transformers tokenizer.
        layout: the words around the items.
        max_candidates: identifiers to find; letters that the tokenizer writes as exactly one token each.
        item_tokens: an item's text is cut to this many tokens.
    """

    def __init__(self, tokenizer: Any, layout: Layout, *, max_candidates: int, item_tokens: int) -> None:
        self.tokenizer, self.layout = tokenizer, layout
        self.identifiers = single_token_identifiers(tokenizer, max_candidates)
        self.item_tokens = item_tokens
        opening, ending = _chat_frame(tokenizer, layout)
        encode = self._encode
        self._opening = opening + encode(layout.opening)
        self._history_item, self._empty = encode(layout.history_item), encode(layout.empty_history)
        self._between, self._closing = encode(layout.between), encode(layout.closing) + ending
        self._open, self._close, self._newline = (
            encode(" [" if layout.identifier_last else "["),
            encode("]" if layout.identifier_last else "] "),
            encode("\n"),
        )
        self._next = encode("] > [")
        self._end = encode("]") + ([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else [])

    def item(self, text: str) -> list[int]:
        """Tokens of one item's text, cleaned, at most `item_tokens`."""
        return item_words(self.tokenizer, text, self.item_tokens)

    def encode(self, history: Sequence[list[int]], candidates: Sequence[list[int]]) -> EncodedList:
        """The prompt for one list: H items, oldest first, and K candidates, as tokens from `item`."""
        if len(candidates) > len(self.identifiers):
            raise InvalidData(
                "R301",
                f"a list has {len(candidates)} candidates but there are {len(self.identifiers)} identifiers",
                next_step="lower candidates.k",
            )  # fmt: skip
        tokens = list(self._opening)
        for item in reversed(history) if self.layout.newest_first else history:
            tokens += self._history_item + item
        if not history:
            tokens += self._empty
        tokens += self._between
        for identifier, item in zip(self.identifiers, candidates, strict=False):
            mark = [*self._open, identifier, *self._close]
            tokens += self._newline + ((item + mark) if self.layout.identifier_last else (mark + item))
        tokens += self._closing + self._open
        return EncodedList(tokens, len(candidates))

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

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def single_token_identifiers(tokenizer: Any, count: int) -> list[int]:
    """Token ids of the first `count` letters A to Z, a to z that the tokenizer writes as one token each."""
    found: list[int] = []
    for letter in string.ascii_letters[26:] + string.ascii_letters[:26]:
        ids = tokenizer(letter, add_special_tokens=False)["input_ids"]
        if len(ids) == 1 and ids[0] not in found and tokenizer.decode(ids).strip() == letter:
            found.append(ids[0])
        if len(found) == count:
            return found
    raise InvalidData(
        "R302", f"the tokenizer has {len(found)} one-letter tokens and {count} candidates need one each",
        next_step="lower candidates.k",
    )  # fmt: skip


def _chat_frame(tokenizer: Any, layout: Layout) -> tuple[list[int], list[int]]:
    """What stands before and after the user's words: the chat template's frame, or the system line alone."""

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    if not getattr(tokenizer, "chat_template", None):
        start = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
        return start + encode(f"{layout.system}\n" if layout.system else ""), encode("\n")
    messages = [{"role": "system", "content": layout.system}, {"role": "user", "content": _BODY}]
    try:
        framed = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception:
        # Templates that refuse a system turn raise jinja2's TemplateError through several wrappers.
        messages = [{"role": "user", "content": f"{layout.system}\n{_BODY}"}]
        framed = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    before, _, after = framed.partition(_BODY)
    return encode(before), encode(after)
