"""What the pages tell a reader to type exists: verbs, flags, targets, files, keys, tests."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from typer.main import get_command

from catalograph import config as sections
from catalograph.cli import app
from catalograph.feature_config import FeatureConfig
from catalograph.worth_settings import WorthConfig
from extract.endpoint_settings import EndpointConfig
from extract.engines import CaptionConfig, EmbedConfig
from extract.items import CatalogColumns
from extract.picture_engines import PictureEmbedConfig
from extract.pictures import PictureLimits
from extract.vectors import VectorsConfig
from recsys.filters import FilterConfig
from recsys.interactions import InteractionColumns
from recsys.search_space import TuneConfig
from recsys.settings import SETTINGS, TrainConfig
from recsys.split import SplitConfig
from rerank.losses import LOSSES
from rerank.prompts import LAYOUTS
from rerank.settings import (
    FineTuneConfig,
    GateConfig,
    GuardConfig,
    InferenceConfig,
    LambdaMartConfig,
    LoraConfig,
    RerankConfig,
    TokenConfig,
)

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
NAMES = [path.name for path in PAGES]
TYPED = [*PAGES, *sorted((ROOT / "configs").glob("*.yaml"))]
KEYS: dict[str, type[BaseModel]] = {
    "Top level": sections.RunConfig,
    "`data`": sections.DataConfig,
    "`data.catalog_columns`": CatalogColumns,
    "`data.interaction_columns`": InteractionColumns,
    "`data.filter`": FilterConfig,
    "`data.split`": SplitConfig,
    "`caption`": CaptionConfig,
    "`caption.endpoint`": EndpointConfig,
    "`caption.limits`": PictureLimits,
    "`features.NAME`": FeatureConfig,
    "`features.NAME.embed`": EmbedConfig,
    "`features.NAME.pictures`": PictureEmbedConfig,
    "`features.NAME.vectors`": VectorsConfig,
    "`retrievers.NAME`": sections.RetrieverConfig,
    **{f"`retrievers.NAME.params` of `{name}`": SETTINGS[name] for name in SETTINGS if name != "popularity"},
    "`retrievers.NAME.train`": TrainConfig,
    "`candidates`": sections.CandidatesConfig,
    "`rerank`": RerankConfig,
    "`rerank.guard`": GuardConfig,
    "`rerank.inference`": InferenceConfig,
    "`rerank.token`": TokenConfig,
    "`rerank.lambdamart`": LambdaMartConfig,
    "`rerank.gate`": GateConfig,
    "`rerank.finetune`": FineTuneConfig,
    "`rerank.finetune.lora`": LoraConfig,
    "`evaluate`": sections.EvaluateConfig,
    "`report`": sections.ReportConfig,
    "`tune`": TuneConfig,
    "`worth`": WorthConfig,
}


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def page(name: str) -> str:
    return text_of(ROOT / "docs" / name)


def typed_commands() -> list[tuple[str, str, str]]:
    """(file, verb, the rest) of every `catalograph ...` in code."""
    pattern = re.compile(r"(?:^[# ]*|`|python -m )catalograph ([a-z]+)\b([^`\n]*)", re.M)
    return [(path.name, verb, rest) for path in TYPED for verb, rest in pattern.findall(text_of(path))]


def commands() -> dict[str, Any]:
    found: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
    return found


def test_the_verbs_and_flags_that_are_written_down_exist() -> None:
    typed = typed_commands()
    assert len(typed) > 10
    for where, verb, rest in typed:
        assert verb in commands(), f"{where}: catalograph {verb}"
        known = {flag for parameter in commands()[verb].params for flag in parameter.opts}
        asked = set(re.findall(r"(?<![\w=.-])--?[a-z][a-z-]*", rest.partition("#")[0]))
        assert asked <= known, f"{where}: catalograph {verb}: {asked - known}"


def test_every_verb_is_in_the_guide() -> None:
    verbs = set(
        re.findall(r"`([a-z]+)`", page("guide.md").partition("## The verbs")[2].partition("\n## ")[0])
    )
    assert set(commands()) <= verbs


@pytest.mark.parametrize("path", TYPED, ids=lambda path: path.name)
def test_targets_modules_and_files_exist(path: Path) -> None:
    text = text_of(path)
    targets = re.findall(r"^([a-z]+):", text_of(ROOT / "Makefile"), re.M)
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", text, re.M)) <= set(targets)
    for module in re.findall(r"python -m ([\w.]+)", text):
        assert importlib.util.find_spec(module) is not None, module
    for name in re.findall(
        r"`((?:benchmarks|configs|docs|tests|catalograph|extract|recsys|rerank)/[\w/.-]*)`", text
    ):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", text_of(path)):
        name, _, anchor = target.partition("#")
        if "://" in name:
            continue
        page_of = path if not name else path.parent / name
        assert page_of.exists(), target
        assert not anchor or anchor in anchors_of(page_of), target


def anchors_of(path: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them; comments in blocks are no headings."""
    text = re.sub(r"^ *```.*?^ *```", "", text_of(path), flags=re.M | re.S)
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.M):
        name = re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")
        doubles = sum(other == name or other.startswith(f"{name}-") for other in found)
        found.add(f"{name}-{doubles}" if name in found else name)
    return found


