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
import contextlib
import functools
import gzip
import importlib.util
import io
import json
import os
import random
import re
import shutil
import string
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

DOCUMENTED = {0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 130, 143}
SHARES = {"config": 0.24, "set": 0.08, "catalogue": 0.2, "interactions": 0.2, "manifests": 0.12, "trec": 0.16}
"""Of the cases, by surface."""
ITEMS = [{"item_id": f"i{n}", "title": f"mug {n}", "brand": "b"} for n in range(6)]
CLICKS = [
    {"user_id": f"u{u}", "item_id": f"i{(u + n) % 6}", "time": str(10 * u + n), "label": "train"}
    for u in range(4)
    for n in range(4)
]
WORDS = (
    "", " ", "None", "null", "~", "nan", "NaN", "inf", "-inf", "-1", "0", "1e400", "1e-4", "0x1f", "9" * 25,
    "1_000", "true", "\0", "a\0", "\ufeff", "é", "e\u0301", "\u202e", "\U0001f600", "=1+1", "../x", "/",
    "/etc/passwd", ".", "http://localhost/x", "{title}", "{}", "{item_id}", "%s", "'; DROP TABLE items; --",
    '"', "'", "\\", "\t", "\n", "\r\n", "a" * 300, "!!python/object/apply:os.system [id]", "&a [*a]", "*a",
    "<<", "2024-02-30", "2024-01-01", "@", "i0", "u0", "[", "{", "\ud800",
)  # fmt: skip


def hurry() -> None:
    """What is the same for every case is made once: the tree of options, and what machine this is."""
    import typer.main

    from catalograph import runs

    typer.main.get_command = functools.cache(typer.main.get_command)  # type: ignore[assignment]
    runs.environment = functools.cache(runs.environment)


