"""What axe-core finds in a report: violations by impact, on a phone and on a desk, light and dark.

    python benchmarks/report_axe.py --axe axe-core/axe.min.js [--report runs/demo/report/index.html] [--quick]

Without --report, the page of a made-up run with every section is examined (--seed changes nothing; --quick:
only the phone, light). Needs Chromium, and axe-core (`npm install axe-core`) as a file. Prints one JSON
object as its last line; exit code 1 for a serious or critical violation, or for a page wider than its window.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from browser import Browser, find_browser

WIDTHS = {"phone": 390, "desk": 1280}
GRAVE = ("serious", "critical")
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def main() -> None:
    """Examines one page in every setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--axe", type=Path, required=True, help="axe.min.js of axe-core")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--pictures", type=Path, help="folder for a screenshot of each setting")
    chosen = parser.parse_args()
    path = find_browser()
    if path is None:
        raise SystemExit("no Chromium: install it, or name it in CHROMIUM")
    with tempfile.TemporaryDirectory() as folder, Browser(path) as browser:
        page = chosen.report or made_up(Path(folder))
        settings = [(name, dark) for name in WIDTHS for dark in (False, True)]
        found = {}
        for name, dark in settings[:1] if chosen.quick else settings:
            label = f"{name} {'dark' if dark else 'light'}"
            found[label] = examine(browser, page, chosen.axe, WIDTHS[name], dark=dark)
            if chosen.pictures:
                chosen.pictures.mkdir(parents=True, exist_ok=True)
                browser.picture(chosen.pictures / f"{label.replace(' ', '-')}.png", whole=True)
    sys.stdout.write(json.dumps({"page_kb": page_kb(chosen.report), "settings": found}) + "\n")
    if any(row["impacts"].get(g) for row in found.values() for g in GRAVE):
        raise SystemExit(1)
    if any(row["too_wide_by"] > 0 for row in found.values()):
        raise SystemExit(1)


def examine(browser: Browser, page: Path, axe: Path, width: int, *, dark: bool = False) -> dict[str, Any]:
    """Violations by impact, their rules with the number of places, and how much the page is too wide."""
    browser.open(page, width, dark=dark)
    # What is folded away is examined too.
    browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    browser.run(axe.read_text(encoding="utf-8") + "; 1")
    asked = json.dumps({"runOnly": {"type": "tag", "values": TAGS}})
    answer = browser.run(
        f"axe.run(document, {asked}).then(r => r.violations.map(v => "
        "({id: v.id, impact: v.impact, help: v.help, nodes: v.nodes.map(n => n.target.join(' '))})))"
    )
    impacts: dict[str, int] = {}
    for row in answer:
        impacts[row["impact"]] = impacts.get(row["impact"], 0) + len(row["nodes"])
    return {
        "impacts": impacts,
        "rules": {f"{row['id']} ({row['impact']})": row["nodes"][:3] for row in answer},
        "too_wide_by": int(browser.run("document.documentElement.scrollWidth")) - width,
    }


def page_kb(page: Path | None) -> int | None:
    """Size of the page in kB."""
    return None if page is None else round(page.stat().st_size / 1000)


def made_up(folder: Path) -> Path:
    """A page with every section, so that the check needs no run."""
    from PIL import Image

    from catalograph.report import data as shown
    from catalograph.report.render import picture_uri, write_report

    picture = picture_uri(Image.new("RGB", (200, 150), (180, 60, 90)))
    cards = [
        shown.Card(f"sku-{n}", f"Mug number {n}", f"a round mug with {n} stripes", picture if n % 2 else None)
        for n in range(10)
    ]
    pulls = {"reranker": 1.2, "item_knn": -0.4, "popularity": 0.1}
    before = [
        shown.ListedItem(card, n + 1, None, {"item_knn": 0.5 / (n + 1)}) for n, card in enumerate(cards)
    ]
    after = [
        shown.ListedItem(card, n + 1, 10 - n, {}, n == 2, pulls) for n, card in enumerate(reversed(cards))
    ]
    interval = shown.Interval(0.2, 0.19, 0.21, 0.001)
    row = shown.MetricRow("reranked", {"ndcg@10": interval}, {"ndcg@10": interval}, "with the model")
    table = shown.MetricTable("Test split, 1,000 users", ["ndcg@10"], [row], "retrieved", "Means over users.")
    groups = shown.MetricTable("Weakest groups", ["ndcg@10"], [row], None, "Lowest first.")
    detail = shown.MetricTable("By activity", ["ndcg@10"], [row], None, "Groups of users.", detail=True)
    lines = [
        shown.Series(name, [(x, 1 / (x + n)) for x in range(1, 9)]) for n, name in enumerate("abcdef", 1)
    ]
    return write_report(
        shown.ReportData(
            "A made-up run",
            notice="Made up, to look at the page.",
            notes=["One thousand users.", "Strict protocol."],
            headlines=[
                shown.Headline(f"What {kind} looks like", "+0.0123", "From 0.1 to 0.1123.", kind)
                for kind in ("better", "worse", "open", "")
            ],
            metrics=[table, detail],
            shortfalls=shown.Shortfalls(
                [shown.Outcome("among the first 10", 400, 0.4, "served")],
                [shown.MissedItem(card, 9, 7, 3) for card in cards[:4]],
                "Ten of 100 items were never chosen.",
                groups,
            ),
            differing=[
                shown.SideBySide(
                    "Settings that differ",
                    ["run-a", "run-b"],
                    {"candidates.k": [30, 50]},
                    "Marked.",
                    marked=True,
                )
            ],
            curves=[shown.Chart("Training loss", lines, "epoch", "loss")],
            users=[shown.UserExample("user-1", cards, before, after, "From place 8 to 3.", "drawn by lot")],
            history_note="Histories are in order of time.",
            stages=[shown.StageRow("train", 75.2, 10, 9, 1, 1, "reused", 812.0, 2_500_000, 900)],
            quarantine=[shown.QuarantineRow("sku-3", "caption", "truncated", "end of file")],
            config_yaml="data:\n  catalog: items.csv\n",
            provenance={"python": "3.11", "host": "example"},
        ),
        folder / "index.html",
    )


if __name__ == "__main__":
    main()
