"""The benchmark of arbitrary texts, small; and published prompts are the tokenizer's own cut of the text."""

import importlib.util
from itertools import groupby
from pathlib import Path

import pytest

import rerank.prompts
from rerank.layouts import LAYOUTS
from rerank.prompts import PromptEncoder, clean, forbidden_tokens, item_words, single_token_identifiers

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "any_text.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("any_text", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tokenizers(benchmark):
    return {family: benchmark.tokenizer_of(family) for family in benchmark.SPECIAL}


def test_no_text_brings_a_control_token_into_a_prompt_and_every_list_stays_whole(benchmark):
    found = benchmark.measure(120, seed=3)
    assert (found["problems"], found["not_permutations"]) == (0, 0), found["first_problems"]


def test_the_benchmark_sees_tokens_that_only_some_tokenizers_call_special(benchmark, tokenizers, monkeypatch):
    qwen = tokenizers["qwen"]
    control = forbidden_tokens(qwen)
    assert qwen.convert_tokens_to_ids("<think>") in control
    monkeypatch.setattr(rerank.prompts, "forbidden_tokens", lambda tokenizer: frozenset())
    parsed = item_words(qwen, "a <think> b", 50)
    assert set(parsed) & control
    monkeypatch.undo()
    assert not set(item_words(qwen, "a <think> b", 50)) & control


@pytest.mark.parametrize("family", ["llama", "qwen", "mistral", "gemma"])
@pytest.mark.parametrize("layout", ["first", "rankllm"])
def test_a_published_prompt_is_cut_as_the_tokenizer_cuts_the_whole_text(tokenizers, family, layout):
    tokenizer, words = tokenizers[family], LAYOUTS[layout]
    encoder = PromptEncoder(tokenizer, words, max_candidates=20, item_tokens=400)
    passages, query = (
        ["A flea can live up to a year.", "The life cycle of a flea, 20 days"],
        "how long is life",
    )
    prompt = encoder.encode([], [encoder.item(text) for text in passages], query)
    user = words.opening.format(num=2, query=query) if "{num}" in words.opening else ""
    user += "".join(f"\n[{letter}] {text}" for letter, text in zip("AB", passages, strict=True))
    user += words.closing.format(num=2, query=query)
    turns = [{"role": "system", "content": words.system}, {"role": "user", "content": user}]
    if family in ("mistral", "gemma"):
        turns = [{"role": "user", "content": f"{words.system}\n {user}"}]
    options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
    text = tokenizer.apply_chat_template(turns, **options) + "["
    assert tokenizer.decode(prompt.tokens) == tokenizer.decode(
        tokenizer(text, add_special_tokens=False)["input_ids"]
    )
    if family != "gemma":  # It has a token for two line breaks, which stand in two pieces of ours.
        assert prompt.tokens == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_an_identifier_is_the_token_that_follows_a_bracket(tokenizers):
    for tokenizer in tokenizers.values():
        first, second = single_token_identifiers(tokenizer, 2)
        written = tokenizer("[A] > [B]", add_special_tokens=False)["input_ids"]
        assert first in written
        assert second in written


def test_brackets_of_other_widths_are_made_round():
    import sys
    import unicodedata

    odd = [c for c in map(chr, range(sys.maxunicode)) if set("[]") & set(unicodedata.normalize("NFKC", c))]
    assert set("[]\uff3b\ufe48") < set(odd)
    assert not set("[]") & set(unicodedata.normalize("NFKC", clean("".join(odd))))


def test_a_prompt_that_is_too_long_loses_old_history_and_then_ends_of_texts_but_no_candidate(tokenizers):
    tokenizer = tokenizers["llama"]
    old, new, word = map(tokenizer.convert_tokens_to_ids, "~^|")

    def encoded(context):
        encoder = PromptEncoder(tokenizer, LAYOUTS["recommend"], max_candidates=4, item_tokens=40,
                                context=context)  # fmt: skip
        return encoder.encode([[old], [new]], [[word] * n for n in (1, 3, 9, 30)])

    def counts(prompt):
        return [prompt.tokens.count(token) for token in (old, new, word)]

    whole = encoded(None)
    assert encoded(len(whole)).tokens == whole.tokens
    assert counts(whole) == [1, 1, 43]
    assert counts(encoded(len(whole) - 1)) == [0, 1, 43]
    tight = encoded(len(whole) - 30)
    assert len(tight) <= len(whole) - 30
    assert counts(tight)[:2] == [0, 0]
    kept = [len(list(run)) for token, run in groupby(tight.tokens) if token == word]
    assert kept[:2] == [1, 3]
    assert kept[2] == kept[3] < 9
    with pytest.raises(rerank.prompts.InvalidData, match="longer than the model's context"):
        encoded(60)
