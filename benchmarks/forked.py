"""Command lines in processes forked from one that has imported what a run imports."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import IO


def load_libraries() -> None:
    """What a run imports, so that processes forked from this one need not."""
    import ir_measures  # noqa: F401
    import peft  # noqa: F401
    import sentence_transformers  # noqa: F401
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer  # noqa: F401

    import rerank.train  # noqa: F401

    torch.set_num_threads(1)


class Forked:
    """A process forked from this one that runs the command line, with those methods of a Popen that are used.

    Args:
        arguments: of the command line.
        stream: where its words go.
        first: called in the new process before the command line.
    """

    def __init__(self, arguments: Sequence[str], stream: IO[str], first: Callable[[], object]) -> None:
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.dup2(stream.fileno(), 1)
                os.dup2(stream.fileno(), 2)
                first()
                from catalograph.cli import main as command_line

                code = command_line(list(arguments))
                sys.stdout.flush()
            finally:
                os._exit(code)

    def wait(self, seconds: float | None = None) -> int:
        ends = None if seconds is None else time.monotonic() + seconds
        while self.code is None and (ends is None or time.monotonic() < ends):
            done, status = os.waitpid(self.pid, 0 if ends is None else os.WNOHANG)
            if done:
                self.code = os.waitstatus_to_exitcode(status)
            else:
                time.sleep(0.002)
        if self.code is not None:
            return self.code
        raise subprocess.TimeoutExpired("run", seconds or 0)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)
