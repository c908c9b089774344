"""Every block and command of the pages is followed as a reader would, or says beside it why not.

A block names its language. `bash` is typed line by line, `python` executed, `yaml` validated: whole where its
first line is a comment with a file name, else as a part of the reader's configuration. `text`, `json` and
`mermaid` show what is not typed. A command in running text is typed too, unless it holds a placeholder in
capitals. The reader of the README begins with two tables and pictures; the readers of the other pages go on
where that one ended. `<!-- not run: WHY -->` before a paragraph or a block says why it is left out.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from catalograph.cli import main
from catalograph.config_file import load_config
from catalograph.demo.sample import write_sample

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
TYPED, SHOWN = ("bash", "python", "yaml"), ("text", "json", "mermaid")
FENCE = re.compile(r"^ *```(\w*)(.*)$")
WHY = re.compile(r"^ *<!-- not run: (.+?) -->$")
SPAN = re.compile(r"`(catalograph\s+[a-z][^`]*)`")
PLACEHOLDER = re.compile(r"(?<![\w-])[A-Z][A-Z/_=]*(?![\w.])|\.\.\.")
PROGRAM = re.compile(r"^ *(?:\$ *)?(?:catalograph|make|pip|python3?|torchrun|hf|source|export) ", re.M)


@dataclass(frozen=True)
class Piece:
    """Something a reader may type: its language, its text, its line, and why it is not run."""

    kind: str
    text: str
    line: int
    why: str | None


def pieces(text: str) -> Iterator[Piece]:
    """The blocks of a page and the commands between them, in order."""
    why: str | None = None
    block: tuple[str, int, list[str]] | None = None
    paragraph: list[tuple[int, str]] = []

    def spans() -> Iterator[Piece]:
        words = "\n".join(line for _, line in paragraph)
        for match in SPAN.finditer(words):
            number = paragraph[words[: match.start()].count("\n")][0]
            command = " ".join(match[1].split()).replace(r"\|", "|")
            kind = "mention" if PLACEHOLDER.search(command) or len(command.split()) == 2 else "command"
            yield Piece(kind, command, number, why)
        paragraph.clear()

    for number, line in enumerate(text.splitlines(), start=1):
        fence = FENCE.match(line)
        if fence and block is None:
            yield from spans()
            block = fence[1], number, []
        elif fence and block is not None:
            yield Piece(block[0], "\n".join(block[2]), block[1], why)
            block, why = None, None
        elif block is not None:
            block[2].append(line)
        elif found := WHY.match(line):
            yield from spans()
            why = found[1]
        elif not line.strip():
            yield from spans()
            why = None
        else:
            paragraph.append((number, line))
    yield from spans()


class Reader:
    """Somebody in a folder who types what a page says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: dict[str, Any] = {}

    def follow(self, page: Path) -> list[str]:
        """Type all of a page; what went wrong, by place."""
        problems = []
        with contextlib.chdir(self.folder):
            for piece in pieces(page.read_text(encoding="utf-8")):
                if piece.why is None and piece.kind in ("command", *TYPED):
                    try:
                        getattr(self, f"_{piece.kind}")(piece.text)
                    except Exception as problem:
                        problems.append(f"{page.name}:{piece.line}: {type(problem).__name__}: {problem}")
        return problems

    def _bash(self, text: str) -> None:
        for line in text.replace("\\\n", " ").splitlines():
            if line.partition("#")[0].strip():
                self._command(line)

    def _command(self, line: str) -> None:
        words = shlex.split(line, comments=True)
        if words[0] != "catalograph":
            subprocess.run(["bash", "-euc", line], check=True, capture_output=True, text=True, timeout=60)
            return
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(words[1:])
        if code:
            raise AssertionError(f"`{line}` exits {code}: {out.getvalue()[-500:]}{err.getvalue()[-1500:]}")

    def _python(self, text: str) -> None:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            exec(compile(text, "page", "exec"), self.names)

    def _yaml(self, text: str) -> None:
        if name := re.match(r"# ([\w-]+\.yaml)\b", text):
            Path(name[1]).write_text(text, encoding="utf-8")
            self._command(f"catalograph validate -c {name[1]}")
            return
        mine, part = yaml.safe_load(Path("shop.yaml").read_text()), yaml.safe_load(text)
        for section, value in part.items():
            kept = mine.get(section) if section in ("data", "features", "retrievers") else None
            mine[section] = {**(kept or {}), **value} if isinstance(value, dict) else value
        Path("part.yaml").write_text(yaml.safe_dump(mine), encoding="utf-8")
        load_config(Path("part.yaml"))


@pytest.fixture(scope="session")
def first_reader(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> tuple[Path, list[str]]:
    """The folder of somebody who followed the README, and what went wrong on the way."""
    folder = tmp_path_factory.mktemp("reader") / "shop"
    write_sample(folder)
    return folder, Reader(folder).follow(README)


def test_the_readme_can_be_followed_to_the_letter(first_reader: tuple[Path, list[str]]) -> None:
    folder, problems = first_reader
    assert problems == []
    assert (folder / "runs/shop/report/index.html").is_file()
    assert (folder / "runs/shop/stages/70-rerank/gated.parquet").is_file()


@pytest.mark.parametrize("page", [p for p in PAGES if p != README], ids=lambda page: page.name)
def test_what_a_page_says_can_be_typed(
    page: Path, first_reader: tuple[Path, list[str]], tmp_path: Path
) -> None:
    folder = tmp_path / "shop"
    shutil.copytree(first_reader[0], folder)
    assert Reader(folder).follow(page) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_block_names_its_language_and_what_is_shown_is_no_command(page: Path) -> None:
    for piece in pieces(page.read_text(encoding="utf-8")):
        if piece.kind in ("command", "mention"):
            continue
        assert piece.kind in (*TYPED, *SHOWN), f"{page.name}:{piece.line}: name the block's language"
        if piece.kind in SHOWN:
            assert not PROGRAM.search(piece.text), f"{page.name}:{piece.line}: a command: make it bash"


PAGE = """\
Try `catalograph hash` or `catalograph report --run-dir DIR`, then `catalograph
doctor --json`.

```bash
catalograph init --template nothing   # no such template
false
```

<!-- not run: needs a machine -->
```bash
no-such-program
```

```yaml
retrievers: {mine: {model: no_such_model}}
```

```python
1 / 0
```
"""


def test_the_check_of_pages_can_fail(tmp_path: Path) -> None:
    write_sample(tmp_path)
    (tmp_path / "page.md").write_text(PAGE)
    with contextlib.chdir(tmp_path):
        assert main(["init", "."]) == 0
    found = list(pieces(PAGE))
    assert [(piece.kind, piece.line, piece.why) for piece in found] == [
        ("mention", 1, None), ("mention", 1, None), ("command", 1, None), ("bash", 4, None),
        ("bash", 10, "needs a machine"), ("yaml", 14, None), ("python", 18, None),
    ]  # fmt: skip
    problems = Reader(tmp_path).follow(tmp_path / "page.md")
    assert [problem.split(": ")[:2] for problem in problems] == [
        ["page.md:4", "AssertionError"], ["page.md:14", "ConfigError"], ["page.md:18", "ZeroDivisionError"],
    ]  # fmt: skip


def test_a_command_that_exits_with_an_error_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        Reader(tmp_path)._bash("true\nfalse")