class Shop:
    """A folder with valid files, and ways to run the command line on spoilt ones."""

    def __init__(self, root: Path) -> None:
        self.root, self.found = root, Counter[int]()
        self.tracebacks: dict[str, str] = {}
        self.config = {
            "data": {"catalog": "items.csv", "interactions": "clicks.csv",
                     "catalog_columns": {"attributes": ["brand"]},
                     "interaction_columns": {"timestamp": "time"}},
            "caption": None,
            "features": {"title": {"template": "{title}", "embed": {"engine": "fake", "buckets": 2}}},
            "retrievers": {"popularity": {"model": "popularity"}, "knn": {"model": "item_knn", "params": {}}},
            "candidates": {"k": 3, "order_by": "popularity", "sources": ["popularity"]},
            "rerank": None,
            "evaluate": {"ks": [1, 2], "baselines": ["popularity"]},
            "seed": 0,
        }  # fmt: skip
        self.files = {
            "config": yaml.safe_dump(self.config).encode(),
            "items": rows_as(ITEMS), "clicks": rows_as(CLICKS),
            "trec": b"".join(
                b"q%d Q0 d%d %d %d run\n" % (q, d, d + 1, 9 - d) for q in (1, 2) for d in range(4)
            ),
            "qrels": b"q1 0 d1 1\nq2 0 d0 2\n",
            "queries": b'{"qid": "q1", "text": "red mug"}\nq2\tblue mug\n',
            "texts": b"".join(b'{"docid": "d%d", "title": "t", "text": "mug"}\n' % d for d in range(4)),
            "requests": b'{"query": {"qid": "q1", "text": "mug"}, "candidates": [{"docid": "d1",'
            b' "score": 1.5, "doc": {"text": "x"}}, {"docid": "d2", "score": 1, "doc": "y"}]}\n',
            "orders": b'{"user_id": "u1", "items": ["i1", "i2"]}\n{"qid": "u2", "items": ["i3", 4]}\n',
        }  # fmt: skip
        (root / "items.csv").write_bytes(self.files["items"]["csv"])
        (root / "clicks.csv").write_bytes(self.files["clicks"]["csv"])
        (root / "run.yaml").write_bytes(self.files["config"])
        self.records: dict[str, bytes] = {}

    def make_runs(self) -> None:
        """A finished preparation and a store, whose records are spoilt later."""
        hurry()
        for command in (
            ["extract", "-c", str(self.root / "run.yaml"), "--run-dir", str(self.root / "whole")],
            ["prepare", "-c", str(self.root / "run.yaml"), "--run-dir", str(self.root / "whole")],
            ["extract", "-c", str(self.root / "run.yaml"), "--update", "--store", str(self.root / "shelf")],
        ):
            if code := self.call(command):
                raise SystemExit(f"{command} exits {code}: {self.tracebacks}")
        self.found.clear()
        for top in ("whole", "shelf"):
            for path in sorted((self.root / top).rglob("*")):
                if path.suffix in {".json", ".jsonl", ".yaml"} and "logs" not in path.parts:
                    self.records[str(path.relative_to(self.root))] = path.read_bytes()

    def call(self, arguments: Sequence[str]) -> int:
        """One command, in this process; its exit code, counted."""
        from catalograph import cli

        seen, tell = [""], cli._failed

        def watched(error: Exception, *rest: Any) -> int:
            seen[0] = "".join(traceback.format_exception(error))
            return tell(error, *rest)

        cli._failed = watched
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                code = cli.main(list(arguments))
        finally:
            cli._failed = tell
        return self.note(code, seen[0], arguments)

    def read(self, reader: Callable[..., Any], *arguments: Any) -> int:
        """One reader, and the exit code that the command line gives to what it raises."""
        from extract.errors import CatalographError

        try:
            reader(*arguments)
        except CatalographError as error:
            return self.note(error.exit_code, str(error), arguments)
        except Exception:
            return self.note(1, traceback.format_exc(), arguments)
        return self.note(0, "", arguments)

    def note(self, code: int, text: str, what: object) -> int:
        self.found[code] += 1
        if code not in DOCUMENTED:
            frames = re.findall(
                r'File "([^"]*/(?:extract|recsys|rerank|catalograph)/[^"]*)", line (\d+)', text
            )
            last = text.strip().splitlines()[-1][:160] if text.strip() else ""
            errors = [line for line in text.splitlines() if re.match(r"^[\w.]+(Error|Exception)\b", line)]
            where = f"{Path(frames[-1][0]).name}:{frames[-1][1]}" if frames else "?"
            kind = (errors[-1] if errors else last)[:160]
            key = f"{where} {kind.split(':')[0]}"
            if key not in self.tracebacks:
                self.tracebacks[key] = f"{kind} | {what!r}"[:600]
                if folder := os.environ.get("FUZZ_KEEP"):
                    shutil.copytree(
                        self.root, Path(folder) / f"case-{len(self.tracebacks)}", dirs_exist_ok=True
                    )
        return code

    # Each surface takes what hypothesis or atheris made.

    def on_config(self, text: bytes, sets: Sequence[str] = ()) -> None:
        path = self.root / "case.yaml"
        path.write_bytes(text)
        self.call(["validate", "-c", str(path), *(part for s in sets for part in ("--set", s))])

    def on_table(self, name: str, kind: str, data: bytes, more: Mapping[str, Any]) -> None:
        section = {"items": "catalog", "clicks": "interactions"}[name]
        path = self.root / f"case-{name}.{kind}"
        path.write_bytes(data)
        config = json.loads(json.dumps(self.config))
        config["data"] |= {section: path.name, **more}
        if name == "clicks":
            config["data"].setdefault("unknown_items", "drop")
        (self.root / "case.yaml").write_text(json.dumps(config))
        self.call(["prepare", "-c", str(self.root / "case.yaml"), "--run-dir", str(self.root / "case-run")])
        shutil.rmtree(self.root / "case-run", ignore_errors=True)
        path.unlink()

    def on_record(self, name: str, data: bytes) -> None:
        path, config = self.root / name, str(self.root / "run.yaml")
        path.write_bytes(data)
        top = str(self.root / Path(name).parts[0])
        if name.startswith("whole"):
            self.call(["verify", "--run-dir", top])
            self.call(["hash", "--run-dir", top])
            self.call(["prepare", "-c", config, "--run-dir", top])
        else:
            self.call(["verify", "--store", top])
            self.call(["hash", "--store", top])
            self.call(["extract", "-c", config, "--update", "--store", top])
        for known, content in self.records.items():
            if (self.root / known).parent.is_dir() and (self.root / known).read_bytes() != content:
                (self.root / known).write_bytes(content)

    def on_trec(self, which: str, data: bytes) -> None:
        from rerank.search import graded_ndcg, read_qrels, read_requests, read_run
        from rerank.teacher import read_orders

        paths = {name: self.root / f"{name}.case" for name in ("trec", "qrels", "queries", "texts")}
        for name, path in paths.items():
            path.write_bytes(data if name == which else self.files[name])
        if which in ("orders", "orders.trec"):
            path = self.root / ("case.jsonl" if which == "orders" else "case.trec")
            path.write_bytes(data)
            self.read(read_orders, path)
            return
        if which == "requests":
            (self.root / "requests.case").write_bytes(data)

        def work() -> None:
            found = (
                read_requests(self.root / "requests.case")
                if which == "requests"
                else read_run(paths["trec"], paths["queries"], paths["texts"])
            )
            lists = found.lists()
            graded_ndcg(found.candidates, read_qrels(paths["qrels"]), 10)
            if len(lists) != len(found.candidates):
                raise AssertionError("a list was lost")
            found.candidates.to_trec(self.root / "out.trec", "tag")
            found.candidates.to_parquet(self.root / "out.parquet")

        self.read(work)


