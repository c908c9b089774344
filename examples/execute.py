"""Execute the notebooks and write their outputs into them: `python examples/execute.py [NOTEBOOK ...]`.

The cells are plain Python, so they are run in one namespace without a kernel: what is printed, and the value
of an expression at a cell's end, become its output. Each notebook works in a temporary folder.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Executes the named notebooks, or all."""
    for path in map(Path, sys.argv[1:] or sorted(map(str, HERE.glob("*.ipynb")))):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        with tempfile.TemporaryDirectory() as folder:
            execute(notebook, Path(folder))
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        sys.stderr.write(f"{path}\n")


def execute(notebook: dict[str, Any], folder: Path) -> None:
    """Runs the code cells in `folder` and puts their outputs into `notebook`; errors come through."""
    names: dict[str, Any] = {}
    count = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            count += 1
            told = run_cell("".join(cell["source"]), names, folder)
            lines = told.splitlines(keepends=True)
            cell["execution_count"] = count
            cell["outputs"] = [{"name": "stdout", "output_type": "stream", "text": lines}] if lines else []


def run_cell(source: str, names: dict[str, Any], folder: Path) -> str:
    """What a cell prints, with the value of an expression at its end."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    out = io.StringIO()
    # Progress goes to stderr and belongs to nobody's notebook.
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        exec(compile(tree, "cell", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
            if value is not None:
                out.write(f"{value}\n")
    return out.getvalue()


if __name__ == "__main__":
    main()
