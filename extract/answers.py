"""From what a captioner wrote to what is kept: cleaned, checked, and asked for once more where it is no JSON.

An answer is untrusted text: a picture may show words, and a model may obey them. It becomes one line without
control or invisible characters; tags and JSON are read into their parts and written again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from PIL import Image

from extract.engines import Captioner
from extract.faults import Failure
from extract.prompts import Prompt, plain

INVALID = "invalid-answer"
MOST_TAGS, LONGEST_VALUE = 12, 80
_THOUGHTS = re.compile(r"^.*</think>", re.DOTALL)
_FENCE = re.compile(r"```[a-z]*")
_LABEL = re.compile(r"^(?:caption|description|answer|tags)\s*:\s*", re.IGNORECASE)
_BETWEEN_TAGS = re.compile(r"[,;|\n\u2022\u3001\uff0c]")
_LONGEST_ANSWER, _MOST_STARTS = 20_000, 20


def ask(
    captioner: Captioner, prompt: Prompt, batch: Sequence[tuple[Image.Image, str]]
) -> list[str | Failure]:
    """Cleaned answers to pairs of picture and instruction, in order; a Failure where there is none to keep.

    What should be JSON and is not is asked for once more, with what was wrong, the whole batch's at a time.
    """
    answers = _read(captioner, prompt, batch)
    again = [
        (row, answer.detail)
        for row, answer in enumerate(answers)
        if isinstance(answer, Failure) and answer.reason == INVALID
    ]
    if again:
        second = [(batch[row][0], prompt.again(batch[row][1], problem)) for row, problem in again]
        for (row, _), answer in zip(again, _read(captioner, prompt, second), strict=True):
            answers[row] = answer
    return answers


def _read(
    captioner: Captioner, prompt: Prompt, batch: Sequence[tuple[Image.Image, str]]
) -> list[str | Failure]:
    written = captioner.caption([image for image, _ in batch], [text for _, text in batch])
    if len(written) != len(batch):
        raise ValueError(f"the engine gave {len(written)} results for {len(batch)} items")
    return [answer if isinstance(answer, Failure) else read_answer(prompt, answer) for answer in written]


def read_answer(prompt: Prompt, written: str) -> str | Failure:
    """What is kept of one answer: a line of text, tags joined by commas, or a JSON object on one line."""
    text = _THOUGHTS.sub("", written)
    if not text.strip():
        return Failure("empty-caption", "the model wrote nothing")
    if prompt.form == "json":
        return _json(text, prompt.keys)
    text = _FENCE.sub(" ", text).replace("**", "")
    if prompt.form == "tags":
        return _tags(text)
    line = _unquoted(_LABEL.sub("", plain(text)))
    return line or Failure("empty-caption", "the model wrote nothing that can be read")


def as_text(prompt: Prompt, caption: str) -> str:
    """A kept caption as text for an embedder or a reader; JSON reads ``colours: red, blue; shape: round``."""
    if prompt.form != "json":
        return caption
    found: dict[str, str | list[str]] = json.loads(caption)
    texts = {key: ", ".join(value) if isinstance(value, list) else value for key, value in found.items()}
    return "; ".join(f"{key}: {text}" for key, text in texts.items() if text)


def _tags(text: str) -> str | Failure:
    parts = (
        _unquoted(plain(part).lstrip("-*#0123456789.) "))
        for part in _BETWEEN_TAGS.split(_LABEL.sub("", text))
    )
    tags = dict.fromkeys(tag.rstrip(".").lower() for tag in parts if 0 < len(tag) <= LONGEST_VALUE // 2)
    return ", ".join(list(tags)[:MOST_TAGS]) or Failure(
        "no-tags", f"no tag of at most {LONGEST_VALUE // 2} letters"
    )


def _json(text: str, keys: Sequence[str]) -> str | Failure:
    found = _first_object(text[:_LONGEST_ANSWER])
    if found is None:
        return Failure(INVALID, "no JSON object was found")
    missing = [key for key in keys if key not in found]
    if missing:
        return Failure(INVALID, f"keys are missing: {', '.join(missing)}")
    kept: dict[str, str | list[str]] = {}
    for key in keys:
        value = _value(found[key])
        if value is None:
            return Failure(INVALID, f"the value of {key} is neither a short text nor a list of short texts")
        kept[key] = value
    if not any(kept.values()):
        return Failure(INVALID, "every value is empty")
    return json.dumps(kept, ensure_ascii=False)


def _first_object(text: str) -> dict[str, Any] | None:
    """The first JSON object in a text; words and code fences around it are passed over."""
    decoder = json.JSONDecoder(parse_constant=_no_constant)
    for start in [match.start() for match in re.finditer(r"\{", text)][:_MOST_STARTS]:
        try:
            found, _ = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        return dict(found)
    return None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _value(value: Any) -> str | list[str] | None:
    if isinstance(value, list):
        parts = [_short(part) for part in value]
        return None if None in parts or len(parts) > MOST_TAGS else [part for part in parts if part]
    return "" if value is None else _short(value)


def _short(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    text = plain(str(value))
    return text if len(text) <= LONGEST_VALUE else None


def _unquoted(text: str) -> str:
    for opening, closing in ('""', "''", "\u201c\u201d", "\u00ab\u00bb"):
        if len(text) > 1 and text[0] == opening and text[-1] == closing and opening not in text[1:-1]:
            return text[1:-1].strip()
    return text
