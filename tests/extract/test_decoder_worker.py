"""What a decoder says over its socket, and what its origin knows of it."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from extract.decoder_worker import ANSWER, LENGTH, NOT_YET, TOO_MUCH_MEMORY, _answer, _frame, _status
from extract.pictures import PictureLimits


def png(width: int, height: int, colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_picture_is_answered_by_its_size_and_its_pixels() -> None:
    answer = _answer(png(3, 2, (10, 20, 30)), PictureLimits(), None)
    assert ANSWER.unpack(answer[: ANSWER.size]) == (0, 3, 2)
    pixels = np.frombuffer(answer[ANSWER.size :], np.uint8).reshape(2, 3, 3)
    assert (pixels == (10, 20, 30)).all()


def test_a_bad_picture_is_answered_by_its_reason() -> None:
    answer = _answer(b"not a picture", PictureLimits(), None)
    kind, length, nothing = ANSWER.unpack(answer[: ANSWER.size])
    reason, detail = json.loads(answer[ANSWER.size :])
    assert (kind, nothing, len(answer) - ANSWER.size) == (1, 0, length)
    assert reason == "not-a-picture" and detail


def test_too_little_memory_is_a_reason_and_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def hungry(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("extract.decoder_worker.decode_picture", hungry)
    answer = _answer(b"", PictureLimits(), None)
    assert json.loads(answer[ANSWER.size :]) == list(TOO_MUCH_MEMORY)


def test_a_frame_is_read_whole_however_it_arrives() -> None:
    ours, theirs = socket.socketpair()
    data = bytes(range(256)) * 4096
    with ours, theirs:
        sender = threading.Thread(target=theirs.sendall, args=(LENGTH.pack(len(data)) + data,))
        sender.start()
        assert _frame(ours) == data
        sender.join()


def test_an_origin_tells_who_runs_who_ended_and_ends_whom_it_is_told_to() -> None:
    command = [sys.executable, "-c", "import sys; sys.stdin.read(); sys.exit(3)"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as waiting:
        assert _status(waiting.pid, kill=False) == NOT_YET
        assert _status(waiting.pid, kill=True) == -9
        waiting.returncode = -9
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as ended:
        while (status := _status(ended.pid, kill=False)) == NOT_YET:
            pass
        ended.returncode = status
    assert status == 3
