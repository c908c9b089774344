from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from catalograph.cli import STAGE_VERBS, app, main
from catalograph.config import RunConfig
from catalograph.report.data import Interval, MetricRow, MetricTable
from catalograph.runs import open_run
from extract.errors import TrainingDiverged

STAGE_FLAGS = {"--config", "-c", "--set", "-s", "--run-dir", "--json", "--verbose", "-v"}
FLAGS = {
    "demo": {
        "--run-dir",
        "--seed",
        "--items",
        "--users",
        "--hidden",
        "--set",
        "-s",
        "--json",
        "--verbose",
        "-v",
    },
    **{verb: STAGE_FLAGS for verb in STAGE_VERBS},
    "run": STAGE_FLAGS | {"--from"},
    "refresh": STAGE_FLAGS | {"--from", "--store", "--full"},
    "runs": set(),
    "extract": STAGE_FLAGS
    | {"--store", "--update", "--stage", "--shard", "--merge", "--ray", "--retry-bad", "--rehash"},
    "rerank": STAGE_FLAGS
    | {"--requests", "--trec", "--queries", "--texts", "--model", "--adapter", "--qrels", "--out"}
    | {"--store", "--shard", "--merge", "--ray"},
    "estimate": STAGE_FLAGS | {"--seconds", "--price"},
    "doctor": {"--run-dir", "--json"},
    "validate": {"--config", "-c", "--set", "-s", "--json"},
    "init": {
        "--template",
        "-t",
        "--catalog",
        "--interactions",
        "--pictures",
        "--out",
        "-o",
        "--sample",
        "--json",
    },
    "schema": set(),
    "push": {"--run-dir", "--name", "-n", "--public", "--json"},
    "pull": {"--to", "--revision", "--json"},
    "verify": {"--run-dir", "--store", "--json"},
    "hash": {"--run-dir", "--store", "--json"},
    "export": {
        "--run-dir",
        "--to",
        "--format",
        "--feature",
        "-f",
        "--missing",
        "--ids",
        "--id-column",
        "--row-column",
        "--interactions",
        "--name",
        "--json",
    },
    "compare": {"--run-dir", "--list", "--against", "--against-list", "--page", "--json"},
    "newcomers": {"--run-dir", "--histories", "--out", "--json"},
    "redteam": {
        "--run-dir",
        "--attacks",
        "--lists",
        "--judged",
        "--least-items",
        "--max-gain",
        "--json",
        "--verbose",
        "-v",
    },
    "tune": STAGE_FLAGS | {"--retriever", "-r"},
    "worth": STAGE_FLAGS | {"--work", "--price"},
    "probe": {
        "--run-dir",
        "--attribute",
        "-a",
        "--feature",
        "-f",
        "--separator",
        "--folds",
        "--train-items",
        "--seed",
        "--set",
        "-s",
        "--json",
    },
}
CONFIG = """\
data: {catalog: items.csv, interactions: clicks.csv}
retrievers: {pop: {model: popularity}}
"""


class Summary:
    def __init__(self, quarantined: int = 0) -> None:
        self.quarantined = quarantined
        self.tables = [
            MetricTable(
                "Test [split]", ["ndcg@10"], [MetricRow("popularity", {"ndcg@10": Interval(0.5, 0.4, 0.6)})]
            )
        ]

    def to_json(self) -> dict[str, Any]:
        stages = {
            "caption": {"seconds": 1.0, "in": 5, "ok": 5 - self.quarantined, "quarantined": self.quarantined}
        }
        stages["prepare"] = {"seconds": 0.1, "in": 9, "ok": 7, "quarantined": 2}
        return {
            "stages": stages,
            "metrics": {"popularity": {"ndcg@10": 0.5}},
            "report": "runs/x/report/index.html",
        }


class Stages:
    """Stands in for `catalograph.stages`: remembers calls and returns or raises what it was told."""

    def __init__(self) -> None:
        self.calls: list[tuple[RunConfig, Path, Sequence[str] | None]] = []
        self.outcome: Summary | BaseException = Summary()

    def run_stages(
        self,
        config: RunConfig,
        folder: Path,
        stages: Sequence[str] | None,
        progress: object,
        extraction: object = None,
        origin: object = None,
    ) -> Summary:
        self.calls.append((config, folder, stages))
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Stages:
    stand_in = Stages()
    module = types.ModuleType("catalograph.stages")
    module.run_stages = stand_in.run_stages  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "catalograph.stages", module)
    return stand_in


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop.yaml").write_text(CONFIG)
    (tmp_path / "items.csv").write_text("item_id,title\na,A\n")
    (tmp_path / "clicks.csv").write_text("user_id,item_id\nu,a\n")
    yield tmp_path


