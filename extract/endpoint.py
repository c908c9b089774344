"""Captions from a server that speaks OpenAI's chat protocol (vLLM, SGLang, TGI, llama.cpp and others).

Greedy, one picture per request, a bounded number of requests at once, further tries ever longer apart.
Left out: streaming, batches handed over as files, several servers; put a load balancer in front of those.
"""

from __future__ import annotations

import base64
import io
import logging
import os
import queue
import random
import re
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import InferenceClient, get_session
from PIL import Image

from extract.endpoint_settings import EndpointConfig
from extract.engines import CaptionConfig, engine_fingerprint
from extract.errors import MissingPrerequisite
from extract.faults import Failure, describe
from extract.prompts import plain

logger = logging.getLogger(__name__)

LATER = {408, 425, 429, 500, 502, 503, 504}
ABOUT_THE_ITEM = {400, 413, 415, 422, 451, 500}
"""What a server says about one picture or prompt; 500 only if it says so every time."""
CONTROL = re.compile(
    r"<\|[^<>|]{1,40}\|>|\[/?(?:INST|IMG[A-Z_]*)\]"
    r"|</?(?:s|bos|eos|img|image|video|(?:image|img|video|start_of|end_of)_\w{1,20})>",
    re.IGNORECASE,
)
"""Control tokens of common models: the server's own are not known here."""
LONGEST_PAUSE = 60.0
MOST_BYTES = 4 * 2**20


class _Refusal(Exception):
    """No usable answer; ``status`` is 0 where there was none at all."""

    def __init__(self, status: int, why: str, pause: float | None = None) -> None:
        super().__init__(why)
        self.status, self.why, self.pause = status, why, pause


class _OneHost(InferenceClient):
    """The hub's client, held to the one address it was made for.

    As it comes it follows redirects, which would carry a picture to a host nobody allowed, sends the hub's
    token to whatever server where it is given none, and obeys HF_HUB_OFFLINE, which is about the hub.
    """

    def __init__(self, settings: EndpointConfig, key: str | None) -> None:
        super().__init__(base_url=settings.url, api_key=key or "none", timeout=settings.timeout)
        self._key = key
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = type(get_session())(follow_redirects=False, timeout=settings.timeout)
        weakref.finalize(self, self._http.close)

    def _inner_post(self, request_parameters: Any, *, stream: bool = False) -> Any:
        body = b""
        try:
            with self._http.stream(
                "POST", request_parameters.url, json=request_parameters.json, headers=self._headers
            ) as response:
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > MOST_BYTES:
                        raise _Refusal(0, f"an answer of more than {MOST_BYTES:,} bytes")
        except _Refusal:
            raise
        except Exception as error:
            # The transport has its own tree of errors, which changes with the hub's release.
            raise _Refusal(0, describe(error)) from None
        if response.status_code != 200:
            after = response.headers.get("Retry-After", "")
            # The key goes before the text is cut, or half of it could stay.
            said = plain(_without(self._key, body.decode(errors="replace")))[:200]
            why = f"HTTP {response.status_code}: {said}"
            raise _Refusal(response.status_code, why, float(after) if after.isdecimal() else None)
        return body


