"""The report in a real browser: what a hostile title would do on an open page, it does not do here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from catalograph.report.data import Card, ReportData, UserExample
from catalograph.report.render import render_report

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from browser import find_browser
from report_in_browser import PAYLOADS, acted, payloads, server, unescaped

pytestmark = pytest.mark.skipif(find_browser() is None, reason="no Chromium on this machine")


def page_of(titles: list[str]) -> str:
    cards = [Card(title, title, title) for title in titles]
    user = UserExample(titles[0], cards, [], [], titles[1])
    empty = ReportData(
        title=titles[0], notice=titles[2], notes=titles, metrics=[], curves=[], users=[user], history_note="",
        stages=[], quarantine=[], quarantine_total=0, config_yaml="\n".join(titles), provenance={},
    )  # fmt: skip
    return render_report(empty)


def test_hostile_titles_act_on_an_open_page_and_not_in_the_report(tmp_path: Path) -> None:
    binary = find_browser()
    assert binary is not None
    with server() as watched:
        titles = payloads(watched.port)
        report = page_of(titles)
        pages = {
            "report": report,
            # A page that forgot to escape: the policy alone holds them back.
            "policy": unescaped(report, titles, policy=True),
            "open": unescaped(report, titles, policy=False),
        }
        found = {}
        for name, text in pages.items():
            path = tmp_path / f"{name}.html"
            path.write_text(text, encoding="utf-8")
            found[name] = acted(binary, path, watched)
    assert (found["report"], found["policy"]) == (0, 0)
    assert found["open"] >= len(PAYLOADS) // 2
