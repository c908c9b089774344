"""What the demo's numbers are worth: the drawn shop over seeds and dials, beside its controls.

    python benchmarks/demo_truth.py --work runs/demo_truth [--seeds 3] [--quick]

Per seed and dial it runs the demo as it is and a second run in which the captions are given as texts: the
machine's own (the same candidates), the machine's dealt out to wrong items, letters that mean nothing, and
the true traits. At dial 1 the whole reranker runs too, once with the captions and once with the wrong
items' captions. Paired differences are per user, pooled over seeds; the intervals resample users within
seeds. Runs are resumable: a second call goes on where the first stopped. Claims: popularity < retrieved,
titles_only < retrieved and fused_without_llm < reranked at dial 1; the gain of captions includes 0 at
dial 0, grows with the dial, and is gone with shuffled captions; true traits bound it from above.

A second feature of any content adds a block to the model and tells items of equal titles apart, which is
worth something where titles say little. So both the captions and the shuffled ones are also compared with a
model of the same shape whose captions are random letters.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

METRIC = "ndcg@10"
DIALS = (0.0, 0.25, 0.5, 1.0)
CONTROLS = {"shuffled_captions": "wrong", "meaningless_captions": "letters", "true_traits": "traits"}
"""Retriever of the control run, and the column that stands for the captions."""


def main() -> None:
    """Runs what is missing and prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/demo_truth"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one seed, dials 0 and 1, a third of the shop")
    chosen = parser.parse_args()
    started = time.time()
    seeds = range(chosen.seed, chosen.seed + (1 if chosen.quick else chosen.seeds))
    dials = (0.0, 1.0) if chosen.quick else DIALS
    size = (400, 500) if chosen.quick else (1000, 1500)
    found = {
        (dial, seed): measure(chosen.work, dial, seed, size, rerank=dial == 1.0, threads=chosen.threads)
        for dial in dials
        for seed in seeds
    }
    result = summarise(found, dials, list(seeds))
    result["seconds"] = round(time.time() - started)
    sys.stdout.write(json.dumps(result) + "\n")
    if not chosen.quick and not all(result["claims"].values()):
        raise SystemExit(1)


def measure(
    work: Path, dial: float, seed: int, size: tuple[int, int], *, rerank: bool, threads: int
) -> dict[str, np.ndarray]:
    """NDCG@10 per user of every list, by name, users in one order."""
    items, users = size
    first, second = (work / f"{kind}-{items}-{dial}-{seed}" for kind in ("captions", "controls"))
    options = ["--set", f"threads={threads}"] + ([] if rerank else ["--set", "rerank=null"])
    shop = ["--seed", str(seed), "--items", str(items), "--users", str(users), "--hidden", str(dial)]
    run(["demo", "--run-dir", str(first), *shop, *options])
    config = control_config(first, second, seed, rerank)
    run(["run", "-c", str(config), "--run-dir", str(second), "--set", f"threads={threads}"])
    lists = {name: values for name, values in per_user(first).items()}
    controls = per_user(second)
    lists |= {name: controls[name] for name in CONTROLS}
    if rerank:
        lists["reranked_shuffled_text"] = controls["reranked"]
        lists["fused_without_llm_same_lists"] = controls["fused_without_llm"]
    return lists


def control_config(first: Path, second: Path, seed: int, rerank: bool) -> Path:
    """The configuration of the control run: captions are columns of the catalogue."""
    import yaml

    config = yaml.safe_load((first / "config.yaml").read_text())
    shop = first / "shop"
    catalog = pq.read_table(shop / "catalog.parquet")
    captions = pq.read_table(first / "stages/20-caption/captions.parquet")
    machine = dict(zip(captions["item_id"].to_pylist(), captions["caption"].to_pylist(), strict=True))
    ids = catalog["product"].to_pylist()
    truth = json.loads((shop / "truth.json").read_text())
    written = [machine.get(item, "") for item in ids]
    rng = np.random.default_rng([seed, 77])
    columns = {
        "machine": written,
        "wrong": [written[i] for i in rng.permutation(len(ids))],
        "letters": ["".join(map(chr, row)) for row in rng.integers(ord("a"), ord("z") + 1, (len(ids), 12))],
        "traits": [truth[item][0] for item in ids],
    }
    for name, column in columns.items():
        catalog = catalog.append_column(name, pa.array(column))
    second.parent.mkdir(parents=True, exist_ok=True)
    path = second.parent / f"{second.name}.parquet"
    if not path.is_file():
        pq.write_table(catalog, path)
    config["data"] |= {"root": str(shop.absolute()), "catalog": str(path.absolute()), "pictures": None}
    config["data"]["catalog_columns"] |= {"picture": None, "attributes": list(columns)}
    config["caption"] = None
    embed = config["features"]["title"]["embed"]
    config["features"] = {"title": {"template": "{title}", "embed": embed}} | {
        name: {"template": f"{{attributes.{name}}}", "embed": embed} for name in columns
    }
    base = config["retrievers"]["lirdrec"]
    config["retrievers"] = {
        "lirdrec": base | {"features": ["title", "machine"]},
        **{name: base | {"features": ["title", column]} for name, column in CONTROLS.items()},
        "item_knn": config["retrievers"]["item_knn"],
        "popularity": config["retrievers"]["popularity"],
    }
    config["evaluate"]["baselines"] = list(CONTROLS)
    if rerank:
        config["rerank"]["item"] = "{title}, {attributes.wrong}"
    target = second.parent / f"{second.name}.yaml"
    target.write_text(yaml.safe_dump(config, sort_keys=False))
    return target


