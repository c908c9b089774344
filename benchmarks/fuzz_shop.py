"""A folder with valid files, and ways to run the command line, in this process, on spoilt ones."""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import json
import os
import re
import shutil
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from hostile_shop import DOCUMENTED

ITEMS = [{"item_id": f"i{n}", "title": f"mug {n}", "brand": "b"} for n in range(6)]
CLICKS = [
    {"user_id": f"u{u}", "item_id": f"i{(u + n) % 6}", "time": str(10 * u + n), "label": "train"}
    for u in range(4)
    for n in range(4)
]


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
