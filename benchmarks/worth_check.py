"""Does `worth` answer right where the truth is known? Three drawn shops, three answers.

    python benchmarks/worth_check.py [--work DIR] [--seed 0] [--quick]

`hidden`: traits that only pictures show drive the choices (dial 1), so captions are worth their price: yes.
`nothing hidden`: the dial is 0, nobody cares for the traits: no. `told by titles`: dial 1, and every title
states the traits, so captions say nothing new: no. Each shop is drawn anew, and `catalograph worth` runs on
it as a user would run it, in a process of its own. Resumable: measured trainings are kept below `--work`.
`--quick` is a shop too small to be sure of a no.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from catalograph.demo import prepare_demo

SHOPS = {
    "hidden": (1.0, False, "yes"),
    "nothing hidden": (0.0, False, "no"),
    "told by titles": (1.0, True, "no"),
}
"""By name: the dial, whether titles state the traits, and the right answer."""


def make_shop(folder: Path, dial: float, told: bool, size: tuple[int, int], seed: int) -> Path:
    """Draws a shop and writes its configuration."""
    config = prepare_demo(folder, seed=seed, items=size[0], users=size[1], hidden=dial).model_dump(
        mode="json"
    )
    if told:
        catalog = pq.read_table(folder / "shop" / "catalog.parquet")
        truth = json.loads((folder / "shop" / "truth.json").read_text())
        names = zip(catalog["name"].to_pylist(), catalog["product"].to_pylist(), strict=True)
        titles = [f"{name}, {truth[item][0]}" for name, item in names]
        place = catalog.schema.get_field_index("name")
        stated = catalog.set_column(place, "name", pa.array(titles))
        pq.write_table(stated, folder / "shop" / "stated.parquet")
        config["data"]["catalog"] = "stated.parquet"
    path = folder / "worth.yaml"
    path.write_text(yaml.safe_dump(config | {"run_dir": None}, sort_keys=False))
    return path


def ask(config: Path, work: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What `catalograph worth` says."""
    command = [sys.executable, "-m", "catalograph", "worth", "-c", str(config), "--work", str(work), "--json"]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command}: exit {done.returncode}\n{done.stdout[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/worth_check"))
    parser.add_argument("--shops", nargs="+", choices=list(SHOPS), default=list(SHOPS))
    parser.add_argument("--items", type=int, default=800)
    parser.add_argument("--users", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of the shops")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="200 items, 300 people, 2 seeds, 20 epochs")
    chosen = parser.parse_args()
    size = (200, 300) if chosen.quick else (chosen.items, chosen.users)
    settings: dict[str, Any] = {"worth.seeds": 2 if chosen.quick else chosen.seeds, "threads": chosen.threads}
    if chosen.quick:
        settings["retrievers.lirdrec.train.epochs"] = 20
    result: dict[str, Any] = {}
    for name in chosen.shops:
        dial, told, right = SHOPS[name]
        folder = chosen.work / f"{name.replace(' ', '-')}-{size[0]}-{size[1]}-{chosen.seed}"
        began = time.monotonic()
        found = ask(make_shop(folder, dial, told, size, chosen.seed), folder / "worth", settings)
        result[name] = {
            "answer": found["answer"], "right": right, "strata": found["strata"],
            "seconds": round(time.monotonic() - began),
        }  # fmt: skip
        sys.stderr.write(f"{name}: {found['answer']} (right: {right})\n")
    claims = {name: row["answer"] == row["right"] for name, row in result.items()}
    out = {"items": size[0], "users": size[1], "claims": claims, "shops": result}
    sys.stdout.write(json.dumps(out) + "\n")
    if not chosen.quick and not all(claims.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
