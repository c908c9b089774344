"""Any search engine's results, reranked from the command line by a small checkpoint with FIRST's prompt."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catalograph.cli import main
from extract.errors import InvalidData, UnsafeInput
from rerank.search import graded_ndcg, read_requests, read_run

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import any_text
import same_order

sys.path.pop(0)

COUNT = 27


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and tokenizer as publishers save them: safetensors and a chat template."""
    folder = tmp_path_factory.mktemp("first")
    tokenizer = any_text.tokenizer_of("mistral")
    tokenizer.save_pretrained(folder)
    same_order.model_of("mistral", len(tokenizer), 0).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("requests") / "candidates.jsonl.gz"
    rows = [
        {
            "query": {"qid": f"q{q}", "text": f"how long is {q}"},
            "candidates": [
                {"docid": f"d{n}", "score": 30.0 - n, "text": f"A flea, {n} of [B], {q}"}
                for n in range(count)
            ],
        }
        for q, count in enumerate((COUNT, 3, 1))
    ]
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    return path


def ranked(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        query, _, document, rank, *_ = line.split()
        found.setdefault(query, []).append(document)
        assert int(rank) == len(found[query])
    return found


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    code = main(["rerank", *arguments, "--json"])
    out = capsys.readouterr().out
    assert code == 0, out
    told: dict[str, Any] = json.loads(out)
    return told


def test_requests_come_back_as_a_permutation_in_the_order_of_firsts_windows(
    checkpoint: Path, requests: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    qrels = tmp_path / "qrels.txt"
    qrels.write_text("q0 0 d26 3\nq0 0 d1 1\nq1 0 d0 0\n")
    out = tmp_path / "reranked.trec"
    files = {"requests": requests, "model": checkpoint, "out": out, "qrels": qrels}
    told = called(capsys, *(part for name, path in files.items() for part in (f"--{name}", str(path))))
    found = ranked(out)
    assert [sorted(names) for names in found.values()] == [
        sorted(f"d{n}" for n in range(count)) for count in (COUNT, 3, 1)
    ]
    assert told["packed"]
    assert told["queries"] == 3
    assert told["ndcg@10"]["before"] < 1
    assert found["q0"] == plain_order(checkpoint, read_requests(requests))


def plain_order(checkpoint: Path, results: Any) -> list[str]:
    """The first query by transformers, FIRST's prompt as one text, window 20, stride 10."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rerank.layouts import LAYOUTS
    from rerank.prompts import clean

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    layout, query = LAYOUTS["first"], results.queries["q0"]
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    order = [str(item) for item in results.candidates.items[0]]
    for start in (COUNT - 20, 0):
        part = order[start : start + 20]
        words = layout.opening.format(num=len(part), query=query)
        shown = [clean(results.texts[name]) for name in part]
        words += "".join(f"\n[{a}] {text}" for a, text in zip(letters, shown, strict=False))
        words += layout.closing.format(num=len(part), query=query)
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": f"{layout.system}\n {words}"}],
            tokenize=False,
            add_generation_prompt=True,
        )
        ids = tokenizer(f"{text}[", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1]
        scores = [float(logits[tokenizer.convert_tokens_to_ids(letters[n])]) for n in range(len(part))]
        order[start : start + 20] = [part[n] for n in np.argsort(-np.array(scores), kind="stable")]
    return order


def test_a_trec_run_with_tables_of_texts_gives_the_same_lists_as_requests(
    requests: Path, tmp_path: Path
) -> None:
    told = read_requests(requests)
    lines = [
        f"{query} Q0 {name} {rank} {30 - rank} bm25"
        for query, names in zip(told.candidates.user_ids, told.candidates.items, strict=True)
        for rank, name in enumerate(names, start=1)
        if name
    ]
    run, queries, texts = tmp_path / "bm25.run", tmp_path / "queries.tsv", tmp_path / "texts.jsonl"
    run.write_text("\n".join(lines[::-1]))
    queries.write_text("".join(f"{name}\t{words}\n" for name, words in told.queries.items()))
    documents = [{"_id": name, "contents": text} for name, text in told.texts.items()]
    texts.write_text("\n".join(map(json.dumps, [*documents, {"_id": "other", "text": "unused"}])))
    found = read_run(run, queries, texts)
    rows = {query: row for row, query in enumerate(found.candidates.user_ids)}
    for row, query in enumerate(told.candidates.user_ids):
        own = found.candidates.items[rows[query]].tolist()
        assert own == told.candidates.items[row].tolist()
    assert dict(found.texts) == dict(told.texts)


def test_broken_results_are_told_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text('{"query": {"qid": "1", "text": "a"}, "candidates": []}\n{"query": 3}\n')
    with pytest.raises(InvalidData, match="line 2"):
        read_requests(path)
    with pytest.raises(UnsafeInput, match="cannot be read"):
        read_requests(tmp_path / "absent.jsonl")
    run = tmp_path / "run.txt"
    run.write_text("q1 Q0 d1 1 2.5 x\n")
    (tmp_path / "empty.tsv").write_text("q2\twords\n")
    with pytest.raises(InvalidData, match="have no words"):
        read_run(run, tmp_path / "empty.tsv", tmp_path / "empty.tsv")
    run.write_text("q1 d1 1\n")
    with pytest.raises(InvalidData, match="not a line of a TREC run"):
        read_run(run, tmp_path / "empty.tsv", tmp_path / "empty.tsv")


def test_a_query_without_candidates_and_a_document_without_text_are_no_problem(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "odd.jsonl", tmp_path / "odd.parquet"
    rows = [
        {"query": {"qid": "none", "text": ""}, "candidates": []},
        {"query": {"qid": "bare", "text": "x"}, "candidates": [{"docid": "a"}, {"docid": "b", "text": "b"}]},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    told = called(capsys, "--requests", str(path), "--model", str(checkpoint), "--out", str(out))
    assert told["without_text"] == 1
    assert out.is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--requests", "x"), "needs --model"),
        (("--trec", "x", "--model", "m"), "--queries"),
        (("--requests", "x", "--model", "m", "--set", "prompt=recommend"), "prompt with a query"),
        (("--requests", "x", "--model", "m", "--set", "inference.windo=3"), "windo"),
    ],
)
def test_search_that_cannot_work_is_refused_before_a_model_is_loaded(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rerank", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_graded_ndcg_of_two_documents_by_hand(requests: Path) -> None:
    candidates = read_requests(requests).candidates
    judged = {"q1": {"d1": 3, "d2": 1}, "q9": {"d0": 1}}
    expected = (3 / np.log2(3) + 1 / np.log2(4)) / (3 + 1 / np.log2(3))
    assert graded_ndcg(candidates, judged, 10) == pytest.approx(expected)
