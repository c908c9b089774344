"""A newcomer's first hour by a program: own tables and pictures, the README's commands, lists and a report.

    python benchmarks/first_day.py [--seed 0] [--quick] [--install]

Draws 50 products with pictures and 120 customers' orders, with column names that are nobody's defaults, and
types the commands of the README's section "Your own catalogue" one by one, each in a process of its own. With
--install the clone is first made anew by git and installed by `make venv` (packages come from pip's cache or
the index); without, installation is not counted. Prints one JSON object as its last line; exit code 1 if the
lists or the report are missing, or the commands take more than 10 minutes.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("mug", "lamp", "chair", "scarf", "clock")
COLOURS = ("red", "blue", "green", "orange", "purple")
MOST_MINUTES = 10


def main() -> None:
    """Types what the README says in a new folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a third of the customers")
    parser.add_argument("--install", action="store_true", help="clone and install first, timed apart")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shop = Path(folder) / "shop"
        draw_products(shop, chosen.seed)
        draw_orders(shop, chosen.seed, 40 if chosen.quick else 120)
        install, python = installed(Path(folder)) if chosen.install else (None, sys.executable)
        seconds = {line: typed(line, shop, python) for line in commands()}
        lists = sorted(shop.glob("runs/*/stages/70-rerank/gated.parquet"))
        reports = sorted(shop.glob("runs/*/report/index.html"))
        users = len(set(pq.read_table(lists[0])["user_id"].to_pylist())) if lists else 0
    minutes = sum(seconds.values()) / 60
    result = {
        "minutes": round(minutes, 2),
        "seconds": {line: round(value, 1) for line, value in seconds.items()},
        "users_with_lists": users,
        "report": bool(reports),
        "installation_minutes": None if install is None else round(install / 60, 2),
    }
    sys.stdout.write(json.dumps(result) + "\n")
    if not users or not reports or minutes > MOST_MINUTES:
        raise SystemExit(1)


def commands() -> list[str]:
    """The commands of the README's section, without the block that installs."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Your own catalogue")[2]
    block = re.findall(r"```bash\n(.*?)```", section, re.S)[1]
    return [line.partition("#")[0].strip() for line in block.splitlines()]


def typed(line: str, folder: Path, python: str) -> float:
    """Seconds a command takes."""
    # Of another installation nothing may shine through.
    path = {} if python != sys.executable else {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | path
    started = time.perf_counter()
    command = [python, "-m", *line.split()]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"`{line}` exits {done.returncode}:\n{done.stderr}")
    return time.perf_counter() - started


def installed(folder: Path) -> tuple[float, str]:
    """Seconds of cloning and `make venv`, and the interpreter it made."""
    started = time.perf_counter()
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder / "clone")], check=True)
    subprocess.run(["make", "-C", str(folder / "clone"), "venv"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started, str(folder / "clone/.venv/bin/python")


def draw_products(folder: Path, seed: int) -> None:
    """Writes `products.csv` and a picture of each of its 50 products."""
    rng = random.Random(seed)
    (folder / "images").mkdir(parents=True)
    rows = []
    for n in range(50):
        kind, colour = KINDS[n % 5], rng.choice(COLOURS)
        picture = Image.new("RGB", (300, 300), "white")
        pen = ImageDraw.Draw(picture)
        (pen.ellipse if n % 2 else pen.rectangle)((60, 60, 240, 240), fill=colour)
        picture.save(folder / "images" / f"{n:03}.jpg")
        price = f"{rng.uniform(5, 90):.2f}"
        rows.append((f"SKU-{n:03}", f"{kind.title()} {n}", f"A {kind} for home.", price, kind, f"{n:03}.jpg"))
    write(folder / "products.csv", ("id", "name", "description", "price", "category", "image"), rows)


def draw_orders(folder: Path, seed: int, customers: int) -> None:
    """Writes `orders.csv`: each customer likes two of the five kinds."""
    rng, rows = random.Random(seed + 1), []
    for customer in range(customers):
        liked = rng.sample(range(5), 2)
        when = datetime(2026, 1, 1) + timedelta(days=rng.randrange(90))
        for n in rng.sample([n for n in range(50) if n % 5 in liked], rng.randint(5, 10)):
            when += timedelta(hours=rng.randint(1, 400))
            rows.append((len(rows) + 1, f"C{customer:03}", f"SKU-{n:03}", when.isoformat(" ")))
    write(folder / "orders.csv", ("order_id", "customer_id", "product_id", "ordered_at"), rows)


def write(path: Path, header: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    """Writes a CSV file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


if __name__ == "__main__":
    main()
