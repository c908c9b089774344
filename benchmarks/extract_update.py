"""What reaches the real models when a catalogue changes: one picture replaced, ten items added, ten removed.

    python benchmarks/extract_update.py [--items 1000] [--seed 0] [--quick]

The demo's shop goes through `extract --update` with its captioner and MiniLM, in processes of their own; a
patch in the child of this file notes every picture and text that a model is given. Then the catalogue and the
zip of pictures change, and the same command runs again, and once more with nothing to do.

Claims: exactly eleven pictures reach the captioner; every text that reaches the embedder is one of those
eleven items'; the bytes of every bucket that none of the 21 items is in stay; the third run loads no torch;
and captions are those of a store made anew, vectors within 1e-5.

The last line is one JSON object; exit 1 where a claim fails.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

BUCKETS = 64
CHANGED = 10


def child(arguments: Sequence[str]) -> int:
    """The command line with engines that note what they are given."""
    from catalograph.cli import main as command_line
    from extract import engines

    seen: dict[str, list[Any]] = {"pictures": [], "texts": []}
    build_captioner, build_embedder = engines.ENGINES["transformers"]

    def watched_captioner(config: engines.CaptionConfig) -> engines.Captioner:
        engine = build_captioner(config)
        caption = engine.caption

        def noted(images: Any, prompts: Any) -> list[str]:
            seen["pictures"] += [len(image.tobytes()) for image in images]
            return caption(images, prompts)

        engine.caption = noted  # type: ignore[method-assign]
        return engine

    def watched_embedder(config: engines.EmbedConfig) -> engines.Embedder:
        engine = build_embedder(config)
        embed = engine.embed

        def noted(texts: Any) -> Any:
            seen["texts"] += list(texts)
            return embed(texts)

        engine.embed = noted  # type: ignore[method-assign]
        return engine

    engines.ENGINES["transformers"] = (watched_captioner, watched_embedder)
    code = command_line(list(arguments))
    log = {"pictures": len(seen["pictures"]), "texts": seen["texts"], "torch": "torch" in sys.modules}
    Path(os.environ["UPDATE_LOG"]).write_text(json.dumps(log))
    return code


def update(data: Path, store: Path) -> dict[str, Any]:
    """Brings a store up to date in a process of its own; what reached the models, and the seconds."""
    from catalograph.demo import packaged_config

    log = store.with_suffix(".seen.json")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "UPDATE_LOG": str(log)}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, __file__, "--child", "extract", "-c", str(packaged_config("demo")), "--update"]
    command += ["--store", str(store), "--json", "--set", f"data.root={data}", "--set", "threads=1"]
    for key in ("caption.buckets", "features.title.embed.buckets", "features.caption.embed.buckets"):
        command += ["--set", f"{key}={BUCKETS}"]
    began = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"extract exits {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads(log.read_text()) | {"seconds": round(time.monotonic() - began, 1)}


def change(before: Path, after: Path, other: Path) -> dict[str, set[str]]:
    """The catalogue less its first ten items, plus ten new ones, one picture replaced by another shop's."""
    table = pq.read_table(before / "catalog.parquet")
    after.mkdir()
    ids = table["product"].to_pylist()
    first, last = ids[:CHANGED], ids[-CHANGED:]
    replaced = ids[len(ids) // 2]
    pq.write_table(table.slice(0, len(ids) - CHANGED), before / "catalog.parquet")
    pq.write_table(table.slice(CHANGED), after / "catalog.parquet")
    with (
        zipfile.ZipFile(before / "pictures.zip") as source,
        zipfile.ZipFile(other / "pictures.zip") as elsewhere,
        zipfile.ZipFile(after / "pictures.zip", "w") as target,
    ):
        for name in source.namelist():
            target.writestr(name, (elsewhere if name == f"{replaced}.jpg" else source).read(name))
    return {"removed": set(first), "added": set(last), "replaced": {replaced}}


def shards(store: Path) -> dict[str, bytes]:
    """Every shard below a store, by its relative name."""
    return {str(path.relative_to(store)): path.read_bytes() for path in sorted(store.rglob("shards/*"))}


def furthest(one: dict[str, bytes], two: dict[str, bytes]) -> float:
    """The largest difference between the vectors of two stores; infinite where ids or captions differ."""
    from extract import FeatureTable

    worst = 0.0 if one.keys() == two.keys() else np.inf
    for name in one.keys() & two.keys():
        if name.endswith(".parquet"):
            equal = pq.read_table(io.BytesIO(one[name])).equals(pq.read_table(io.BytesIO(two[name])))
            worst = worst if equal else np.inf
            continue
        a, b = FeatureTable.from_bytes(one[name]), FeatureTable.from_bytes(two[name])
        worst = max(worst, float(np.abs(a.matrix - b.matrix).max()) if a.ids == b.ids else np.inf)
    return worst


def measure(root: Path, items: int, seed: int) -> dict[str, Any]:
    """The whole experiment."""
    from catalograph.demo.shop import open_shop, write_shop
    from extract import bucket_of

    write_shop(open_shop(items + CHANGED, 50, dial=1, seed=seed), root / "before")
    write_shop(open_shop(items + CHANGED, 50, dial=1, seed=seed + 1), root / "other")
    sets = change(root / "before", root / "after", root / "other")
    first = update(root / "before", root / "store")
    kept = shards(root / "store")
    second = update(root / "after", root / "store")
    third = update(root / "after", root / "store")
    update(root / "after", root / "fresh")
    now, touched = shards(root / "store"), {bucket_of(i, BUCKETS) for part in sets.values() for i in part}
    untouched = [name for name in kept if int(Path(name).name[:5]) not in touched]
    new_items = sets["added"] | sets["replaced"]
    return {
        "items": items,
        "seed": seed,
        "first": {"pictures": first["pictures"], "texts": len(first["texts"]), "seconds": first["seconds"]},
        "update": {
            "pictures": second["pictures"],
            "texts": len(second["texts"]),
            "texts_of_others": len(set(second["texts"]) - texts_of(root / "after", new_items, now)),
            "seconds": second["seconds"],
        },
        "nothing": {
            "pictures": third["pictures"], "texts": len(third["texts"]), "seconds": third["seconds"],
            "torch": third["torch"],
        },
        "untouched_shards": len(untouched),
        "of_them_changed": sum(now.get(name) != kept[name] for name in untouched),
        "furthest_from_a_fresh_store": furthest(now, shards(root / "fresh")),
    }  # fmt: skip


def texts_of(data: Path, items: set[str], found: dict[str, bytes]) -> set[str]:
    """Titles and captions of these items."""
    rows = pq.read_table(data / "catalog.parquet").to_pylist()
    texts = {row["name"] for row in rows if row["product"] in items}
    for name, shard in found.items():
        if name.endswith(".parquet"):
            table = pq.read_table(io.BytesIO(shard)).to_pylist()
            texts |= {row["caption"] for row in table if row["item_id"] in items}
    return texts


def main(argv: Sequence[str] | None = None) -> int:
    if len(sys.argv) > 1 and sys.argv[1] == "--child":
        return child(sys.argv[2:])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the shop")
    parser.add_argument("--quick", action="store_true", help="200 items")
    chosen = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="catalograph-update-") as scratch:
        result = measure(Path(scratch), 200 if chosen.quick else chosen.items, chosen.seed)
    print(json.dumps(result))
    changed, idle = result["update"], result["nothing"]
    holds = changed["pictures"] == CHANGED + 1 and not changed["texts_of_others"]
    holds &= idle["pictures"] == idle["texts"] == 0 and not idle["torch"]
    holds &= not result["of_them_changed"] and result["furthest_from_a_fresh_store"] <= 1e-5
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
