"""What verbs print for people: figures with units, and nothing that a bracket in a name could break."""

from __future__ import annotations

from typing import Any

import pytest

from catalograph.console import print_estimate, print_settings, print_stages, print_tables, print_worth
from catalograph.report.data import Interval, MetricRow, MetricTable


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def estimate(**more: Any) -> dict[str, Any]:
    stage = {
        "items": 12_000, "sampled": 64, "items_per_second": 41.25, "load_seconds": 2.5, "seconds": 5400.0,
        "disk_bytes": 3 * 2**20,
    }  # fmt: skip
    return {
        "stages": {"caption": stage}, "hours": 1.5, "memory_bytes": 3 * 2**29, "accelerator_bytes": 0,
        "disk_bytes": 2**30, "cost": None, **more,
    }  # fmt: skip


def test_an_estimate_is_told_in_hours_and_gigabytes(capsys: pytest.CaptureFixture[str]) -> None:
    print_estimate(estimate())
    text = printed(capsys)
    assert "caption 12,000 64 41.25 2.5 1.500 3.0" in text
    assert text.endswith("1.500 hours, 1.50 GB memory, 1.00 GB disk")


def test_an_estimate_with_a_price_and_an_accelerator_tells_both(capsys: pytest.CaptureFixture[str]) -> None:
    print_estimate(estimate(accelerator_bytes=2**31, cost=3.75))
    assert printed(capsys).endswith("1.50 GB memory, 2.00 GB on the accelerator, 1.00 GB disk, cost 3.75")


def test_worth_ends_with_its_answer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    gain = {"gain": 0.0123, "low": 0.01, "high": -0.02}
    row = {
        "users": 1200,
        "means": {"captions": 0.25},
        "gain_over": {"titles": gain, "noise": gain},
        "answer": "yes",
    }
    print_worth(
        {
            "metric": "ndcg@20", "retriever": "lir[dr]ec", "answer": "yes",
            "sample": {"items": 800, "users": 4000, "seeds": 3}, "strata": {"all": row},
            "whole_catalogue": {"items": 10**6, "hours": 2.5, "disk_bytes": 2**30, "cost": 6.25},
        }
    )  # fmt: skip
    text = printed(capsys)
    assert "ndcg@20 of lir[dr]ec with captions" in text and "800 items, 4,000 users, 3 seeds" in text
    assert "all 1,200 0.2500 +0.0123 +0.0100 -0.0200" in text
    assert text.endswith("1,000,000 items: 2.500 hours, 1.00 GB, cost 6.25. yes")


def test_settings_of_runs_are_told_as_in_yaml_and_a_long_list_is_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = {"candidates.k": [30, None], "rerank.item": ["[title]", "x"]}
    print_settings(rows | {f"key{n}": [n, True] for n in range(20)})
    text = printed(capsys)
    assert text.startswith("candidates.k: 30 | – rerank.item: [title] | x key0: 0 | true")
    assert text.endswith("key17: 17 | true and 2 more: --page, --json")


def test_columns_that_do_not_fit_are_left_to_the_report(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    values = {name: Interval(0.25, -0.0125, 0.5) for name in ("one", "two", "three")}
    print_tables([
        MetricTable("Test", list(values), [MetricRow("a", values)]),
        MetricTable("no", [], [], detail=True),
    ])
    text = printed(capsys)
    assert "one" in text and "two" not in text and "-.0125 .5000" in text
    assert "the other metrics are in the report" in text and "no" not in text.split()


def test_stages_tell_what_was_reused_and_what_was_set_aside(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {"in": 1000, "ok": 998, "quarantined": 2, "seconds": 1.25}
    print_stages({"caption": rows, "embed": {**rows, "quarantined": 0, "reused": True}})
    assert capsys.readouterr().out.splitlines() == [
        "caption: 998 of 1,000 ok, 2 quarantined (1.2 s)",
        "embed: 998 of 1,000 ok (reused)",
    ]