def rows_as(rows: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
    """The same rows in every format."""
    import csv

    made: dict[str, bytes] = {}
    for kind, delimiter in (("csv", ","), ("tsv", "\t"), ("inter", "\t"), ("txt", "\t")):
        text = io.StringIO()
        writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
        writer.writerow([f"{name}:token" if kind == "inter" else name for name in rows[0]])
        writer.writerows(row.values() for row in rows)
        made[kind] = text.getvalue().encode("utf-8", "surrogatepass")
    made["jsonl"] = "".join(json.dumps(row) + "\n" for row in rows).encode()
    sink = io.BytesIO()
    with contextlib.suppress(pa.ArrowException, TypeError, OverflowError, UnicodeError):
        pq.write_table(pa.table({name: [row[name] for row in rows] for name in rows[0]}), sink)
    made["parquet"] = sink.getvalue()
    for kind in ("csv", "jsonl"):
        made[f"{kind}.gz"] = gzip.compress(made[kind], mtime=0)
    return made


def spoil(data: bytes, chance: random.Random) -> bytes:
    """Valid bytes with some changed, cut, doubled, exchanged, or hostile words put in."""
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        at, kind = chance.randrange(len(data) + 1), chance.randrange(8)
        to = min(len(data), at + chance.choice((1, 1, 2, 4, 20, 200)))
        if kind == 0 and data:
            data = data[:at] + bytes([data[at - 1] ^ (1 << chance.randrange(8))]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at]
        elif kind == 2:
            data = data[:at] + data[to:]
        elif kind == 3:
            data = data[:to] + data[at:to] * chance.choice((1, 3, 30)) + data[to:]
        elif kind in (4, 5):
            word = chance.choice(WORDS).encode("utf-8", "surrogatepass")
            data = data[:at] + word + (data[to:] if kind == 4 else data[at:])
        elif kind == 6:
            numbers = list(re.finditer(rb"[\w.-]+", data))
            if numbers:
                found = chance.choice(numbers)
                word = chance.choice(WORDS).encode("utf-8", "surrogatepass")
                data = data[: found.start()] + word + data[found.end() :]
        else:
            data = (
                data[:at] + bytes(chance.randrange(256) for _ in range(chance.choice((1, 4, 40)))) + data[to:]
            )
    return data


def one_case(shop: Shop, surface: str, chance: random.Random, value: Any) -> None:
    """Runs a case; `value` is any JSON value, put where a valid file has another."""
    if surface == "config":
        if chance.random() < 0.4:
            shop.on_config(spoil(shop.files["config"], chance))
        else:
            shop.on_config(yaml_of(placed(shop.config, value, chance)))
    elif surface == "set":
        keys = [
            "data", "data.catalog", "data.split.method", "data.memory_gib", "caption", "features.title",
            "features.x.vectors.path", "retrievers.knn.params", "candidates.cap_by", "rerank",
            "rerank.inference.window", "evaluate.groups", "evaluate.ks", "tune.space", "run_dir", "seed", "x",
            "", "a..b",
        ]  # fmt: skip
        told = value if isinstance(value, str) else json.dumps(value)
        word = chance.choice(WORDS) if chance.random() < 0.4 else told
        shop.on_config(shop.files["config"], [f"{chance.choice(keys)}={word}", *(
            [spoil(b"candidates.k=3", chance).decode("utf-8", "replace")] if chance.random() < 0.3 else []
        )])  # fmt: skip
    elif surface in ("catalogue", "interactions"):
        name, rows = ("items", ITEMS) if surface == "catalogue" else ("clicks", CLICKS)
        kinds = ["csv", "tsv", "jsonl", "parquet", "csv.gz", "jsonl.gz"]
        kinds += ["inter", "txt"] if surface == "interactions" else []
        kind, more = chance.choice(kinds), {}
        if chance.random() < 0.5:
            data = spoil(shop.files[name][kind], chance)
        else:
            spoilt = json.loads(json.dumps(rows))
            for row in chance.sample(spoilt, chance.choice((1, 1, 2, len(spoilt)))):
                row[chance.choice([*row])] = value
            data = rows_as(spoilt)[kind]
        if surface == "interactions":
            columns = {
                "timestamp": chance.choice((None, "time")),
                "label": chance.choice((None, None, "label")),
            }
            more["interaction_columns"] = columns
            methods = ["leave_last_out", "random", "global_time"] if columns["timestamp"] else ["random"]
            split: dict[str, Any] = {"method": chance.choice(methods)}
            if columns["label"]:
                split = {"method": "label"}
            elif split["method"] == "global_time":
                split |= {"valid_from": 12, "test_from": 22}
            more["split"] = split
            if chance.random() < 0.1:
                more["memory_gib"] = 0.1
        shop.on_table(name, kind, data, more)
    elif surface == "manifests":
        name = chance.choice(sorted(shop.records))
        data = shop.records[name]
        if chance.random() < 0.4 or name.endswith(".yaml"):
            shop.on_record(name, spoil(data, chance))
        else:
            first, _, rest = data.partition(b"\n") if name.endswith(".jsonl") else (data, b"", b"")
            made = placed(json.loads(first), value, chance)
            shop.on_record(
                name, json.dumps(sealed(made) if chance.random() < 0.7 else made).encode() + b"\n" + rest
            )
    else:
        which = chance.choice(("trec", "qrels", "queries", "texts", "requests", "orders", "orders.trec"))
        data = shop.files[which.replace("orders.trec", "trec")]
        if which in ("requests", "orders") and chance.random() < 0.5:
            row = json.loads(data.splitlines()[0])
            shop.on_trec(which, json.dumps(placed(row, value, chance)).encode() + b"\n")
        else:
            shop.on_trec(which, spoil(data, chance))


def sealed(record: Any) -> Any:
    """A record with the checksums that belong to it, as somebody leaves it who knows how they are made."""
    from extract.store import content_hash

    with contextlib.suppress(ValueError, AttributeError, KeyError):
        for name in ("check", "sealed_sha256"):
            if name in record:
                record.pop(name)
                record[name] = content_hash(dict(record))
        if "fingerprint" in record and "parts" in record:
            record["fingerprint"] = content_hash(record["parts"])
    return record


def placed(tree: Any, value: Any, chance: random.Random) -> Any:
    """A copy of a tree of JSON values with `value` at one place of it, or beside one."""
    copy = json.loads(json.dumps(tree))
    table, depth = copy, 0
    while True:
        keys: list[Any] = list(table) if isinstance(table, dict) else list(range(len(table)))
        if not keys:
            return value if table is copy else copy
        key = chance.choice(keys)
        if isinstance(table[key], dict | list) and table[key] and chance.random() < 0.75:
            table, depth = table[key], depth + 1
            continue
        if isinstance(table, dict) and chance.random() < 0.2:
            key = chance.choice(WORDS) if chance.random() < 0.5 else f"{key}x"
        table[key] = value
        return copy


def yaml_of(tree: Any) -> bytes:
    return yaml.dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")


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


def by_atheris(root: Path, surface: str, cases: int, seed: int) -> tuple[Counter[int], dict[str, str]]:
    """Runs so many cases made by atheris, in a process of its own: it ends the process it runs in."""
    told = root / f"atheris-{surface}.json"
    command = [sys.executable, __file__, "--child", surface, str(cases), str(seed), str(told)]
    done = subprocess.run(command, capture_output=True, text=True)
    if not told.is_file():
        raise SystemExit(f"atheris on {surface} exits {done.returncode}:\n{done.stderr[-3000:]}")
    found = json.loads(told.read_text())
    return Counter({int(code): n for code, n in found["codes"].items()}), found["tracebacks"]


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

    def test(data: bytes) -> None:
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
        told.write_text(json.dumps({"codes": shop.found, "tracebacks": shop.tracebacks}))

    options = [f"-runs={cases}", f"-seed={seed + 1}", "-max_len=4096", "-verbosity=0", "-rss_limit_mb=0"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], test)
    atheris.Fuzz()


