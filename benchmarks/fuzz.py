"""Fuzzes what users and strangers hand over: only errors with a documented exit code may come back.

    python benchmarks/fuzz.py [--cases 50000] [--seed 0] [--only SURFACE ...] [--atheris SHARE] [--state FILE]

Surfaces: `config` (YAML, through `validate`), `set` (``--set``, through `validate`), `catalogue` and
`interactions` (CSV, TSV, JSON lines, Parquet, .inter, gzip; through `prepare`, in memory and on disk),
`manifests` (every record of a finished run and of a store, through `verify`, `hash`, `prepare` and `extract
--update`) and `trec` (TREC runs, judgments, requests, tables of texts and a teacher's orders, through the
readers of `rerank` and `finetune`). The command line runs in this process, in its own function, so what is
counted is its exit code. Hypothesis makes the cases: values of any kind at the places of a valid file, and
valid files with bytes changed, cut, doubled and exchanged. Where atheris is installed, a share of the cases
is made by it instead, guided by the branches that the readers take.

Claim: no traceback (exit 1) and no exit code that `catalograph --help` does not name. ``--state`` adds the
counts of earlier pieces. The last line is one JSON object; exit 1 where the claim fails.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fuzz_engines import by_atheris, by_hypothesis, fast_disk
from fuzz_shop import Shop

SHARES = {"config": 0.24, "set": 0.08, "catalogue": 0.2, "interactions": 0.2, "manifests": 0.12, "trec": 0.16}
"""Of the cases, by surface."""


def measure(
    root: Path, cases: int, seed: int, only: Sequence[str], guided: float, state: Path | None
) -> dict[str, Any]:
    """Counts by surface, those of earlier pieces included; a surface that is done is kept at once."""
    began = time.monotonic()
    result = json.loads(state.read_text()) if state is not None and state.is_file() else {}
    share = guided if importlib.util.find_spec("atheris") else 0.0
    for surface in only or SHARES:
        if seed in result.get(surface, {}).get("seeds", ()):
            print(f"{surface}: the cases of seed {seed} are counted already", flush=True)
            continue
        total = round(cases * SHARES[surface] / sum(SHARES[s] for s in only or SHARES))
        shop = Shop(root / surface)
        shop.make_runs()
        by_hypothesis(shop, surface, total - round(total * share), seed)
        codes, tracebacks = shop.found, dict(shop.tracebacks)
        made = {"hypothesis": total - round(total * share), "atheris": round(total * share)}
        if made["atheris"]:
            made["atheris"], found, more = by_atheris(root, surface, made["atheris"], seed)
            codes, tracebacks = codes + found, tracebacks | more
        row = {
            **made, "exit_codes": dict(sorted((str(c), n) for c, n in codes.items())),
            "tracebacks": tracebacks, "seeds": [seed], "seconds": round(time.monotonic() - began, 1),
        }  # fmt: skip
        print(f"{surface}: {json.dumps(row)}", flush=True)
        result, began = added(result, {surface: row}), time.monotonic()
        if state is not None:
            state.write_text(json.dumps(result))
    return result


def added(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Two results by surface as one."""
    whole: dict[str, Any] = json.loads(json.dumps(old))
    for surface, row in new.items():
        mine = whole.setdefault(
            surface, {"hypothesis": 0, "atheris": 0, "exit_codes": {}, "tracebacks": {}, "seconds": 0.0}
        )
        for name in ("hypothesis", "atheris", "seconds"):
            mine[name] = round(mine[name] + row[name], 1)
        mine["exit_codes"] = dict(sorted((Counter(mine["exit_codes"]) + Counter(row["exit_codes"])).items()))
        mine["tracebacks"] |= row["tracebacks"]
        mine["seeds"] = [*mine.get("seeds", ()), *row.get("seeds", ())]
    return whole


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="of all cases")
    parser.add_argument("--cases", type=int, default=50_000, help="in all, over the surfaces")
    parser.add_argument("--only", action="append", choices=list(SHARES), help="a surface; repeatable")
    parser.add_argument("--atheris", type=float, default=0.3, help="share of cases made by atheris, 0 to 1")
    parser.add_argument(
        "--state", type=Path, help="file with the counts of earlier pieces; it is written anew"
    )
    parser.add_argument("--quick", action="store_true", help="600 cases by hypothesis")
    chosen = parser.parse_args(argv)
    cases, guided = (600, 0.0) if chosen.quick else (chosen.cases, chosen.atheris)
    with tempfile.TemporaryDirectory(prefix="catalograph-fuzz-", dir=fast_disk()) as root:
        for surface in SHARES:
            (Path(root) / surface).mkdir()
        result = measure(Path(root), cases, chosen.seed, chosen.only or (), guided, chosen.state)
    bad = sum(len(row["tracebacks"]) for row in result.values())
    total = {
        "cases": round(sum(row["hypothesis"] + row["atheris"] for row in result.values())),
        "by_atheris": round(sum(row["atheris"] for row in result.values())),
        "tracebacks": bad,
        "commands": sum(sum(row["exit_codes"].values()) for row in result.values()),
        "surfaces": result, "seed": chosen.seed,
    }  # fmt: skip
    print(json.dumps(total))
    return 0 if not bad else 1


if __name__ == "__main__":
    sys.exit(main())
