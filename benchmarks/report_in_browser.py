"""Hostile titles in the report of a real run, opened in a headless Chromium: how many of them act.

    python benchmarks/report_in_browser.py [--browser chromium] [--seed 0] [--quick]

A drawn shop gets titles that would run a script, load something from a server of ours or lead away from the
page, in turn; `catalograph run` makes its report, which is opened from a file and given five seconds. Pages
beside it show that the browser would act: the same titles unescaped on a plain page; the report with them
put in unescaped after it was made, which only its content security policy then holds back; and that without
the policy. A title that acts sets a mark on the page or asks the server. `--quick`: a smaller shop.

The last line is one JSON object; exit 1 where a title acts in one of the first two pages, or none does in
the others; exit 0 without a browser, which the object says.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from browser import find_browser

from catalograph.demo import packaged_config
from catalograph.demo.shop import open_shop, write_shop

ACT = "document.documentElement.setAttribute('data-acted-NUMBER','')"
SERVER = "http://127.0.0.1:PORT/NUMBER"

PAYLOADS = (
    f"<script>{ACT}</script>",
    f"<img src=x onerror=\"{ACT}\">",
    f"\"'><svg onload=\"{ACT}\">",
    f"</title></style></textarea><script>{ACT}</script>",
    f"<iframe srcdoc=\"<script>parent.{ACT}</script>\"></iframe>",
    f"<details open ontoggle=\"{ACT}\">x</details>",
    f"<body onload=\"{ACT}\">",
    f"<input autofocus onfocus=\"{ACT}\">",
    f"<video><source onerror=\"{ACT}\"></video>",
    f"<svg><animate onbegin=\"{ACT}\" attributeName=x dur=1s>",
    "<style>@keyframes k{}p{animation-name:k}</style>"
    f"<p style='animation:k 1s' onanimationstart=\"{ACT}\">x</p>",
    f"<img src=\"{SERVER}\">",
    f"<link rel=stylesheet href=\"{SERVER}\">",
    f"<script src=\"{SERVER}\"></script>",
    f"<iframe src=\"{SERVER}\"></iframe>",
    f"<object data=\"{SERVER}\"></object>",
    f"<style>@import url('{SERVER}');</style>",
    f"<div style=\"background:url('{SERVER}');width:9px;height:9px\">x</div>",
    f"<video autoplay src=\"{SERVER}\"></video>",
    "{{ 7*7 }}{% raw %}${7*7}", "\u202e\u2066<script>\u2069", "&lt;script&gt;&#60;script&#62;",
)  # fmt: skip
"""Titles that would act, each in its own way, and some that only look so."""


class Server:
    """Notes every path that is asked for."""

    def __init__(self) -> None:
        asked = self.asked = set[str]()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.add(self.path)
                self.send_response(404)
                self.end_headers()

            def log_message(self, *words: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def server() -> Iterator[Server]:
    """A server on this machine for the length of a block."""
    made = Server()
    try:
        yield made
    finally:
        made.close()


def payloads(port: int) -> list[str]:
    """The titles, each with its number, which tells what acted."""
    return [text.replace("PORT", str(port)).replace("NUMBER", str(n)) for n, text in enumerate(PAYLOADS)]


def acted(binary: str, page: Path, watched: Server) -> int:
    """How many titles acted: set a mark on the page, or asked the server."""
    watched.asked.clear()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        shown = subprocess.run(
            [
                binary, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
                "--autoplay-policy=no-user-gesture-required", "--virtual-time-budget=5000",
                f"--user-data-dir={profile}", "--dump-dom", page.absolute().as_uri(),
            ],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
    if "</html>" not in shown.stdout:
        raise RuntimeError(f"the browser showed no page: {shown.stderr[-500:]}")
    root = re.search(r"<html[^>]*>", shown.stdout)
    marks = set(re.findall(r"data-acted-(\d+)", root[0] if root else ""))
    return len(marks | {path.strip("/") for path in watched.asked if path.strip("/").isdigit()})


def unescaped(page: str, titles: list[str], *, policy: bool) -> str:
    """The page with the titles put in as they are, as a page that forgot to escape would hold them."""
    head, _, rest = page.partition("<body")
    opening, _, body = rest.partition(">")
    if not policy:
        lines = [line for line in head.splitlines() if "Content-Security-Policy" not in line]
        head = "\n".join(lines)
    return f"{head}<body{opening}>{''.join(titles)}{body}"


def report_of(folder: Path, titles: list[str], seed: int, size: tuple[int, int]) -> Path:
    """Draws a shop of so many items and people, gives it these titles in turn, and makes its report."""
    write_shop(open_shop(*size, dial=1, seed=seed), folder / "shop", picture_size=32)
    catalog = folder / "shop" / "catalog.parquet"
    table = pq.read_table(catalog)
    names = pa.array([titles[row % len(titles)] for row in range(len(table))])
    for column in ("name", "brand"):
        table = table.set_column(table.column_names.index(column), column, names)
    pq.write_table(table, catalog)
    sets = [f"data.root={folder / 'shop'}", "rerank=null", "caption=null", "report.examples=80"]
    sets += ["retrievers.lirdrec.features=[title]", "retrievers.lirdrec.train.epochs=4"]
    sets += ['features={title: {template: "{title}", embed: {engine: fake, buckets: 4}}}']
    command = [sys.executable, "-m", "catalograph", "run", "-c", str(packaged_config("demo"))]
    command += ["--run-dir", str(folder / "run"), *(part for text in sets for part in ("--set", text))]
    packages = os.pathsep.join(path for path in sys.path if path)
    made = subprocess.run(command, env=os.environ | {"PYTHONPATH": packages}, capture_output=True, text=True)
    if made.returncode:
        raise SystemExit(f"the run exits {made.returncode}:\n{made.stderr[-4000:]}")
    return folder / "run" / "report" / "index.html"


def main() -> int:
    """Makes the run, opens the pages, prints what acted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--browser", help="name or path of the browser; default: CHROMIUM, or the first that is found"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="60 items and 80 people instead of 200 and 200")
    chosen = parser.parse_args()
    binary = find_browser(chosen.browser)
    if binary is None:
        print(json.dumps({"browser": None, "holds": None}))
        return 0
    with tempfile.TemporaryDirectory() as work, server() as watched:
        folder, titles = Path(work), payloads(watched.port)
        page = report_of(folder, titles, chosen.seed, (60, 80) if chosen.quick else (200, 200))
        text = page.read_text(encoding="utf-8")
        held = [title for title in titles if title in html.unescape(text)]
        pages = {
            "report": text,
            "report, titles unescaped": unescaped(text, titles, policy=True),
            "plain page": f"<!doctype html><html><body>{''.join(titles)}</body></html>",
            "report, titles unescaped, no policy": unescaped(text, titles, policy=False),
        }
        found = {}
        for number, (name, content) in enumerate(pages.items()):
            path = folder / f"{number}.html"
            path.write_text(content, encoding="utf-8")
            found[name] = acted(binary, path, watched)
            print(f"{name}: {found[name]} of {len(titles)} titles act", flush=True)
    safe, open_to_them = list(found.values())[:2], list(found.values())[2:]
    holds = len(held) == len(titles) and not any(safe) and all(open_to_them)
    print(json.dumps({"titles": len(titles), "titles_in_report": len(held), "acted": found, "holds": holds}))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
