"""Do the tests notice when losses, metrics and the store are wrong? Mutants killed, by module.

    python benchmarks/mutation.py --work DIR [--module rerank/losses.py] [--minutes 9] [--quick]

mutmut changes one operator, number or argument at a time and runs the module's tests; a mutant that no test
notices survives. The same command with the same --work goes on where it stopped, after --minutes too, and
tries again only what lies in functions that changed. --quick tries one small module (--seed changes
nothing: there is no chance in it). Needs the extra `mutation`. Prints one JSON object as its last line, the
survivors with it; exit code 1 if a module that was finished has fewer than 80 % killed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STORE = ("tests/extract/test_extract_store.py", "tests/extract/test_store_facts.py")
TESTS = {
    "rerank/losses.py": ("tests/rerank/test_losses.py",),
    "recsys/metrics.py": ("tests/recsys/test_metrics.py",),
    "extract/store.py": STORE,
    "extract/manifest.py": STORE,
}
"""By module, the tests that must notice."""
SMALL = "extract/manifest.py"
COPIED = ("extract", "recsys", "rerank", "catalograph", "tests", "benchmarks", "configs", "README.md")
LEAST = 0.8
# mutmut's exit codes: tests passed, no test reaches it; tests failed, too slow, too much memory.
# Whatever is none of these counts as a survivor.
LEFT = (None, 2)
KILLED = (1, 3, 24, 36, 152, 255, -24, -9, -11)


def main() -> None:
    """Tries the modules one after another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--module", action="append", choices=sorted(TESTS))
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps what was tried")
    parser.add_argument("--minutes", type=float, default=1e6, help="stop after; the same command goes on")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    modules = chosen.module or ([SMALL] if chosen.quick else list(TESTS))
    ends = time.monotonic() + 60 * chosen.minutes
    found = {module: tried(module, chosen.work / re.sub(r"\W", "-", module), ends) for module in modules}
    sys.stdout.write(json.dumps(found) + "\n")
    if any(row["left"] == 0 and row["killed"] < LEAST * row["mutants"] for row in found.values()):
        raise SystemExit(1)


def tried(module: str, folder: Path, ends: float) -> dict[str, Any]:
    """Runs mutmut on one module until it is done or the time is; counts of its mutants, and the survivors."""
    copy_tree(module, folder)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", "1"]
    with (folder / "mutmut.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            code = process.wait(timeout=max(ends - time.monotonic(), 1))
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait(timeout=60)
            code = 0
    meta = folder / "mutants" / f"{module}.meta"
    if code:
        raise SystemExit(f"mutmut ended with {code}: {(folder / 'mutmut.log').read_text()[-2000:]}")
    if not meta.is_file():  # The time was up before the first mutant.
        return {"mutants": 0, "killed": 0, "share": 0.0, "left": None, "survivors": []}
    return counted(json.loads(meta.read_text(encoding="utf-8"))["exit_code_by_key"])


def copy_tree(module: str, folder: Path) -> None:
    """The packages and tests as they are now, and the settings of mutmut for one module."""
    folder.mkdir(parents=True, exist_ok=True)
    ignored = shutil.ignore_patterns("__pycache__")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.rmtree(folder / name, ignore_errors=True)
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        else:
            shutil.copy2(ROOT / name, folder / name)
    package = module.partition("/")[0]
    settings = {
        "source_paths": [package],
        "only_mutate": [module],
        "also_copy": [name for name in COPIED if name not in (package, "README.md")],
        "pytest_add_cli_args_test_selection": list(TESTS[module]),
        "use_git_change_detection": False,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    text = "\n".join([project, "[tool.mutmut]", *lines, ""])
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")


def counted(codes: dict[str, int | None]) -> dict[str, Any]:
    """Mutants by what became of them; one that no test reaches survived, an interrupted one is left."""
    survivors = sorted(name for name, code in codes.items() if code not in (*KILLED, *LEFT))
    killed = sum(code in KILLED for code in codes.values())
    mutants = killed + len(survivors)
    return {
        "mutants": mutants, "killed": killed, "share": round(killed / max(mutants, 1), 3),
        "left": len(codes) - mutants, "survivors": survivors,
    }  # fmt: skip


if __name__ == "__main__":
    main()
