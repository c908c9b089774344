"""The films configurations on real data: minutes, and EASE against its reference figures.

    python benchmarks/movies.py --data DIR [--config movies-tokens] [--work runs/movies] [--threads 2]

DIR holds items.csv, interactions.csv.gz and posters_224.zip. The run is resumable: a second call goes on
where the first stopped. `minutes` adds up the stages' own seconds over all calls. EASE (lambda 300, whole
train split) must reach Recall@20 0.2723 and NDCG@20 0.4051 within 0.002, or the exit code is 1; the other
figures are printed whatever they are.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

EASE = {"recall@20": 0.2723, "ndcg@20": 0.4051}


def main() -> None:
    """Runs the configuration through the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--config", choices=["movies", "movies-tokens"], default="movies")
    parser.add_argument("--work", type=Path, default=Path("runs/movies"), help="another for each --config")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="EASE alone, without a reranker")
    chosen = parser.parse_args()
    config = Path(__file__).parents[1] / "configs" / f"{chosen.config}.yaml"
    sets = [f"data.root={chosen.data.absolute()}", f"threads={chosen.threads}", f"seed={chosen.seed}"]
    work = chosen.work
    if chosen.quick:
        sets += ["rerank=null", "features={}", "retrievers={ease: {model: ease, params: {l2: 300}}}"]
        sets += ["candidates.sources=[ease]", "evaluate.baselines=[ease]"]
        work = work.with_name(f"{work.name}-quick")
    command = [
        sys.executable,
        "-m",
        "catalograph",
        "run",
        "-c",
        str(config),
        "--run-dir",
        str(work),
        "--json",
    ]
    done = subprocess.run(
        [*command, *(part for s in sets for part in ("--set", s))], stdout=subprocess.PIPE, check=False
    )
    if done.returncode not in (0, 7):
        raise SystemExit(done.returncode)
    found = json.loads(done.stdout)
    ease = {metric: found["metrics"]["ease"][metric] for metric in EASE}
    result = {
        "minutes": round(sum(stage["seconds"] for stage in found["stages"].values()) / 60, 1),
        "stages": {name: stage["seconds"] for name, stage in found["stages"].items()},
        "metrics": found["metrics"],
        "ease_within": {metric: abs(ease[metric] - EASE[metric]) <= 0.002 for metric in EASE},
        "report": found["report"],
    }
    sys.stdout.write(json.dumps(result) + "\n")
    if not all(result["ease_within"].values()) or (not chosen.quick and result["minutes"] > 60):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