def test_an_anchor_that_is_only_in_a_block_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("# One `two`\n\n```bash\n# three\n```\n\n## Four, five\n")
    assert anchors_of(tmp_path / "page.md") == {"one-two", "four-five"}


def test_the_guide_lists_exactly_the_error_codes_there_are() -> None:
    packages = ("extract", "recsys", "rerank", "catalograph")
    sources = [path.read_text() for name in packages for path in (ROOT / name).rglob("*.py")]
    raised = {code for text in sources for code in re.findall(r'"([A-Z]\d{3})"', text)}
    table = (ROOT / "docs" / "guide.md").read_text().split("| code | about |")[1].split("\n\n")[0]
    listed: set[str] = set()
    for letter, first, last in re.findall(r"\b([A-Z])(\d{3})(?: to [A-Z](\d{3}))?", table):
        listed |= {f"{letter}{number:03}" for number in range(int(first), int(last or first) + 1)}
    assert raised - listed == set()
    # A range may span numbers that are not used; each of its ends must be.
    assert set(re.findall(r"[A-Z]\d{3}", table)) - raised == set()


def test_the_guide_lists_exactly_the_keys_there_are() -> None:
    listed: dict[str, list[str]] = {}
    heading = ""
    for line in page("guide.md").partition("## The configuration")[2].partition("\n## ")[0].splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif match := re.match(r"\| `(\w+)` \|", line):
            listed.setdefault(heading, []).append(match[1])
    assert listed == {name: list(model.model_fields) for name, model in KEYS.items()}


FORMS = get_args(RerankConfig.model_fields["form"].annotation)


@pytest.mark.parametrize("name", [*SETTINGS, *LOSSES, *FORMS])
def test_every_model_and_loss_has_a_section_with_idea_equation_use_and_omissions(name: str) -> None:
    section = page("methods.md").partition(f"\n### {name}\n")[2].partition("\n#")[0]
    for part in ("Idea", "Equation", "When", "Left out"):
        assert f"* **{part}.** " in section, f"{name}: {part}"


def test_the_tests_that_a_promise_names_exist() -> None:
    there = {
        node.name
        for path in (ROOT / "tests").rglob("*.py")
        for node in ast.walk(ast.parse(text_of(path)))
        if isinstance(node, ast.FunctionDef)
    }
    named = set(re.findall(r"`(test_\w+)`", page("reliability.md")))
    assert len(named) > 30 and named <= there, named - there


def test_prompts_in_the_page_are_those_of_the_code() -> None:
    text = page("reranker.md").replace("\n", " ")
    layout = LAYOUTS["recommend"]
    for words in (layout.system, layout.opening, layout.between, layout.closing):
        assert " ".join(words.split()) in " ".join(text.split())


@pytest.mark.parametrize("path", TYPED, ids=lambda path: path.name)
def test_no_page_names_a_path_of_one_machine(path: Path) -> None:
    assert re.findall(r"(?<![\w.])/(?:work|tmp|home|root|mnt)/", text_of(path)) == []


def test_every_seed_is_told_once() -> None:
    cells = re.findall(r"^\| ([\d, ]+) \||^([\d, ]+ and \d+) are about", page("seeds.md"), re.M)
    told = [int(number) for cell in cells for number in re.findall(r"\d+", "".join(cell))]
    assert sorted(told) == list(range(1, 70))


def test_the_site_has_every_page() -> None:
    listed = re.findall(r": ([\w-]+\.md)$", text_of(ROOT / "mkdocs.yml"), re.M)
    root = ["index.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"]
    assert sorted(listed) == sorted([*root, *(path.name for path in (ROOT / "docs").glob("*.md"))])


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_every_row_of_a_table_has_as_many_cells_as_its_head(path: Path) -> None:
    columns, wrong = 0, []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            columns = 0
            continue
        # A bar inside code or behind a backslash ends no cell.
        cells = re.sub(r"`[^`]*`|\\\|", "", line).strip().strip("|").count("|") + 1
        columns = columns or cells
        if cells != columns or not line.rstrip().endswith("|"):
            wrong.append(line[:60])
    assert wrong == []