def fast_disk() -> str | None:
    """A place where fsync costs nothing, if there is one: what is tested here is reading."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def measure(
    root: Path, cases: int, seed: int, only: Sequence[str], guided: float, state: Path | None
) -> dict[str, Any]:
    """Counts by surface, those of earlier pieces included; a surface that is done is kept at once."""
    began = time.monotonic()
    result = json.loads(state.read_text()) if state is not None and state.is_file() else {}
    share = guided if importlib.util.find_spec("atheris") else 0.0
    for surface in only or SHARES:
        total = round(cases * SHARES[surface] / sum(SHARES[s] for s in only or SHARES))
        shop = Shop(root / surface)
        shop.make_runs()
        by_hypothesis(shop, surface, total - round(total * share), seed)
        codes, tracebacks = shop.found, dict(shop.tracebacks)
        made = {"hypothesis": total - round(total * share), "atheris": round(total * share)}
        if made["atheris"]:
            found, more = by_atheris(root, surface, made["atheris"], seed)
            codes, tracebacks = codes + found, tracebacks | more
        row = {
            **made, "exit_codes": dict(sorted((str(c), n) for c, n in codes.items())),
            "tracebacks": tracebacks, "seconds": round(time.monotonic() - began, 1),
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
    return whole


def main(argv: Sequence[str] | None = None) -> int:
    if len(sys.argv) > 1 and sys.argv[1] == "--child":
        child(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
        return 0
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
