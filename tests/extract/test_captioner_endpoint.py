"""The engine `endpoint` against a real HTTP server in a thread."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image
from pydantic import ValidationError

from extract import (
    CAPTION_PROMPTS,
    CaptionConfig,
    MissingPrerequisite,
    build_captioner,
    caption_items,
    caption_store,
    captions_of,
    engine_fingerprint,
    quarantine_of,
)
from extract.endpoint import EndpointCaptioner
from extract.faults import Failure

KEY = "canary-key-7f3a"


class Server:
    """A chat server whose answers a test writes; it remembers what it was sent."""

    def __init__(self):
        self.seen, self.headers, self.paths = [], [], []
        self.busy = self.most = 0
        self.lock = threading.Lock()
        self.answer = lambda image, text: f"{image.width} x {image.height}: {text}"

    def reply(self, handler):
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        picture, text = body["messages"][0]["content"]
        kind, _, data = picture["image_url"]["url"].partition(";base64,")
        with self.lock:
            self.busy += 1
            self.most = max(self.most, self.busy)
            self.seen.append(body | {"kind": kind})
            self.headers.append(dict(handler.headers))
            self.paths.append(handler.path)
        try:
            found = self.answer(Image.open(io.BytesIO(base64.b64decode(data))), text["text"])
        finally:
            with self.lock:
                self.busy -= 1
        if isinstance(found, str):
            message = {"role": "assistant", "content": found}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            found = (200, {"id": "1", "model": "m", "created": 0, "choices": [choice], "usage": usage}, {})
        status, content, headers = found
        data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    made = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            made.reply(self)

        def log_message(self, *_):
            pass

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *_):
            """A client that went away is what some tests are about."""

    with Quiet(("127.0.0.1", 0), Handler) as http:
        made.url = f"http://127.0.0.1:{http.server_port}/v1"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        http.shutdown()
        thread.join()


def config_for(server, **changes):
    given = {"url": server.url, "allowed_hosts": ["127.0.0.1"], "backoff": 0.001, "timeout": 10, **changes}
    return CaptionConfig(engine="endpoint", model="some/model", max_new_tokens=9, endpoint=given)


def pictures(*widths):
    return [Image.new("RGB", (width, 2), (width, 0, 0)) for width in widths]


def test_captions_come_back_in_order_whatever_the_order_of_the_answers(server):
    def answer(image, text):
        time.sleep(0.02 * (5 - image.width))
        return f"{image.width} {text}"

    server.answer = answer
    captioner = build_captioner(config_for(server, concurrency=4))
    assert captioner.caption(pictures(1, 2, 3, 4), list("abcd")) == ["1 a", "2 b", "3 c", "4 d"]
    assert server.paths == ["/v1/chat/completions"] * 4


def test_a_request_is_greedy_and_holds_the_pixels_that_were_decoded(server):
    found = []
    server.answer = lambda image, text: found.append(image.convert("RGB").tobytes()) or "ok"
    [image] = pictures(3)
    build_captioner(config_for(server)).caption([image], ["look"])
    [sent] = server.seen
    assert (sent["model"], sent["temperature"], sent["seed"], sent["max_tokens"]) == ("some/model", 0.0, 0, 9)
    assert sent["kind"] == "data:image/png" and found == [image.tobytes()]
    build_captioner(config_for(server, jpeg_quality=90)).caption([image], ["look"])
    assert server.seen[1]["kind"] == "data:image/jpeg"


@pytest.mark.parametrize(
    "token",
    ["<|im_end|>", "<|image_pad|>", "<image>", "</s>", "[INST]", "[/INST]", "<end_of_turn>", "<IMG_CONTEXT>"],
)
def test_a_title_cannot_spell_a_control_token_of_a_common_model(server, token):
    captioner = build_captioner(config_for(server))
    assert captioner.caption(pictures(1), [f"a{token}b <3 [blue]"]) == ["1 x 2: a b <3 [blue]"]


def test_what_a_content_filter_holds_back_is_refused_and_silence_is_empty(server):
    def held(reason, content):
        choice = {"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": content}}
        return 200, {"id": "1", "model": "m", "created": 0, "choices": [choice], "usage": {}}, {}

    server.answer = lambda image, text: (
        held("content_filter", None) if image.width == 1 else held("stop", None)
    )
    found = build_captioner(config_for(server)).caption(pictures(1, 2), ["p"] * 2)
    assert found == [Failure("refused", "the server's content filter"), ""]


def test_no_more_requests_are_under_way_than_allowed(server):
    def answer(image, text):
        time.sleep(0.03)
        return "ok"

    server.answer = answer
    build_captioner(config_for(server, concurrency=3)).caption(pictures(*range(1, 13)), ["p"] * 12)
    assert server.most == 3


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_server_that_is_busy_is_asked_again_until_it_answers(server, status):
    answers = [(status, "busy", {}), (status, "busy", {}), "a lamp"]
    server.answer = lambda image, text: answers.pop(0)
    assert build_captioner(config_for(server, retries=2)).caption(pictures(1), ["p"]) == ["a lamp"]


def test_pauses_double_and_retry_after_goes_before(server):
    pauses = []

    class Clock(threading.Event):
        def wait(self, timeout=None):
            pauses.append(timeout)

    answers = [(503, "", {}), (503, "", {}), (429, "", {"Retry-After": "7"}), "a lamp"]
    server.answer = lambda image, text: answers.pop(0)
    captioner, clock = EndpointCaptioner(config_for(server, backoff=2)), Clock()
    assert captioner._insist(*pictures(1), "p", clock) == "a lamp"
    for pause, least in zip(pauses, (2, 4, 7), strict=True):
        assert least <= pause <= 1.25 * least


def test_a_server_that_hangs_is_given_up_on_after_the_timeout(server):
    answers = [0.6, 0.0]

    def answer(image, text):
        time.sleep(answers.pop(0))
        return "a lamp"

    server.answer = answer
    assert build_captioner(config_for(server, timeout=0.2)).caption(pictures(1), ["p"]) == ["a lamp"]


def test_a_server_that_never_answers_ends_the_run_and_is_named(server):
    captioner = build_captioner(config_for(server, url="http://127.0.0.1:9/v1", retries=2))
    with pytest.raises(MissingPrerequisite, match="does not answer, after 2 further tries") as caught:
        captioner.caption(pictures(1, 2, 3), ["p"] * 3)
    assert (caught.value.code, caught.value.where) == ("M305", "127.0.0.1:9")


BROKEN = {
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "a", "content": ["no text"]}}]
}


@pytest.mark.parametrize("content", ["<html>", {"choices": []}, [], {"error": "x"}, "{" * 9, "\xff", BROKEN])
def test_an_answer_of_another_protocol_ends_the_run(server, content):
    server.answer = lambda image, text: (200, content, {})
    with pytest.raises(MissingPrerequisite) as caught:
        build_captioner(config_for(server, retries=1)).caption(pictures(1), ["p"])
    assert caught.value.code == "M305" and len(server.seen) == 2


def test_an_endless_answer_is_cut_off(server):
    server.answer = lambda image, text: (200, "x" * (5 * 2**20), {})
    with pytest.raises(MissingPrerequisite, match=r"more than 4,194,304 bytes"):
        build_captioner(config_for(server, retries=0)).caption(pictures(1), ["p"])


@pytest.mark.parametrize("status", [400, 413, 422, 500])
def test_one_refused_picture_is_a_failure_and_its_neighbours_are_captioned(server, status):
    server.answer = lambda image, text: (status, "cannot read", {}) if image.width == 2 else "ok"
    found = build_captioner(config_for(server, retries=1)).caption(pictures(1, 2, 3), ["p"] * 3)
    assert found == ["ok", Failure("refused", f"HTTP {status}: cannot read"), "ok"]


def test_a_picture_the_server_refuses_is_quarantined_with_its_reason(server, shop, tmp_path, picture_bytes):
    catalog, prompt = shop(4), CAPTION_PROMPTS["plain"]
    (catalog.pictures.root / "2.png").write_bytes(picture_bytes(2, "PNG", (7, 7)))
    server.answer = lambda image, text: (400, "too small", {}) if image.width == 7 else "a lamp"
    captioner = build_captioner(config_for(server))
    store = caption_store(tmp_path / "s", captioner, prompt=prompt, batch_size=8, buckets=1)
    assert caption_items(catalog, captioner, store, prompt=prompt).n_quarantined == 1
    [bad] = quarantine_of(store)
    assert (bad.item_id, bad.reason, bad.detail) == ("item-2", "refused", "HTTP 400: too small")
    assert len(captions_of(store)) == 3 and len(server.seen) == 4


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_of_everything_ends_the_run_at_once(server, status):
    server.answer = lambda image, text: (status, "no", {})
    with pytest.raises(MissingPrerequisite, match="refuses every request") as caught:
        build_captioner(config_for(server)).caption(pictures(1), ["p"])
    assert caught.value.code == "M304" and len(server.seen) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(server, status):
    elsewhere = {"Location": server.url.replace("127.0.0.1", "localhost") + "/stolen"}
    server.answer = lambda image, text: (status, "", elsewhere)
    with pytest.raises(MissingPrerequisite, match="redirects are not followed"):
        build_captioner(config_for(server)).caption(pictures(1), ["p"])
    assert server.paths == ["/v1/chat/completions"]


def test_the_key_comes_from_the_named_variable_and_the_hubs_token_stays_at_home(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    monkeypatch.setenv("SHOP_KEY", KEY)
    build_captioner(config_for(server)).caption(pictures(1), ["p"])
    build_captioner(config_for(server, api_key_env="SHOP_KEY")).caption(pictures(1), ["p"])
    without, given = server.headers
    assert "hf_canary" not in json.dumps(server.headers)
    assert "Authorization" not in {name.title() for name in without}
    assert {name.title(): value for name, value in given.items()}["Authorization"] == f"Bearer {KEY}"


def test_a_missing_key_is_told_before_any_request(server, monkeypatch):
    monkeypatch.delenv("SHOP_KEY", raising=False)
    with pytest.raises(MissingPrerequisite, match="SHOP_KEY is not set"):
        build_captioner(config_for(server, api_key_env="SHOP_KEY"))


@pytest.mark.parametrize("status", [400, 401, 503])
def test_a_server_that_echoes_the_key_does_not_get_it_written(server, monkeypatch, caplog, status):
    monkeypatch.setenv("SHOP_KEY", KEY)
    caplog.set_level("DEBUG")
    # The second time it stands where a message is cut.
    server.answer = lambda image, text: (status, f"bad key {KEY}{'x' * 180}{KEY}", {})
    captioner = build_captioner(config_for(server, api_key_env="SHOP_KEY", retries=1))
    try:
        said = str(captioner.caption(pictures(1), ["p"]))
    except MissingPrerequisite as error:
        said = str(error)
    assert "bad key ***" in said
    assert KEY[:4] not in said + caplog.text


def test_a_key_that_is_no_header_is_refused_and_not_shown(server, monkeypatch):
    monkeypatch.setenv("SHOP_KEY", f"{KEY}\nX: y")
    with pytest.raises(MissingPrerequisite, match="SHOP_KEY holds no key") as caught:
        build_captioner(config_for(server, api_key_env="SHOP_KEY"))
    assert KEY not in str(caught.value)


def test_the_hubs_offline_mode_does_not_forbid_a_server_of_ones_own(server, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: True)
    assert build_captioner(config_for(server)).caption(pictures(1), ["p"]) == ["1 x 2: p"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"url": "http://127.0.0.2/v1"}, "not among `allowed_hosts`"),
        ({"url": "http://127.0.0.1.evil.example/v1"}, "not among `allowed_hosts`"),
        ({"url": "ftp://127.0.0.1/v1"}, "must begin with http"),
        ({"url": "127.0.0.1:8000"}, "must begin with http"),
        ({"url": "http://me:secret@127.0.0.1/v1"}, "no credentials"),
        ({"url": "http://127.0.0.1/v1?key=secret"}, "no credentials"),
        ({"allowed_hosts": []}, "at least 1 item"),
        ({"api_key_env": "hf_abcdef"}, "not the key itself"),
        ({"api_key_env": "sk-abcdef"}, "not the key itself"),
    ],
)
def test_settings_that_would_send_pictures_astray_or_hold_a_secret_are_refused(wrong, words):
    given = {"url": "http://127.0.0.1/v1", "allowed_hosts": ["127.0.0.1"], **wrong}
    with pytest.raises(ValidationError, match=words):
        CaptionConfig(engine="endpoint", model="m", endpoint=given)


@pytest.mark.parametrize(
    "missing", [{"model": "m"}, {"endpoint": {"url": "http://a/v1", "allowed_hosts": ["a"]}}]
)
def test_the_engine_needs_a_server_and_a_model(missing):
    with pytest.raises(ValidationError, match="needs `model` and the section `endpoint`"):
        CaptionConfig(engine="endpoint", **missing)


def test_the_fingerprint_holds_what_decides_a_caption_and_not_where_the_server_is(server):
    config = config_for(server)
    same = config_for(server, url="http://127.0.0.1:1/v2", concurrency=1, timeout=1, retries=0)
    assert engine_fingerprint(config) == engine_fingerprint(same)
    assert build_captioner(config).fingerprint == engine_fingerprint(config)
    for change in ({"model": "other"}, {"revision": "abc"}, {"max_new_tokens": 8}):
        assert engine_fingerprint(config.model_copy(update=change)) != engine_fingerprint(config)
    assert engine_fingerprint(config_for(server, jpeg_quality=90)) != engine_fingerprint(config)
