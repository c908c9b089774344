"""A run whose captions come from a server: JSON answers, a key that leaves no trace, a server that moves."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from extract import FakeEngine, FeatureTable

KEY = "canary-key-7f3a"


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[int], tuple[int, str]]], str]]:
    """Starts servers; `answer` gets the number of the request and gives a status and a text."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("SHOP_KEY", KEY)
    running: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def start(answer: Callable[[int], tuple[int, str]]) -> str:
        asked: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                asked.append(str(self.headers["Authorization"]))
                status, text = answer(len(asked))
                choice = {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "finish_reason": "stop",
                }
                usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
                body: dict[str, Any] = {
                    "id": "1",
                    "model": "m",
                    "created": 0,
                    "choices": [choice],
                    "usage": usage,
                }
                data = json.dumps(body).encode() if status == 200 else f"{text}: {asked[-1]}".encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                """A run that was stopped does not wait for its answers."""

        server = Quiet(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}/v1"

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


def captioner(url: str, **changes: Any) -> dict[str, Any]:
    endpoint = {"url": url, "allowed_hosts": ["127.0.0.1"], "api_key_env": "SHOP_KEY", "backoff": 0.001}
    asked = {"prompt": "attributes", "keys": ["colours", "shape"], "item_text": "{title}"}
    engine = {"engine": "endpoint", "model": "some/model", "endpoint": endpoint | {"retries": 1, **changes}}
    return {**engine, **asked, "batch_size": 16, "buckets": 4}


def trace_of(key: str, *places: Path) -> list[str]:
    files = [path for place in places for path in place.rglob("*") if path.is_file()]
    return [str(path) for path in files if key.encode() in path.read_bytes()]


def test_a_server_that_fails_midway_and_moves_costs_nothing_but_the_shard_in_work(
    world: Any, serve: Any
) -> None:
    good = json.dumps({"colours": ["red", "blue"], "shape": "round", "more": 1})
    first = serve(lambda number: (200, f"Here: {good}") if number <= 40 else (503, "down"))
    stopped = world.run("remote", verb="extract", caption=captioner(first), rerank=None)
    assert stopped.code == 3 and "M305" in stopped.err and "***" in stopped.err
    assert trace_of(KEY, world.root) == [] and KEY not in stopped.out + stopped.err
    done = len(list((stopped.folder / "stages").rglob("store/**/*.parquet")))
    assert done >= 1

    asked: list[int] = []
    second = serve(lambda number: asked.append(number) or (200, good))
    run = world.run("remote", "--json", verb="extract", caption=captioner(second), rerank=None)
    assert run.code == 0, run.err
    assert 0 < len(asked) < world.items
    rows = pq.read_table(run.folder / "stages/20-caption/captions.parquet").to_pylist()
    assert {row["caption"] for row in rows} == {'{"colours": ["red", "blue"], "shape": "round"}'}
    assert len(rows) == world.items
    # What is embedded is the answer as text, not its JSON.
    embedded = FeatureTable.load(run.folder / "stages/30-embed/caption.safetensors").matrix
    expected = FakeEngine().embed(["colours: red, blue; shape: round"])
    np.testing.assert_array_equal(embedded, np.repeat(expected, world.items, axis=0))
    assert trace_of(KEY, world.root) == [] and KEY not in run.out + run.err
    assert "SHOP_KEY" in (run.folder / "config.yaml").read_text()


def test_answers_that_stay_invalid_are_quarantined_with_the_reason(world: Any, serve: Any) -> None:
    url = serve(lambda number: (200, "no JSON"))
    run = world.run("remote", "--json", verb="extract", caption=captioner(url), rerank=None, max_bad=1.0)
    assert run.code == 7, run.err
    bad = pq.read_table(run.folder / "stages/20-caption/quarantine.parquet").to_pylist()
    assert {(row["reason"], row["detail"]) for row in bad} == {("invalid-answer", "no JSON object was found")}
    counts = json.loads(run.out)["stages"]["caption"]
    assert (counts["in"], counts["ok"], counts["quarantined"]) == (world.items, 0, world.items)


def test_a_run_that_waits_for_a_server_ends_soon_after_a_signal(world: Any, serve: Any) -> None:
    asked, release = threading.Event(), threading.Event()

    def hang(number: int) -> tuple[int, str]:
        asked.set()
        release.wait(60)
        return 200, "late"

    config = world.config(caption=captioner(serve(hang), timeout=60), rerank=None)
    (world.root / "hanging.yaml").write_text(yaml.safe_dump(config))
    process = world.start("hanging", world.root / "hanging")
    try:
        assert asked.wait(60)
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
        assert (seconds := time.monotonic() - begun) < 10, seconds
    finally:
        process.kill()
        process.communicate()
        release.set()