def flags() -> dict[str, set[str]]:
    commands: Mapping[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
    return {
        name: {o for p in command.params for o in p.opts if o.startswith("-")} - {"--help", "-h"}
        for name, command in commands.items()
    }


def test_the_flags_are_these_and_hyper_parameters_go_to_set() -> None:
    assert flags() == FLAGS


def test_every_verb_of_the_product_is_there() -> None:
    verbs = (
        "demo init schema run extract estimate prepare train recommend finetune rerank evaluate report"
        " export probe push pull refresh runs compare newcomers redteam tune worth"
        " doctor validate verify hash"
    )
    assert set(flags()) == set(verbs.split())


@pytest.mark.parametrize("verb", sorted(FLAGS))
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 5


def test_the_help_tells_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "7 partial success" in " ".join(capsys.readouterr().out.split())


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("catalograph 0.")


@pytest.mark.parametrize("arguments", [["run", "--confg", "x"], ["runn"], ["run"], ["demo", "--hidden", "2"]])
def test_wrong_usage_exits_2_and_keeps_stdout_clean(
    arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err


@pytest.mark.parametrize("verb", ["run", *sorted(STAGE_VERBS)])
def test_a_verb_runs_its_stages(
    verb: str, stages: Stages, shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, "-c", "shop.yaml", "--set", "seed=4", "--run-dir", "out", "--json"]) == 0
    config, folder, asked = stages.calls[0]
    assert config.seed == 4 and folder == Path("out")
    assert asked == (None if verb == "run" else STAGE_VERBS[verb][0])
    captured = capsys.readouterr()
    assert json.loads(captured.out)["metrics"]["popularity"]["ndcg@10"] == 0.5 and captured.err == ""


def test_the_default_folder_is_named_by_the_config_and_what_it_decides(stages: Stages, shop: Path) -> None:
    for extra in ([], ["--set", "threads=2"], ["--set", "seed=1"]):
        assert main(["run", "-c", "shop.yaml", *extra]) == 0
    first, second, third = (folder for _, folder, _ in stages.calls)
    assert first == second != third
    assert first.parent == Path("runs") and first.name.startswith("shop-")


def test_run_dir_of_the_config_is_used(stages: Stages, shop: Path) -> None:
    assert main(["run", "-c", "shop.yaml", "--set", "run_dir=here"]) == 0
    assert stages.calls[0][1] == Path("here")


def test_without_a_config_the_one_of_the_run_folder_is_used(stages: Stages, shop: Path) -> None:
    from catalograph.config_file import load_config

    config = load_config(Path("shop.yaml"), ["seed=11"])
    with open_run(Path("out"), config):
        pass
    assert main(["report", "--run-dir", "out"]) == 0
    assert stages.calls[0][0] == config and stages.calls[0][2] == ("report",)


def test_people_get_a_table_and_the_report_last(
    stages: Stages, shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "-c", "shop.yaml"]) == 0
    out = capsys.readouterr().out
    assert "0.5000" in out and ".4000 .6000" in out and "Test [split]" in out
    assert out.splitlines()[-1] == "runs/x/report/index.html"


