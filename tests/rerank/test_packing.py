"""Lists laid end to end score as a plain forward scores them; what cannot be packed is padded."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from extract.cpu_kernels import suits
from extract.decoder_kernels import fewer_passes
from rerank.passes import LEAST_SHARED, packs
from rerank.prompts import EncodedList
from rerank.scorer import with_lora
from rerank.settings import LoraConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import lists_per_second
import same_order

sys.path.pop(0)


@pytest.mark.parametrize("family", same_order.FAMILIES)
def test_every_family_scores_as_transformers_does_in_every_batch_window_and_cache_path(family):
    rows = list(same_order.compare(family, 1, 4))
    assert {way for way, _, _ in rows} >= {"padded", "packed 1", "three orders 300", "windows", "is packed"}
    assert [way for way, difference, same in rows if not same or difference > same_order.TIE] == []


def test_the_comparison_sees_a_model_that_forgets_what_stands_before_its_list(monkeypatch):
    import rerank.packing

    def forgetful(rows, beginnings):
        return rerank.packing.Pack([0, *np.cumsum([len(row) for row in rows])], [None] * len(rows))

    monkeypatch.setattr(rerank.packing, "_pack", forgetful)
    wrong = {way for way, gap, same in same_order.compare("llama", 1, 3) if not same or gap > same_order.TIE}
    assert "three orders 2048" in wrong


def test_packs_cover_every_row_within_the_budget():
    lengths = [5, 50, 7, 7, 120, 30]
    found = list(packs(lengths, 60))
    assert found == [[4], [1], [5, 2, 3, 0]]


def encoded(tokens, shared):
    return EncodedList(list(tokens), 3, shared=shared)


def test_a_beginning_is_read_once_for_all_lists_that_have_it_and_again_only_if_it_was_not_remembered(scorer):
    scorer.pack()
    reads = []
    decoder = scorer._passes._decoder
    original = decoder.beginnings
    decoder.beginnings = lambda rows, before: reads.extend(rows) or original(rows, before)
    mine, other = tuple(range(40, 40 + LEAST_SHARED)), tuple(range(80, 80 + LEAST_SHARED))
    lists = [encoded((*mine, 5, 6), LEAST_SHARED), encoded((*mine, 7), LEAST_SHARED)]
    lists.append(encoded((*other, 8, 9), LEAST_SHARED))
    apart = scorer.score(lists)
    assert reads == [mine]
    with scorer.remembering():
        first, second = scorer.score(lists), scorer.score(lists)
    assert sorted(reads) == sorted([mine, mine, other])
    for a, b, c in zip(apart, first, second, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
        np.testing.assert_array_equal(b, c)


def test_packing_merges_an_adapter(scorer):
    lists = [encoded(range(40, 60), 0), encoded(range(70, 77), 0)]
    adapted = with_lora(scorer, LoraConfig(rank=4), seed=1)
    with torch.no_grad():
        for name, weight in adapted.model.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    before = adapted.score(lists)
    adapted.pack()
    assert adapted.packs
    assert not any("lora" in name for name, _ in adapted.model.named_parameters())
    adapted.pack()
    for a, b in zip(before, adapted.score(lists), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    with pytest.raises(RuntimeError, match="only score"):
        adapted.learn(lists)


def test_a_decoder_that_is_not_understood_is_padded_and_left_as_it_was(scorer):
    lists = [encoded(range(40, 60), 0)]
    before = scorer.score(lists)
    scorer.model.model.layers[1].self_attn.extra = nn.Linear(2, 2)
    scorer.pack()
    assert not scorer.packs
    np.testing.assert_array_equal(before[0], scorer.score(lists)[0])


def test_a_decoder_whose_packed_states_differ_is_put_back(scorer, caplog, monkeypatch):
    import rerank.packing

    monkeypatch.setattr(
        rerank.packing.PackedAttention, "_attend", lambda self, q, k, v, pack: q.transpose(0, 1)
    )
    lists = [encoded(range(40, 60), 0)]
    before = scorer.score(lists)
    scorer.pack()
    assert not scorer.packs
    assert "padded, not packed" in caplog.text
    np.testing.assert_array_equal(before[0], scorer.score(lists)[0])


@pytest.mark.skipif(not suits(nn.Linear(2, 2)), reason="needs AVX-512 and oneDNN")
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_fewer_passes_move_states_by_rounding_only_and_can_be_put_back(family):
    model = same_order.model_of(family, 50, 0).get_decoder()
    ids = torch.arange(30)[None]
    with torch.no_grad():
        before = model(ids, use_cache=False).last_hidden_state
        undo = fewer_passes(model)
        swapped = {type(part).__name__ for part in model.modules()}
        after = model(ids, use_cache=False).last_hidden_state
        for step in reversed(undo):
            step()
        again = model(ids, use_cache=False).last_hidden_state
    assert {"GatedBlock", "RootMeanSquareNorm"} <= swapped
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)
    assert torch.equal(again, before)


def test_the_throughput_benchmark_measures_the_same_lists_every_way(monkeypatch):
    monkeypatch.setattr(lists_per_second, "decoder", lambda seed: same_order.model_of("llama", 800, seed))
    found = lists_per_second.measure(2, 1, 1, 0, (2,))
    assert found["same_order"]
    assert found["packed"]
    assert found["logit_difference"] <= same_order.TIE
    assert found["batch"] == {"a": 2, "b": 2}
    assert min(found["lists_per_second"].values()) > 0
