"""The cases of `fuzz.py`: valid files with a value of any kind at some place, or with bytes spoilt."""

from __future__ import annotations

import contextlib
import json
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from fuzz_shop import CLICKS, ITEMS, Shop, rows_as

WORDS = (
    "", " ", "None", "null", "~", "nan", "NaN", "inf", "-inf", "-1", "0", "1e400", "1e-4", "0x1f", "9" * 25,
    "1_000", "true", "\0", "a\0", "\ufeff", "é", "e\u0301", "\u202e", "\U0001f600", "=1+1", "../x", "/",
    "/etc/passwd", ".", "http://localhost/x", "{title}", "{}", "{item_id}", "%s", "'; DROP TABLE items; --",
    '"', "'", "\\", "\t", "\n", "\r\n", "a" * 300, "!!python/object/apply:os.system [id]", "&a [*a]", "*a",
    "<<", "2024-02-30", "2024-01-01", "@", "i0", "u0", "[", "{", "\ud800",
)  # fmt: skip
TABLES = ("csv", "tsv", "jsonl", "parquet", "csv.gz", "jsonl.gz")


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
    CASES[surface](shop, chance, value)


def config_case(shop: Shop, chance: random.Random, value: Any) -> None:
    if chance.random() < 0.4:
        shop.on_config(spoil(shop.files["config"], chance))
    else:
        shop.on_config(yaml_of(placed(shop.config, value, chance)))


def set_case(shop: Shop, chance: random.Random, value: Any) -> None:
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


def catalogue_case(shop: Shop, chance: random.Random, value: Any) -> None:
    kind = chance.choice(TABLES)
    shop.on_table("items", kind, table(shop, "items", ITEMS, kind, chance, value), {})


def interactions_case(shop: Shop, chance: random.Random, value: Any) -> None:
    kind = chance.choice([*TABLES, "inter", "txt"])
    data = table(shop, "clicks", CLICKS, kind, chance, value)
    columns = {
        "timestamp": chance.choice((None, "time")),
        "label": chance.choice((None, None, "label")),
    }
    methods = ["leave_last_out", "random", "global_time"] if columns["timestamp"] else ["random"]
    split: dict[str, Any] = {"method": chance.choice(methods)}
    if columns["label"]:
        split = {"method": "label"}
    elif split["method"] == "global_time":
        split |= {"valid_from": 12, "test_from": 22}
    more: dict[str, Any] = {"interaction_columns": columns, "split": split}
    if chance.random() < 0.1:
        more["memory_gib"] = 0.1
    shop.on_table("clicks", kind, data, more)


def table(
    shop: Shop, name: str, rows: Sequence[Mapping[str, Any]], kind: str, chance: random.Random, value: Any
) -> bytes:
    """A file of a kind with bytes spoilt, or with `value` in some of its rows."""
    if chance.random() < 0.5:
        return spoil(shop.files[name][kind], chance)
    spoilt = json.loads(json.dumps(rows))
    for row in chance.sample(spoilt, chance.choice((1, 1, 2, len(spoilt)))):
        row[chance.choice([*row])] = value
    return rows_as(spoilt)[kind]


def manifest_case(shop: Shop, chance: random.Random, value: Any) -> None:
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


def trec_case(shop: Shop, chance: random.Random, value: Any) -> None:
    which = chance.choice(("trec", "qrels", "queries", "texts", "requests", "orders", "orders.trec"))
    data = shop.files[which.replace("orders.trec", "trec")]
    if which in ("requests", "orders") and chance.random() < 0.5:
        row = json.loads(data.splitlines()[0])
        shop.on_trec(which, json.dumps(placed(row, value, chance)).encode() + b"\n")
    else:
        shop.on_trec(which, spoil(data, chance))


CASES = {
    "config": config_case, "set": set_case, "catalogue": catalogue_case, "interactions": interactions_case,
    "manifests": manifest_case, "trec": trec_case,
}  # fmt: skip


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
