"""What attack texts gain in the demo's reranker, and what the limits against them cost.

    python benchmarks/injection.py [--run-dir RUN] [--lists 2] [--attacks N] [--seed 0] [--quick]

RUN is the folder of a finished run (`catalograph demo`); without it the demo is made in a temporary folder,
with --quick a smaller one. `catalograph redteam` then puts each text of the corpus into one candidate of
some lists, in both fields and every third of the list, and counts places gained over neutral words of as many
tokens in the same place; `max_move` is off. `bare`: texts as they stand, no defence. `cleaned`: as every run
reads them. `guarded`: with `rerank.guard` besides. Beside it stands how well lists are copied by a surrogate.

Claims: guarded, the corpus gains at most 0.5 places in the mean; NDCG@10 with and without the limits does not
differ (its interval holds 0). `--quick` tries 30 texts in one list each, too few for the claims.
The last line is one JSON object; exit 1 where a claim fails.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

MOST_GAIN = 0.5
SMALLER = (
    "retrievers.lirdrec.train.epochs=8", "retrievers.titles_only.train.epochs=8", "rerank.finetune.epochs=1",
    "rerank.finetune.max_lists=64", "rerank.finetune.validation_lists=24", "threads=1",
)  # fmt: skip


def call(*arguments: str) -> str:
    """The standard output of one catalograph command."""
    packages = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, "-m", "catalograph", *arguments]
    environment = os.environ | {"PYTHONPATH": packages, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"catalograph {arguments[0]} exits {done.returncode}")
    return done.stdout


def measure(run: Path, lists: int, attacks: int | None, judged: int) -> dict[str, Any]:
    """The figures of a finished run."""
    more = [] if attacks is None else ["--attacks", str(attacks)]
    asked = ["--lists", str(lists), "--judged", str(judged), *more]
    found = json.loads(call("redteam", "--run-dir", str(run), *asked, "--json"))
    injection = found["injection"]
    readers = {
        name: {key: row[key] for key in ("gain", "delivered", "over_untouched", "tokens_apart", "family")}
        for name, row in injection["readers"].items()
    }
    for name, row in readers.items():
        worst = max(row["family"], key=lambda family: row["family"][family]["mean"])
        row["worst"] = {"family": worst, **row["family"][worst]}
        print(f"{name}: {_figure(row['gain'])} places, as delivered {_figure(row['delivered'])}, ", end="")
        print(f"over untouched {_figure(row['over_untouched'])}, worst {worst} {_figure(row['worst'])}")
    for family in readers["bare"]["family"]:
        print(f"  {family}: " + ", ".join(_figure(row["family"][family]) for row in readers.values()))
    curve = [
        {"published": row["published"], "lists": row["lists"], "tau": round(row["tau"]["mean"], 3),
         "overlap": round(row["overlap"]["mean"], 3)}
        for row in found["extraction"]
    ]  # fmt: skip
    return {
        "attacks": injection["attacks"], "trials": injection["trials"], "guard": found["guard"],
        "readers": readers, "ndcg@10": injection["ndcg@10"], "extraction": curve,
    }  # fmt: skip


def _figure(row: dict[str, float]) -> str:
    return f"{row['mean']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"


def main() -> int:
    """Prints the figures and says whether the claims hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("--lists", type=int, default=2)
    parser.add_argument("--attacks", type=int)
    parser.add_argument("--seed", type=int, default=0, help="of the demo that is made")
    parser.add_argument("--quick", action="store_true", help="a smaller demo, 30 texts in one list each")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        run = chosen.run_dir or Path(work) / "run"
        if chosen.run_dir is None:
            size = ["--items", "60", "--users", "80"] if chosen.quick else []
            sets = [part for text in SMALLER if chosen.quick for part in ("--set", text)]
            call("demo", "--run-dir", str(run), "--seed", str(chosen.seed), *size, *sets, "--json")
        how = (1, 30, 40) if chosen.quick else (chosen.lists, chosen.attacks, 400)
        found = measure(run, *how)
    # None where no list holds its truth. Of a shop whose words are all common it is 0 by construction.
    gap = found["ndcg@10"]["difference"] or {"low": 0.0, "high": 0.0}
    holds = found["readers"]["guarded"]["gain"]["mean"] <= MOST_GAIN and gap["low"] <= 0 <= gap["high"]
    print(json.dumps({**found, "seed": chosen.seed, "holds": holds}))
    return 0 if holds or chosen.quick else 1


if __name__ == "__main__":
    sys.exit(main())
