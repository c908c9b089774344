"""The words around a list: what stands before, between and behind the items of a listwise prompt."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Layout:
    """The words around the items; they go through the tokenizer's chat template if it has one.

    `opening` and `closing` may hold the slots {query} and {num}, the number of candidates.
    """

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
    item_blank: bool = False
    """Whether the blank between `]` and a candidate's text is tokenised with the text, as in a running text;
    else it is a token of its own."""
    most_words: int | None = None
    """An item's text is cut to this many words between blanks, before it is cut in tokens."""
    system_joint: str = "\n"
    """Between the system line and the rest where the chat template has no system turn."""

    @property
    def for_search(self) -> bool:
        """Whether candidates are ranked for a query instead of a history."""
        return "{query}" in self.opening + self.closing


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
    # What published checkpoints were trained on, word for word: FIRST (Reddy et al. 2024) with its typing
    # error, and RankLLM's wording for the checkpoints of its reproduction.
    "first": Layout(
        version="1",
        system="You are RankLLM, an intelligent assistant that can rank passages based on their relevancy to "
        "the query",
        opening="I will provide you with {num} passages, each indicated by a alphabetical identifier []. "
        "Rank the passages based on their relevance to the search query: {query}.\n",
        history_item="", between="", empty_history="",
        closing="\nSearch Query: {query}.\nRank the {num} passages above based on their relevance to the "
        "search query. All the passages should be included and listed using identifiers, in descending order "
        "of relevance. The output format should be [] > [], e.g., [D] > [B], Only respond with the ranking "
        "results, do not say any word or explain.",
        item_blank=True, most_words=300, system_joint="\n ",
    ),
    "rankllm": Layout(
        version="1",
        system="You are RankLLM, an intelligent assistant that can rank passages based on their relevancy to "
        "the query",
        opening="I will provide you with {num} passages, each indicated by an alphabetical identifier []. "
        "Rank the passages based on their relevance to the search query: {query}.",
        history_item="", between="", empty_history="",
        closing="\nSearch Query: {query}.\nRank the {num} passages above based on their relevance to the "
        "search query. All the passages should be included and listed using identifiers, in descending order "
        "of relevance. The output format should be [] > [], e.g., [B] > [A], Answer concisely and directly "
        "and only respond with the ranking results, do not say any word or explain.",
        item_blank=True, most_words=300, system_joint="\n ",
    ),
}  # fmt: skip