def run(arguments: list[str]) -> None:
    """The command line, in a process of its own."""
    sys.stderr.write(" ".join(arguments[:3]) + "\n")
    done = subprocess.run(
        [sys.executable, "-m", "catalograph", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 7):
        raise RuntimeError(f"{arguments}: exit {done.returncode}\n{done.stderr[-2000:]}")


def per_user(folder: Path) -> dict[str, np.ndarray]:
    """NDCG@10 by list; users in the order of their ids."""
    table = pq.read_table(folder / "stages/80-evaluate/per_user.parquet").sort_by("user_id")
    suffix = f"/{METRIC}"
    return {
        name.removesuffix(suffix): table[name].to_numpy()
        for name in table.column_names
        if name.endswith(suffix)
    }


def difference(
    found: Mapping[Any, Mapping[str, np.ndarray]], dial: float, seeds: list[int], a: str, b: str
) -> dict[str, float]:
    """Mean of b - a over users and seeds, with a 95 % bootstrap interval that resamples users within each
    seed.
    """
    rng = np.random.default_rng(0)
    parts = [found[dial, seed][b] - found[dial, seed][a] for seed in seeds]
    means = [
        float(np.mean([part[rng.integers(len(part), size=len(part))].mean() for part in parts]))
        for _ in range(2000)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    return {
        "difference": round(float(np.mean([part.mean() for part in parts])), 5),
        "low": round(float(low), 5),
        "high": round(float(high), 5),
    }


def summarise(
    found: Mapping[Any, Mapping[str, np.ndarray]], dials: tuple[float, ...], seeds: list[int]
) -> dict[str, Any]:
    """Means by dial and list, the differences behind each claim, and whether each holds."""
    means = {
        str(dial): {
            name: round(float(np.mean([found[dial, seed][name].mean() for seed in seeds])), 4)
            for name in found[dial, seeds[0]]
        }
        for dial in dials
    }
    gain = {str(d): difference(found, d, seeds, "titles_only", "retrieved") for d in dials}
    content = {
        str(d): difference(found, d, seeds, "meaningless_captions", "shuffled_captions") for d in dials
    }
    shuffled = {str(d): difference(found, d, seeds, "titles_only", "shuffled_captions") for d in dials}
    bound = {str(d): difference(found, d, seeds, "retrieved", "true_traits") for d in dials}
    top = {
        "retrieved - popularity": difference(found, 1.0, seeds, "popularity", "retrieved"),
        "retrieved - titles_only": gain["1.0"],
        "retrieved - meaningless_captions": difference(
            found, 1.0, seeds, "meaningless_captions", "retrieved"
        ),
        "reranked - fused_without_llm": difference(found, 1.0, seeds, "fused_without_llm", "reranked"),
        "reranked - retrieved": difference(found, 1.0, seeds, "retrieved", "reranked"),
        "reranked - fused_without_llm, texts shuffled": difference(
            found, 1.0, seeds, "fused_without_llm_same_lists", "reranked_shuffled_text"
        ),
    }
    steps = [gain[str(d)]["difference"] for d in dials]
    claims = {
        "popularity < retrieved": top["retrieved - popularity"]["low"] > 0,
        "titles_only < retrieved": top["retrieved - titles_only"]["low"] > 0,
        "meaningless_captions < retrieved": top["retrieved - meaningless_captions"]["low"] > 0,
        "fused_without_llm < reranked": top["reranked - fused_without_llm"]["low"] > 0,
        "no gain of captions at dial 0": gain["0.0"]["low"] <= 0 <= gain["0.0"]["high"],
        "the gain grows with the dial": all(a < b for a, b in itertools.pairwise(steps)),
        "shuffled captions gain nothing": all(
            row["low"] <= 0 for rows in (content, shuffled) for row in rows.values()
        ),
        "true traits are an upper bound": all(row["high"] >= 0 for row in bound.values()),
    }
    return {
        "metric": METRIC,
        "seeds": seeds,
        "means": means,
        "at dial 1": top,
        "gain of captions": gain,
        "shuffled captions - meaningless captions": content,
        "shuffled captions - titles_only": shuffled,
        "true traits - retrieved": bound,
        "claims": claims,
    }


if __name__ == "__main__":
    main()
