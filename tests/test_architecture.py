"""The rules of the house that a reader cannot see in one file."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ORDER = ("extract", "recsys", "rerank", "catalograph")
"""A package may import itself and those before it."""

LIGHT = (
    "extract",
    "extract.errors",
    "extract.items",
    "extract.pictures",
    "extract.features",
    "extract.prompts",
    "extract.store",
    "extract.engines",
    "extract.answers",
    "extract.endpoint",
    "extract.picture_engines",
    "extract.vectors",
    "extract.cards",
    "extract.export",
    "extract.probe",
    "recsys",
    "recsys.interactions",
    "recsys.split",
    "recsys.interaction_files",
    "recsys.prepare",
    "recsys.out_of_core",
    "recsys.candidates",
    "recsys.metrics",
    "recsys.significance",
    "recsys.beyond_accuracy",
    "recsys.groups",
    "recsys.frozen",
    "recsys.deep_lists",
    "recsys.knock_outs",
    "recsys.list_rules",
    "recsys.merge",
    "recsys.newcomers",
    "recsys.settings",
    "recsys.search_space",
    "rerank",
    "rerank.settings",
    "rerank.prompts",
    "rerank.lists",
    "rerank.fusion",
    "rerank.guard",
    "catalograph",
    "catalograph.cli",
    "catalograph.config",
    "catalograph.config_file",
    "catalograph.doctor",
    "catalograph.report",
    "catalograph.report.render",
    "catalograph.runs",
    "catalograph.validate",
    "catalograph.feature_verbs",
    "catalograph.feature_files",
    "catalograph.demo",
    "catalograph.stages",
    "catalograph.refreshing",
    "catalograph.run_states",
    "catalograph.tuning",
    "catalograph.worth",
)
"""Contracts, and what light verbs need: none of them may import a model library, not even indirectly."""

HEAVY = ("torch", "transformers", "sentence_transformers", "peft", "accelerate", "datasets", "vllm")
LONGEST_FILE = 300
LONGEST_FUNCTION = 60
LONGER_FILES: dict[str, str] = {}
"""Files that may be longer, with the reason."""
LONGER_FUNCTIONS: dict[str, str] = {}
"""Functions that may be longer, as ``path:name``, with the reason."""
DRAWERS = {"utils", "util", "common", "base", "helpers", "misc"}


def sources() -> list[Path]:
    return sorted(path for package in ORDER for path in (ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(tree: ast.AST) -> set[str]:
    """Top-level packages that a module imports, wherever in the file, relative imports aside."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from ``def`` to the end, without the docstring: explaining more must not be a reason to split."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    if ast.get_docstring(function) is not None:
        words = function.body[0]
        lines -= (words.end_lineno or words.lineno) - words.lineno + 1
    return lines


def forbidden(package: str, code: str) -> set[str]:
    return imported(ast.parse(code)) & set(ORDER[ORDER.index(package) + 1 :])


def test_there_is_something_to_check() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in sources()} == set(ORDER)


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_imports_point_left_only(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    assert forbidden(package, path.read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize(
    ("package", "code", "expected"),
    [
        ("recsys", "import rerank", {"rerank"}),
        ("extract", "def f():\n    from recsys.split import Split", {"recsys"}),
        ("extract", "import catalograph.cli as c, json", {"catalograph"}),
        ("rerank", "from extract import items\nfrom recsys import split", set()),
        ("catalograph", "import extract, recsys, rerank", set()),
    ],
)
def test_the_check_of_arrows_can_fail(package: str, code: str, expected: set[str]) -> None:
    assert forbidden(package, code) == expected


def test_light_modules_import_no_model_library() -> None:
    # One fresh interpreter for all of them, names checked after each import, so that the guilty one is known.
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[2:]:\n"
        "    importlib.import_module(name)\n"
        "    heavy = set(sys.argv[1].split(',')) & set(sys.modules)\n"
        "    if heavy: sys.exit(f'{name} imports {sorted(heavy)}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, ",".join(HEAVY), *LIGHT], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


def test_importing_the_command_line_is_cheap() -> None:
    code = "import sys, catalograph.cli; print(sorted(set(sys.argv[1:]) & set(sys.modules)))"
    slow = ["numpy", "pyarrow", "pydantic", "yaml", "jinja2"]
    command = [sys.executable, "-c", code, *slow]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_files_and_functions_fit_one_sitting(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lines = len(text.splitlines())
    assert lines <= LONGEST_FILE or name_of(path) in LONGER_FILES, f"{lines} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = code_lines(node)
            key = f"{name_of(path)}:{node.name}"
            assert length <= LONGEST_FUNCTION or key in LONGER_FUNCTIONS, f"{key} has {length} lines"


def test_exceptions_from_the_budgets_are_still_needed() -> None:
    for name in LONGER_FILES:
        assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) > LONGEST_FILE


def test_there_are_no_drawers() -> None:
    names = {path.stem for path in sources()} | {path.parent.name for path in sources()}
    assert names & DRAWERS == set()


def dangerous(code: str) -> set[str]:
    """Ways to run code that came with data: pickles, remote model code, eval."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in {"eval", "exec", "torch.load", "pickle.load", "pickle.loads", "yaml.unsafe_load"}:
                found.add(name)
            for keyword in node.keywords:
                risky = keyword.arg in {"allow_pickle", "trust_remote_code"}
                if risky and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False):
                    found.add(str(keyword.arg))
    return found | imported(ast.parse(code)) & {"pickle", "dill", "cloudpickle", "joblib"}


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_nothing_runs_code_that_came_with_data(path: Path) -> None:
    assert dangerous(path.read_text(encoding="utf-8")) == set()


def test_the_check_of_dangers_can_fail() -> None:
    assert dangerous("torch.load(p)") == {"torch.load"}
    assert dangerous("f(trust_remote_code=flag)") == {"trust_remote_code"}
    assert dangerous("np.load(p, allow_pickle=False); model.eval()") == set()
    assert dangerous("import pickle") == {"pickle"}
