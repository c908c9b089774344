"""A small part of `benchmarks/fuzz.py` in every test run, and what the large one found."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from catalograph.config_file import load_config
from catalograph.integrity import read_sealed, write_sealed
from catalograph.run_log import RunLog
from catalograph.runs import open_run, stored_config, verify
from extract.errors import ConfigError, InvalidData, RunFolderError
from extract.manifest import ShardRow
from extract.store import ShardStore, content_hash
from recsys.columns import InteractionColumns
from recsys.interactions import read_interactions
from rerank.search import read_qrels, read_requests, read_run
from rerank.teacher import read_orders

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def modules() -> Iterator[tuple[ModuleType, ModuleType]]:
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("fuzz_shop"), importlib.import_module("fuzz_engines")
    sys.path.remove(str(BENCHMARKS))


@pytest.mark.parametrize("surface", ["config", "set", "catalogue", "interactions", "manifests", "trec"])
def test_no_input_of_a_surface_raises_anything_but_our_errors(
    modules: tuple[ModuleType, ModuleType], surface: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, engines = modules
    monkeypatch.setattr(files, "hurry", lambda: None)
    shop = files.Shop(tmp_path)
    shop.make_runs()
    engines.by_hypothesis(shop, surface, 30, 3)
    assert shop.tracebacks == {} and shop.found.total() >= 30


def config(folder: Path, text: str) -> Path:
    (folder / "run.yaml").write_text(text)
    return folder / "run.yaml"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: &a [*a]\n", "nested too deeply"),
        ("a: " + "[" * 5000, "nested too deeply"),
        ("seed: 2024-02-30\n", "day is out of range for month"),
        ("seed: \x1a\n", "special characters are not allowed"),
        (
            "a: &a [1,1,1,1,1,1,1,1]\n"
            + "".join(f"k{n}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 8)}]\n" for n in range(8)),
            "it says more than 100,000 things, aliases written out",
        ),
    ],
)
def test_text_that_only_looks_like_yaml_is_refused(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(config(tmp_path, text))
    assert caught.value.code == "C002" and why in caught.value.why


@pytest.mark.parametrize("value", ["&a [*a]", "&a {b: *a}", "[" * 5000])
def test_a_set_value_without_end_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match="the value given by --set is not YAML: nested too deeply"):
        load_config(config(tmp_path, "data: {catalog: a}\n"), [f"caption={value}"])


def test_half_a_letter_in_a_value_is_refused_by_key(tmp_path: Path) -> None:
    text = 'data: {catalog: a}\nevaluate: {groups: ["x\\ud805"]}\n'
    with pytest.raises(ConfigError, match="holds half a letter"):
        load_config(config(tmp_path, text))


def test_numbers_that_are_not_finite_are_refused_by_key(tmp_path: Path) -> None:
    text = "data: {catalog: a, interactions: b, memory_gib: .inf}\nseed: .nan\n"
    text += "retrievers: {p: {model: popularity}}\n"
    with pytest.raises(ConfigError, match=r"data.memory_gib \(line 1\): must be a finite number, got inf"):
        load_config(config(tmp_path, text))


def test_a_manifest_line_cannot_name_a_file_outside_the_shards(tmp_path: Path) -> None:
    (tmp_path / "keep.txt").write_text("mine")
    store = ShardStore(tmp_path / "store", {"a": 1}, 2)
    row = store.commit(0, b"x", "bin", n_in=1, n_absent=0, input_sha256="", bad=())
    fields = json.loads(row.line()) | {"data": "../keep.txt"}
    fields.pop("check")
    line = json.dumps(fields | {"check": content_hash(fields)}).encode() + b"\n"
    assert ShardRow.from_line(row.line()) == row and ShardRow.from_line(line) is None
    (tmp_path / "store" / "manifest.jsonl").write_bytes(line)
    assert store.rows() == {} and store.verify() == [
        "manifest.jsonl line 1: damaged",
        "shards/00000.bin: not in the manifest",
    ]
    assert (tmp_path / "keep.txt").read_text() == "mine"


@pytest.mark.parametrize("change", [{"n_bad": None}, {"shard": "0"}, {"bad": [{"item_id": 3}]}, {"n_in": -1}])
def test_a_manifest_line_of_another_form_does_not_count(change: dict[str, object]) -> None:
    fields = json.loads(ShardRow(0, 1, 1, 0, 0, "", "shards/00000.bin", "", 1).line()) | change
    fields.pop("check")
    assert ShardRow.from_line(json.dumps(fields | {"check": content_hash(fields)}).encode()) is None


def run_of(tmp_path: Path) -> Path:
    text = "data: {catalog: a, interactions: b}\nretrievers: {p: {model: popularity}}\n"
    with open_run(tmp_path / "run", load_config(config(tmp_path, text))) as run:
        stage = run.stage("10-prepare", {"x": 1})
        stage.output("o.txt").write_text("o")
        stage.finish(["o.txt"])
    return tmp_path / "run"


@pytest.mark.parametrize(
    "outputs", [3, [3], [{"path": "../../secret", "bytes": 6, "sha256": ""}], [{"path": "o.txt"}]]
)
def test_a_stage_record_of_another_form_is_a_problem_and_leads_nowhere(
    tmp_path: Path, outputs: object
) -> None:
    folder = run_of(tmp_path)
    stage = folder / "stages" / "10-prepare" / "stage.json"
    record = read_sealed(stage)
    assert record is not None and verify(folder) == []
    write_sealed(stage, record | {"outputs": outputs})
    assert verify(folder) == ["10-prepare/stage.json: changed or unreadable"]


def test_a_record_that_holds_nan_is_unreadable_and_no_error(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text('{"seconds": NaN, "sealed_sha256": "x"}')
    assert read_sealed(tmp_path / "r.json") is None
    (tmp_path / "r.json").write_text("[" * 100_000)
    assert read_sealed(tmp_path / "r.json") is None


def test_half_a_letter_in_a_record_is_written_again_as_it_was_read(tmp_path: Path) -> None:
    write_sealed(tmp_path / "r.json", {"outcome": "a\ud800b \u00e9"})
    assert b"a\\ud800b \xc3\xa9" in (tmp_path / "r.json").read_bytes()
    assert read_sealed(tmp_path / "r.json") == {"outcome": "a\ud800b \u00e9"}


@pytest.mark.parametrize("text", ["\t: [", "- 1", "", "a: \x1a"])
def test_a_run_whose_configuration_was_damaged_is_refused_by_name(tmp_path: Path, text: str) -> None:
    folder = run_of(tmp_path)
    (folder / "config.yaml").write_text(text)
    with pytest.raises(RunFolderError) as caught:
        stored_config(folder)
    assert caught.value.code == "R108"


@pytest.mark.parametrize("text", ['"x"', "[1]", "{", "3"])
def test_a_stage_whose_parts_are_no_object_is_begun_anew(tmp_path: Path, text: str) -> None:
    folder = run_of(tmp_path)
    (folder / "stages" / "10-prepare" / "parts.json").write_text(text)
    with open_run(folder, load_config(folder / "config.yaml")) as run:
        assert not run.stage("10-prepare", {"x": 1}).done


def test_the_log_takes_any_text(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run.jsonl")
    log.event("x", text="\ud800")
    log.close()
    assert b"\\ud800" in (tmp_path / "run.jsonl").read_bytes()


def test_a_time_that_int64_cannot_hold_is_refused(tmp_path: Path) -> None:
    (tmp_path / "k.csv").write_text(f"user_id,item_id,t\nu,a,1\nu,b,{'9' * 30}\n")
    with pytest.raises(InvalidData) as caught:
        read_interactions(tmp_path / "k.csv", InteractionColumns(timestamp="t"), ["a", "b"])
    assert caught.value.code == "D204"


def test_judgments_that_are_none_are_refused_by_line(tmp_path: Path) -> None:
    for text in ("q 0 d 1\nq 0 d\n", "q 0 d 1\nq 0 e good\n"):
        (tmp_path / "qrels").write_text(text)
        with pytest.raises(InvalidData, match="judgments") as caught:
            read_qrels(tmp_path / "qrels")
        assert caught.value.code == "D225" and "line 2" in caught.value.where


@pytest.mark.parametrize(
    "candidates",
    [
        '[{"docid": "", "doc": "x"}]',
        '[{"docid": "a", "doc": "x"}, {"docid": "a", "doc": "y"}]',
        '[{"docid": null}]',
        '[{"docid": "a", "score": NaN}]',
        '[{"docid": "\\ud800", "doc": "x"}]',
        "[" * 100_000,
    ],
)
def test_a_request_without_whole_candidates_is_refused(tmp_path: Path, candidates: str) -> None:
    (tmp_path / "r.jsonl").write_text(f'{{"query": "x", "candidates": {candidates}}}\n')
    with pytest.raises(InvalidData) as caught:
        read_requests(tmp_path / "r.jsonl")
    assert caught.value.code == "D220"


def test_a_run_with_a_score_that_is_no_number_is_refused(tmp_path: Path) -> None:
    for name, text in (("run", "q Q0 d 1 nan t\n"), ("queries", "q\tx\n"), ("texts", "d\tx\n")):
        (tmp_path / name).write_text(text)
    with pytest.raises(InvalidData, match="TREC"):
        read_run(tmp_path / "run", tmp_path / "queries", tmp_path / "texts")


def test_two_orders_of_one_user_in_a_trec_file_are_refused_not_interleaved(tmp_path: Path) -> None:
    (tmp_path / "o.trec").write_text("u Q0 a 1 9 t\nu Q0 b 2 8 t\nu Q0 c 1 9 t\nu Q0 d 2 8 t\n")
    with pytest.raises(InvalidData) as caught:
        read_orders(tmp_path / "o.trec")
    assert caught.value.code == "D224" and "rank 1 twice" in caught.value.what
