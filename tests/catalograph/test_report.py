from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from catalograph.report import (
    Card,
    Chart,
    Headline,
    Interval,
    ListedItem,
    MetricRow,
    MetricTable,
    MissedItem,
    Outcome,
    QuarantineRow,
    ReportData,
    Series,
    Shortfalls,
    SideBySide,
    StageRow,
    UserExample,
)
from catalograph.report.charts import interval_mark, line_chart, ticks
from catalograph.report.render import picture_uri, render_report, safe_picture, write_report
from catalograph.report.words import duration, moved, number, percent, pulled, rate, signed, size, verdict

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
VOID = {"meta", "img", "br", "rect", "line", "circle", "polyline"}


class Page(HTMLParser):
    """Collects what a browser would act on, and checks that every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID and tag not in {"li", "p"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID and tag not in {"li", "p"}:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def picture() -> str:
    return picture_uri(Image.new("RGB", (300, 200), (200, 30, 60)), 64)


def example(picture: str, title: str = HOSTILE) -> ReportData:
    cards = [
        Card("a", title, title, picture),
        Card("b", "Plain mug"),
        Card(title, "", None, "https://evil.example/x"),
    ]
    before = [
        ListedItem(card, rank, None, {title: 0.5}, rank == 2) for rank, card in enumerate(cards, start=1)
    ]
    after = [
        ListedItem(cards[1], 1, 2, {"llm": 1.25}, True),
        ListedItem(cards[0], 2, 1, {}, False, {title: -0.5, "llm": 2.0}),
        ListedItem(cards[2], 3, 3),
    ]
    rows = [
        MetricRow("retrieved", {"ndcg@10": Interval(0.2, 0.19, 0.21)}),
        MetricRow(
            "reranked",
            {"ndcg@10": Interval(0.25, 0.24, 0.26)},
            {"ndcg@10": Interval(0.05, 0.03, 0.07)},
            title,
        ),
        MetricRow("bare", {"ndcg@10": Interval(0.1)}),
    ]
    return ReportData(
        title=title,
        notice="A self-test of the plumbing, not evidence about your data.",
        notes=[title],
        headlines=[Headline(title, title, title, "better")],
        metrics=[MetricTable(title, ["ndcg@10", "recall@20"], rows, "retrieved", title)],
        shortfalls=Shortfalls(
            [Outcome(title, 225, 0.15, title)], [MissedItem(cards[0], 9, 7, 3)], title, None
        ),
        curves=[Chart(title, [Series(title, [(1, 0.5), (2, float("nan")), (3, 0.7)])], title, title)],
        users=[UserExample(title, cards, before, after, title, title)],
        history_note=title,
        stages=[StageRow(title, 75.2, 10, 9, 1, 1, title, 812.0, 2_500_000, 900), StageRow("train", 0.5)],
        quarantine=[QuarantineRow(title, title, title, title)],
        quarantine_total=12,
        config_yaml=title,
        provenance={title: title},
    )


def test_hostile_titles_are_text_everywhere(picture: str) -> None:
    page = Page(render_report(example(picture)))
    assert page.all("script") == []
    assert not [attrs for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert [attrs["src"] for attrs in page.all("img")] == [picture] * 4
    assert page.text.count("<script>alert(1)</script>") >= 28
    assert page.open == []


def test_nothing_is_loaded_from_outside(picture: str) -> None:
    text = render_report(example(picture, "A mug"))
    assert re.findall(r"https?://|//[a-z]|@import|url\(", text.replace(picture, "")) == []
    for tag, attrs in Page(text).tags:
        assert tag not in {"link", "iframe", "object", "embed", "form", "base"}
        assert not {"srcset", "formaction", "ping"} & attrs.keys()
        assert attrs.get("href", "#").startswith("#")  # type: ignore[union-attr]
        assert attrs.get("src", "data:").startswith("data:image/jpeg;base64,") or "src" not in attrs  # type: ignore[union-attr]


def test_a_policy_forbids_loading() -> None:
    page = Page(render_report(ReportData("x")))
    policy = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == [
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    ]


def test_the_notice_comes_first(picture: str) -> None:
    after_head = render_report(example(picture, "Title")).split("</head>")[1].removesuffix("</html>\n")
    body = Page(after_head.removesuffix("</html>")).text
    assert body.startswith(
        "A self-test of the plumbing, not evidence about your data. Skip to the findings Title"
    )


def test_every_picture_has_words_and_every_table_a_caption(picture: str) -> None:
    page = Page(render_report(example(picture, "A mug")))
    assert all(attrs.get("alt") == "Picture of A mug" for attrs in page.all("img"))
    assert len(page.all("table")) == len(page.all("caption")) == 4
    assert all("scope" in attrs for attrs in page.all("th"))


def test_moves_truth_and_differences_are_told(picture: str) -> None:
    text = Page(render_report(example(picture, "A mug"))).text
    assert "▲ 1" in text and "▼ 1" in text and "chosen" in text
    assert "0.2500 0.2400 to 0.2600 +0.0500 (+0.0300 to +0.0700)" in text
    assert "llm 1.25" in text and "up 1, was 2" in text and "down 1, was 1" in text
    # What moved an item, the largest part first.
    assert "llm +2.00 A mug −0.50" in text
    assert "missed for 7 of 9; 3 choices before" in text and "225 15.0 % A mug" in text
    assert "1 min 15 s 0.12 900 812 MiB 2.5 MB 10 9 1 1" in text
    assert "the first 1 of 12" in text and "1 min 15 s" in text


def test_an_empty_report_is_a_page() -> None:
    page = Page(render_report(ReportData("Nothing yet")))
    assert page.open == [] and page.all("section") == [] and "Nothing yet" in page.text


def test_the_file_is_written_with_its_folder(tmp_path: Path) -> None:
    path = write_report(ReportData("broken \ud800 surrogate"), tmp_path / "report" / "index.html")
    assert "broken ? surrogate" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "uri",
    [
        "javascript:alert(1)",
        "https://x/y.jpg",
        "data:text/html;base64,AAAA",
        'data:image/jpeg;base64,A" onload="x',
        "data:image/svg+xml;base64,AAAA",
        None,
    ],
)
def test_only_pictures_of_ours_are_shown(uri: str | None) -> None:
    assert safe_picture(uri) is None


def test_thumbnails_keep_their_shape(picture: str) -> None:
    import base64
    import io

    image = Image.open(io.BytesIO(base64.b64decode(picture.split(",")[1])))
    assert image.size == (64, 43) and image.format == "JPEG" and safe_picture(picture) == picture


def test_figures_read_as_people_write_them() -> None:
    assert [number(1234567), number(0.12345), number(None), number(float("nan"))] == [
        "1,234,567",
        "0.1235",
        "–",
        "–",
    ]
    assert [signed(0.05), signed(-0.05), signed(None)] == ["+0.0500", "−0.0500", "–"]
    assert [duration(0.44), duration(75), duration(3700)] == ["0.4 s", "1 min 15 s", "1 h 01 min"]


def test_changes_rates_and_sizes_read_as_people_write_them() -> None:
    assert [percent(0.0984), percent(-0.5)] == ["+9.8 %", "−50.0 %"]
    assert [size(None), size(0), size(999), size(2_500), size(10**7)] == [
        "–",
        "0 B",
        "999 B",
        "2.5 kB",
        "10 MB",
    ]
    assert size(3 * 10**12) == "3000 GB"
    rows = [StageRow("a", 2.0, 9, 9), StageRow("b", 20.0, 9, 9), StageRow("c", 0.001, 9, 9)]
    assert [rate(row) for row in rows] == ["4.5", "0.45", "9,000"]
    assert [rate(StageRow("a", 0.0, 1, 1)), rate(StageRow("a", 1.0))] == ["–", "–"]


def test_parts_of_a_score_come_with_their_share_of_the_largest() -> None:
    item = ListedItem(Card("a", "a"), 1, None, {}, False, {"knn": 0.5, "llm": -2.0, "flat": 0.0})
    assert pulled(item) == [("llm", -2.0, 1.0), ("knn", 0.5, 0.25), ("flat", 0.0, 0.0)]
    assert pulled(ListedItem(Card("a", "a"), 1, None, {}, False, {"knn": 0.0})) == [("knn", 0.0, 0.0)]


def test_a_chart_says_in_words_where_its_lines_start_and_end() -> None:
    drawn = line_chart(Chart("loss", [Series("a", [(0, 1.0), (4, 0.25)]), Series("b", [])], "epoch"))
    assert 'aria-label="loss, by epoch: a from 1 at 0 to 0.25 at 4"' in drawn


def test_moved_counts_places_gained() -> None:
    assert moved(ListedItem(Card("a", "a"), 2, 5)) == 3
    assert moved(ListedItem(Card("a", "a"), 5, 2)) == -3
    assert moved(ListedItem(Card("a", "a"), 5)) == 0


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (Interval(0.1, 0.05, 0.15), "better"),
        (Interval(-0.1, -0.15, -0.05), "worse"),
        (Interval(0.1, -0.05, 0.25), "open"),
        (Interval(0.1, 0.0, 0.2), "open"),
        (Interval(0.1), "open"),
    ],
)
def test_a_difference_counts_only_when_its_interval_excludes_zero(interval: Interval, expected: str) -> None:
    assert verdict(interval) == expected


def test_ticks_are_round_and_enclose_the_data() -> None:
    assert ticks(0.0, 1.0, 6) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(0.13, 0.31, 5) == [0.1, 0.15, 0.2, 0.25, 0.3, 0.35]
    flat = ticks(3.0, 3.0, 5)
    assert flat[0] < 3.0 < flat[-1]


def test_a_chart_without_finite_points_is_nothing() -> None:
    assert line_chart(Chart("x", [Series("a", [(1, float("inf"))]), Series("b", [])])) == ""


def test_a_line_falls_when_its_values_fall() -> None:
    drawn = line_chart(Chart("loss", [Series("loss", [(0, 1.0), (1, 0.0)])]))
    (start, end) = re.findall(r'points="([^"]*)"', drawn)[0].split()
    assert float(start.split(",")[1]) < float(end.split(",")[1]) and float(start.split(",")[0]) < float(
        end.split(",")[0]
    )


def test_an_interval_mark_is_drawn_to_scale() -> None:
    drawn = interval_mark(Interval(0.5, 0.25, 1.0), 1.0)
    assert 'width="48.0"' in drawn and 'x1="24.0" x2="96.0"' in drawn
    assert interval_mark(Interval(float("nan")), 1.0) == ""


def test_what_differs_between_runs_is_marked_and_escaped() -> None:
    rows = {"candidates.k": [30, 50], HOSTILE: [HOSTILE, None], "train.parts": [[1, 2], [1, 2]]}
    table = SideBySide("Settings that differ", ["a", "b"], rows, marked=True)
    page = Page(render_report(ReportData("x", differing=[table, SideBySide("Environments", ["a", "b"], {})])))
    assert len(page.all("mark")) == 2 and page.all("script") == []
    assert "candidates.k 30 50" in page.text and "train.parts [1, 2] [1, 2]" in page.text
    assert "Environments: none." in page.text