def test_before_there_are_metrics_people_see_stages_and_the_folder(
    stages: Stages, shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Early(Summary):
        def to_json(self) -> dict[str, Any]:
            return super().to_json() | {"report": None, "run_dir": "runs/x"}

    stages.outcome = Early(quarantined=1)
    stages.outcome.tables = []
    assert main(["extract", "-c", "shop.yaml"]) == 7
    assert capsys.readouterr().out.splitlines() == [
        "caption: 4 of 5 ok, 1 quarantined (1.0 s)",
        "prepare: 7 of 9 ok, 2 quarantined (0.1 s)",
        "runs/x",
    ]


def test_a_narrow_terminal_shows_fewer_metrics_and_no_cut_numbers(
    stages: Stages, shop: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    columns = [f"{name}@{k}" for name in ("ndcg", "recall", "mrr") for k in (10, 20)]
    row = MetricRow("reranked − fused_without_llm", {c: Interval(0.1, -0.1234, 0.2345) for c in columns})
    stages.outcome = Summary()
    stages.outcome.tables = [MetricTable("Test", columns, [row])]
    assert main(["run", "-c", "shop.yaml"]) == 0
    out = capsys.readouterr().out
    assert out.count("-.1234 .2345") == 4 and "…" not in out
    assert "recall@20" in out and "mrr@10" not in out and "in the report" in out


def test_libraries_are_told_to_be_quiet_unless_the_user_said_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
    assert main(["--version"]) == 0
    assert os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] == "1"
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"


@pytest.mark.parametrize(("verb", "code"), [("run", 7), ("extract", 7), ("train", 0), ("report", 0)])
def test_quarantined_items_make_a_partial_success(verb: str, code: int, stages: Stages, shop: Path) -> None:
    stages.outcome = Summary(quarantined=1)
    assert main([verb, "-c", "shop.yaml"]) == code


def test_an_error_of_ours_is_four_lines_and_its_code(
    stages: Stages, shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages.outcome = TrainingDiverged(
        "T101", "loss is NaN", where="lirdrec, step 7", why="lr 1.0", next_step="lower it"
    )
    assert main(["train", "-c", "shop.yaml"]) == 9
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "error[T101]: loss is NaN\n  where: lirdrec, step 7\n  why:   lr 1.0\n  next:  lower it\n"
    )


def test_with_json_an_error_is_one_object_too(
    stages: Stages, shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages.outcome = TrainingDiverged("T101", "loss is NaN", where="step 7")
    assert main(["train", "-c", "shop.yaml", "--json"]) == 9
    result = json.loads(capsys.readouterr().out)
    assert (
        result["exit_code"] == 9
        and result["error"]["code"] == "T101"
        and result["error"]["where"] == "step 7"
    )


def test_an_internal_error_shows_its_traceback_only_on_request(
    stages: Stages, shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages.outcome = KeyError("oops")
    assert main(["train", "-c", "shop.yaml"]) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert main(["train", "-c", "shop.yaml", "-v"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143)])
def test_signals_have_their_codes(error: BaseException, code: int, stages: Stages, shop: Path) -> None:
    stages.outcome = error
    assert main(["train", "-c", "shop.yaml"]) == code


def test_a_wrong_config_lists_everything(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "-c", "shop.yaml", "--set", "sede=1", "--set", "candidates.k=0"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error[C001]: 2 problems in shop.yaml\n") and "did you mean seed?" in error


def test_validate_accepts_a_good_config(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "-c", "shop.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True


def test_validate_reads_headers(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shop / "items.csv").write_text("item_id,titel\n")
    (shop / "clicks.csv").write_text("user,item_id\n")
    assert main(["validate", "-c", "shop.yaml"]) == 5
    error = capsys.readouterr().err
    assert "data.catalog_columns.title: unknown column title; did you mean titel?" in error
    assert "data.interaction_columns.user: unknown column user_id; did you mean user?" in error


def test_validate_tells_missing_and_unreadable_files_together(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (shop / "items.csv").unlink()
    (shop / "clicks.parquet").write_bytes(b"not parquet")
    sets = ["--set", "data.interactions=clicks.parquet", "--set", "data.pictures=nowhere"]
    assert main(["validate", "-c", "shop.yaml", *sets]) == 4
    error = capsys.readouterr().err
    assert (
        "3 problems" in error
        and "data.catalog:" in error
        and "data.pictures:" in error
        and "clicks.parquet" in error
    )


def test_validate_names_every_file_that_a_section_points_to(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (shop / "items.json").write_text("[1, 2]\n")
    sets = [
        "data.catalog=items.json",
        "rerank.model=m",
        "rerank.finetune.teacher=t.trec",
        "candidates.allow=no.xls",
    ]
    sets += ["features.words.vectors.path=v.parquet", "candidates.deny=gone.csv"]
    assert main(["validate", "-c", "shop.yaml", *(part for one in sets for part in ("--set", one))]) == 4
    error = capsys.readouterr().err
    assert f"features.words.vectors: {shop / 'v.parquet'} does not exist" in error
    assert f"rerank.finetune.teacher: {shop / 't.trec'} does not exist" in error
    assert f"data.catalog: {shop / 'items.json'}: its first line is not a JSON object" in error
    assert f"candidates.deny: {shop / 'gone.csv'}: does not exist" in error
    assert f"candidates.allow: {shop / 'no.xls'}: not a .csv, .jsonl or .parquet file" in error


def test_headers_are_read_from_every_kind_of_table(tmp_path: Path) -> None:
    import gzip

    from catalograph.validate import columns_of

    (tmp_path / "a.tsv").write_text("one\ttwo, three\n")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"one": 1, "two": 2}\n'))
    (tmp_path / "c.csv").write_text("\ufeffone,two\n", encoding="utf-8")
    (tmp_path / "d.csv").write_text("")
    found = [columns_of(tmp_path / name) for name in ("a.tsv", "b.jsonl.gz", "c.csv", "d.csv")]
    assert found == [["one", "two, three"], ["one", "two"], ["one", "two"], []]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--requests", "r.jsonl"], "search needs --model"),
        (["--requests", "r", "--trec", "t", "--model", "m"], "search needs --model"),
        (["--trec", "t", "--model", "m"], "--trec needs --queries and --texts"),
        (["--trec", "t", "--model", "m", "--queries", "q"], "--trec needs --queries and --texts"),
    ],
)
def test_search_says_what_it_lacks(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rerank", *arguments]) == 2
    assert told in " ".join(capsys.readouterr().err.split())


def test_tune_tells_what_to_set(
    shop: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {
        "pop": {"metric": "ndcg@20", "present": None, "best": 0.25, "tries": 3, "settings": {"params.k": 7}},
        "knn": {"metric": "ndcg@20", "present": 0.125, "best": None, "tries": 0, "settings": {}},
    }
    monkeypatch.setattr("catalograph.tuning.tune", lambda *_: found)
    assert main(["tune", "-c", "shop.yaml"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "pop: ndcg@20 none as configured, 0.2500 found in 3 tries",
        "  --set retrievers.pop.params.k=7",
        "knn: ndcg@20 0.1250 as configured, none found in 0 tries",
    ]


def test_worth_works_in_a_folder_of_its_own_and_prints_what_it_found(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, float | None]] = []
    printed: list[Any] = []
    monkeypatch.setattr(
        "catalograph.worth.worth",
        lambda config, folder, price, _: asked.append((str(folder), price)) or "found",
    )
    monkeypatch.setattr("catalograph.console.print_worth", printed.append)
    assert main(["worth", "-c", "shop.yaml", "--run-dir", "runs/mine", "--price", "2.5"]) == 0
    assert asked == [("runs/worth-mine", 2.5)] and printed == ["found"]
    assert (shop / "runs" / "worth-mine").is_dir()


def test_search_prints_a_line_per_finding(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rerank.search.read_run", lambda *paths: [path.name for path in paths])
    monkeypatch.setattr(
        "catalograph.searching.rerank_results",
        lambda results, settings, out, **more: {"queries": results, "model": settings.model, "out": str(out)},
    )
    run = ["--trec", "t", "--queries", "q", "--texts", "d", "--model", "m", "--out", "o.trec"]
    assert main(["rerank", *run]) == 0
    assert capsys.readouterr().out.splitlines() == ["queries: ['t', 'q', 'd']", "model: m", "out: o.trec"]


def test_the_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "RunConfig"


def test_doctor_reports_every_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["ok"] and {"python", "torch", "memory", "disk"} <= {
        check["name"] for check in result["checks"]
    }


def test_doctor_exits_3_when_a_package_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from catalograph import doctor

    monkeypatch.setattr(doctor, "PACKAGES", (("torch", (99,), None), ("no-such-package", (1,), None)))
    assert main(["doctor"]) == 3
    out = " ".join(capsys.readouterr().out.split())
    assert '"torch>=99"' in out and "no-such-package" in out


def test_hash_and_verify_of_a_run(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from catalograph.config_file import load_config

    with open_run(Path("out"), load_config(Path("shop.yaml"))) as run:
        stage = run.stage("20-embed", {})
        stage.output("x").write_bytes(b"abc")
        stage.finish(["x"])
    assert main(["hash", "--run-dir", "out"]) == 0
    digest = capsys.readouterr().out.strip()
    assert len(digest) == 64
    assert main(["hash", "--run-dir", "out", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"hash": digest}
    assert main(["verify", "--run-dir", "out"]) == 0
    (shop / "out/stages/20-embed/x").write_bytes(b"abd")
    assert main(["verify", "--run-dir", "out", "--json"]) == 5
    lines = capsys.readouterr().out.splitlines()
    assert json.loads(lines[-1])["problems"] == ["20-embed/x: content differs from its recorded hash"]


def test_hash_of_something_else_exits_10(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hash", "--run-dir", str(tmp_path)]) == 10
    assert "not a run folder" in capsys.readouterr().err


def test_demo_prepares_the_shop_and_runs_everything(
    stages: Stages, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from catalograph.config_file import load_config

    asked: list[dict[str, Any]] = []
    module = types.ModuleType("catalograph.demo")

    def prepare_demo(folder: Path, **options: Any) -> RunConfig:
        asked.append({"folder": folder, **options})
        return load_config(Path("shop.yaml"))

    module.prepare_demo = prepare_demo  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "catalograph.demo", module)
    assert main(["demo", "--run-dir", "d", "--seed", "3", "--items", "50", "--set", "candidates.k=5"]) == 0
    assert asked == [{"folder": Path("d"), "seed": 3, "items": 50, "users": 1500, "hidden": 1.0}]
    config, folder, which = stages.calls[0]
    assert config.candidates.k == 5 and folder == Path("d") and which is None


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["doctor", "--json"],
        ["validate", "-c", "shop.yaml"],
        ["schema"],
        ["init", "--sample", "drawn"],
    ],
)
def test_light_verbs_import_no_model_library(arguments: list[str], shop: Path) -> None:
    code = (
        "import sys; from catalograph.cli import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'peft', 'datasets'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert done.returncode == 0, done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Processor time, because the wall clock of a loaded machine measures its neighbours. The promise is 0.7 s
    # when idle.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3
