"""What a person without a mouse, or without eyes, meets in the report: looked at in a real browser."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
PLACES = ("node_modules/axe-core/axe.min.js", "/usr/share/javascript/axe-core/axe.min.js")


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


driver = loaded("browser")
look = loaded("report_axe")


@pytest.fixture(scope="module")
def axe() -> Path:
    """axe-core's file: AXE in the environment, or a usual place."""
    asked = os.environ.get("AXE")
    found = next((p for p in (asked, *PLACES) if p and Path(p).is_file()), None)
    if found is None:
        pytest.skip("axe-core is not here: `npm install axe-core`, or name axe.min.js in AXE")
    return Path(found)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = driver.find_browser()
    if path is None:
        pytest.skip("no Chromium here")
    with driver.Browser(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(look.made_up(tmp_path_factory.mktemp("page")))


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_and_the_page_is_not_wider_than_its_window(
    width: int, dark: bool, axe: Path, browser: Any, page: Path
) -> None:
    found = look.examine(browser, page, axe, width, dark=dark)
    assert found["rules"] == {} and found["too_wide_by"] <= 0


def test_axe_finds_what_is_wrong(axe: Path, browser: Any, page: Path, tmp_path: Path) -> None:
    worse = tmp_path / "worse.html"
    text = page.read_text(encoding="utf-8").replace('lang="en"', "").replace(' alt="', ' data-alt="')
    worse.write_text(
        text.replace("--soft:#5b6472", "--soft:#c9ced6").replace("*{box", ".list{width:900px}*{box")
    )
    found = look.examine(browser, worse, axe, 390)
    assert {"html-has-lang (serious)", "image-alt (critical)", "color-contrast (serious)"} <= set(
        found["rules"]
    )
    assert found["too_wide_by"] > 0


def test_the_keyboard_reaches_the_findings_first_and_then_everything_that_scrolls(
    browser: Any, page: Path
) -> None:
    browser.open(page, 390)
    focus = "document.activeElement"
    name = f"{focus}.getAttribute('href') || {focus}.getAttribute('aria-label') || {focus}.tagName"
    reached = []
    for _ in range(60):
        browser.press("Tab", 9)
        reached.append(browser.run(name))
        if reached[-1] == "BODY":
            break
    assert reached[0] == "#content"
    assert {
        "#metrics",
        "#users",
        "Missed items",
        "History of user user-1",
        "Costs by stage",
        "SUMMARY",
    } <= set(reached)
