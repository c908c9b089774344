"""The two that make the cases of `fuzz.py`: hypothesis in its process, atheris in one of its own.

    python benchmarks/fuzz_engines.py SURFACE CASES SEED FILE

is that process of atheris; it writes its counts to FILE.
"""

from __future__ import annotations

import json
import os
import random
import string
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from fuzz_cases import WORDS, one_case
from fuzz_shop import Shop


def by_hypothesis(shop: Shop, surface: str, cases: int, seed: int) -> None:
    """Runs so many cases of a surface."""
    if not cases:
        return
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded
    from hypothesis import strategies as st

    words = st.sampled_from(WORDS) | st.text(max_size=12) | st.text(string.printable, max_size=12)
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | words
    values = st.recursive(
        scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(words, v, max_size=3), max_leaves=6
    )

    @seeded(seed)
    @settings(
        max_examples=cases, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.integers(0, 2**32), values)
    def run(number: int, value: Any) -> None:
        one_case(shop, surface, random.Random(f"{number} {seed}"), value)

    run()


def by_atheris(root: Path, surface: str, cases: int, seed: int) -> tuple[int, Counter[int], dict[str, str]]:
    """Runs so many cases made by atheris, in a process of its own: it ends the process it runs in.

    How many it ran; fewer, or an end by a signal, stop the benchmark.
    """
    told = root / f"atheris-{surface}.json"
    command = [sys.executable, __file__, surface, str(cases), str(seed), str(told)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode or not told.is_file():
        raise SystemExit(f"atheris on {surface} exits {done.returncode}:\n{done.stderr[-3000:]}")
    found = json.loads(told.read_text())
    codes = Counter({int(code): n for code, n in found["codes"].items()})
    return int(found["cases"]), codes, found["tracebacks"]


def child(surface: str, cases: int, seed: int, told: Path) -> None:
    import atheris

    with atheris.instrument_imports(include=["catalograph", "extract", "recsys", "rerank"]):
        import rerank.teacher  # noqa: F401

    folder = tempfile.TemporaryDirectory(prefix="catalograph-fuzz-", dir=fast_disk())
    shop = Shop(Path(folder.name))
    shop.make_runs()
    kinds = {
        "config": ["config"], "set": ["set"],
        "catalogue": ["csv", "tsv", "jsonl", "parquet", "csv.gz", "jsonl.gz"],
        "interactions": ["csv", "tsv", "jsonl", "parquet", "csv.gz", "inter"],
        "manifests": sorted(shop.records),
        "trec": ["trec", "qrels", "queries", "texts", "requests", "orders", "orders.trec"],
    }[surface]  # fmt: skip
    name = {"catalogue": "items", "interactions": "clicks"}.get(surface, "")
    corpus = Path(folder.name) / "corpus"
    corpus.mkdir()
    for number, kind in enumerate(kinds):
        known = {
            "config": shop.files["config"], "set": b"candidates.k=3",
            "manifests": shop.records.get(kind, b""),
            "trec": shop.files.get(kind.replace("orders.trec", "trec"), b""),
        }  # fmt: skip
        valid = shop.files[name][kind] if name else known[surface]
        (corpus / str(number)).write_bytes(bytes([number]) + valid)

    ran = 0

    def test(data: bytes) -> None:
        nonlocal ran
        ran += 1
        kind, body = kinds[data[0] % len(kinds)] if data else kinds[0], data[1:]
        if surface == "config":
            shop.on_config(body)
        elif surface == "set":
            shop.on_config(shop.files["config"], [body.decode("utf-8", "replace").replace("\0", "")])
        elif surface == "manifests":
            shop.on_record(kind, body)
        elif surface == "trec":
            shop.on_trec(kind, body)
        else:
            more = {} if name == "items" else {"interaction_columns": {"timestamp": "time"}}
            shop.on_table(name, kind, body, more)
        told.write_text(json.dumps({"cases": ran, "codes": shop.found, "tracebacks": shop.tracebacks}))

    options = [f"-runs={cases}", f"-seed={seed + 1}", "-max_len=4096", "-verbosity=0", "-rss_limit_mb=0"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], test)
    atheris.Fuzz()


def fast_disk() -> str | None:
    """A place where fsync costs nothing, if there is one: what is tested here is reading."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


if __name__ == "__main__":
    child(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