class EndpointCaptioner:
    """A vision-language model behind a server.

    Raises:
        MissingPrerequisite: the variable with the key is not set.
    """

    def __init__(self, config: CaptionConfig) -> None:
        if config.endpoint is None:
            raise ValueError("the engine `endpoint` needs the section `endpoint`")
        self.fingerprint: Mapping[str, str] = engine_fingerprint(config)
        self._model, self._settings, self._longest = config.model, config.endpoint, config.max_new_tokens
        self._key = _key(config.endpoint.api_key_env)
        self._client = _OneHost(config.endpoint, self._key)
        self._spread = random.Random(0)

    def caption(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[str | Failure]:
        """What the model wrote about each RGB picture, in order; a Failure where the server refused that one.

        Raises:
            MissingPrerequisite: the server does not answer, or refuses everything.
        """
        stop, jobs = threading.Event(), queue.SimpleQueue[tuple[int, Image.Image, str]]()
        answers: dict[int, str | Failure] = {}
        errors: list[BaseException] = []
        for row, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
            jobs.put((row, image, prompt))

        def work() -> None:
            while not stop.is_set():
                try:
                    row, image, prompt = jobs.get_nowait()
                    answers[row] = self._insist(image, prompt, stop)
                except queue.Empty:
                    return
                except BaseException as error:
                    errors.append(error)
                    stop.set()

        # Daemons, because a run that is interrupted must not wait for answers that are still on their way.
        count = min(self._settings.concurrency, len(images))
        threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            stop.set()
        if errors:
            raise errors[0]
        return [answers[row] for row in range(len(images))]

    def _insist(self, image: Image.Image, prompt: str, stop: threading.Event) -> str | Failure:
        for tried in range(self._settings.retries + 1):
            if stop.is_set():
                # Another request met the reason to end; this one's result is not looked at.
                return ""
            try:
                return self._answer(image, prompt)
            except _Refusal as refusal:
                last = refusal
            if last.status not in LATER | {0}:
                break
            if tried < self._settings.retries:
                logger.info("the captioning server: %s; trying again", _without(self._key, last.why))
                stop.wait(self._pause(tried, last))
        return self._give_up(last)

    def _answer(self, image: Image.Image, prompt: str) -> str | Failure:
        picture = {"type": "image_url", "image_url": {"url": _data_url(image, self._settings.jpeg_quality)}}
        try:
            answer = self._client.chat_completion(
                [{"role": "user", "content": [picture, {"type": "text", "text": CONTROL.sub(" ", prompt)}]}],
                model=self._model,
                max_tokens=self._longest,
                temperature=0.0,
                seed=0,
            )
            choice = answer.choices[0]
            if choice.finish_reason == "content_filter":
                return Failure("refused", "the server's content filter")
            return (choice.message.content or "").strip()
        except _Refusal:
            raise
        except Exception as error:
            raise _Refusal(0, f"not an answer of the chat protocol: {describe(error)}") from error

    def _pause(self, tried: int, refusal: _Refusal) -> float:
        pause = self._settings.backoff * 2**tried if refusal.pause is None else refusal.pause
        # Spread, so that requests that failed together do not come back together.
        return min(LONGEST_PAUSE, pause) * self._spread.uniform(1.0, 1.25)

    def _give_up(self, refusal: _Refusal) -> Failure:
        why, host = _without(self._key, refusal.why), urlsplit(self._settings.url).netloc
        if refusal.status in ABOUT_THE_ITEM:
            return Failure("refused", why)
        if refusal.status in LATER | {0}:
            raise MissingPrerequisite(
                "M305",
                f"the captioning server does not answer, after {self._settings.retries} further tries",
                where=host,
                why=why,
                next_step="start it, or correct caption.endpoint.url, and run the same command again",
            )
        raise MissingPrerequisite(
            "M304",
            "the captioning server refuses every request",
            where=host,
            why=why,
            next_step="check caption.model, endpoint.url, endpoint.api_key_env; redirects are not followed",
        )


def _without(key: str | None, text: str) -> str:
    return text.replace(key, "***") if key else text


def _key(name: str | None) -> str | None:
    if name is None:
        return None
    if not os.environ.get(name):
        raise MissingPrerequisite(
            "M304",
            f"the environment variable {name} is not set",
            why="caption.endpoint.api_key_env names it",
            next_step=f"export {name}=...",
        )
    key = os.environ[name].strip()
    if not re.fullmatch(r"[\x21-\x7e]+", key):
        # The transport would refuse it too, and show it.
        raise MissingPrerequisite("M304", f"the environment variable {name} holds no key", why="blanks in it")
    return key


def _data_url(image: Image.Image, jpeg_quality: int | None) -> str:
    buffer = io.BytesIO()
    if jpeg_quality is None:
        kind = "png"
        image.save(buffer, "PNG", compress_level=1)
    else:
        kind = "jpeg"
        image.save(buffer, "JPEG", quality=jpeg_quality)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
