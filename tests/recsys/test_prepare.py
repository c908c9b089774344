import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extract.errors import InvalidData, ResourceExhausted
from recsys import InteractionColumns, Interactions, SplitConfig
from recsys.filters import FilterConfig
from recsys.overview import Tally, long_tail
from recsys.pair_files import ROWS, regrouped
from recsys.plan import Plan
from recsys.prepare import prepare_interactions

ITEMS = [f"i{n}" for n in range(9)]
LABELS = {"train_labels": ("a",), "valid_labels": ("b",), "test_labels": ("c",)}


def table(seed: int) -> pa.Table:
    """Clicks with doubles, empty ids, unknown items, equal times and labels that contradict each other."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(60, 120))
    users = np.array([*(f"u{k}" for k in range(10)), ""])
    return pa.table({
        "user_id": users[np.minimum(rng.integers(0, 12, n), 10)],
        "item_id": np.array([*ITEMS, "ghost", ""])[rng.integers(0, 11, n)],
        "time": rng.integers(0, 12, n),
        "stars": rng.integers(1, 6, n).astype(np.float32),
        "label": np.array(["a", "a", "b", "c", "none"])[rng.integers(0, 5, n)],
    })


def prepared(folder: Path, memory: float | None, **plan: Any) -> tuple[dict[str, bytes], dict[str, Any]]:
    folder.mkdir(exist_ok=True)
    done = prepare_interactions(
        Plan(item_ids=ITEMS, unknown="drop", **plan),
        lambda name: folder / f"{name}.parquet",
        scratch=folder,
        memory_gib=memory,
    )
    files = {name: (folder / f"{name}.parquet").read_bytes() for name in ("train", "valid", "test")}
    return files, done.summary()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 1000),
    method=st.sampled_from(["random", "mmrec", "leave_last_out", "global_time", "label", "carved"]),
    kind=st.sampled_from(["csv", "parquet", "parquet of pairs"]),
    cold=st.sampled_from([None, "least_chosen", "random"]),
    core=st.booleans(),
)
def test_on_disk_gives_the_bytes_of_in_memory(
    tmp_path_factory: pytest.TempPathFactory, seed: int, method: str, kind: str, cold: str | None, core: bool
) -> None:
    folder = tmp_path_factory.mktemp("prepare")
    path = folder / f"clicks.{kind[:7].strip()}"
    if kind == "csv":
        pa.csv.write_csv(table(seed), path)
    else:
        pq.write_table(table(seed), path, row_group_size=17)
    extra = (
        {}
        if kind == "parquet of pairs" and method not in {"label", "carved"}
        else {"weight": "stars", "label": "label"}
    )
    split: dict[str, Any] = {"method": "label" if method == "carved" else method, "seed": seed}
    split |= LABELS | ({"valid_labels": ("nowhere",)} if method == "carved" else {})
    if cold:
        split |= {"cold_share": 0.3, "cold_by": cold}
    plan: dict[str, Any] = {
        "path": path,
        "columns": InteractionColumns(timestamp="time", **extra),
        "filter": FilterConfig(min_user=3, min_item=2) if core else FilterConfig(),
        "split": SplitConfig(**split),
        "keeps_times": bool(seed % 2),
    }
    try:
        wanted = prepared(folder / "memory", None, **plan)
    except InvalidData as error:
        with pytest.raises(InvalidData) as caught:
            prepared(folder / "disk", 0.25, **plan)
        assert caught.value.code == error.code
        return
    assert prepared(folder / "disk", 0.25, **plan) == wanted


@pytest.mark.parametrize("unknown", ["error", "drop"])
def test_on_disk_refuses_what_memory_refuses(tmp_path: Path, unknown: Any) -> None:
    path = tmp_path / "clicks.csv"
    path.write_text("user_id,item_id\nu,ghost\nv,phantom\n,i1\n")
    plan = Plan(path, InteractionColumns(), ITEMS, unknown, FilterConfig(), SplitConfig())
    for memory in (None, 0.25):
        with pytest.raises(InvalidData) as caught:
            prepare_interactions(plan, lambda name: tmp_path / name, scratch=tmp_path, memory_gib=memory)
        assert caught.value.code == {"error": "D202", "drop": "D203"}[unknown]
        assert "ghost" in caught.value.why


def test_too_little_memory_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"user_id": np.arange(300_000), "item_id": np.full(300_000, "i1")}), tmp_path / "c.parquet"
    )
    plan = Plan(tmp_path / "c.parquet", InteractionColumns(), ITEMS, "drop", FilterConfig(), SplitConfig())
    with pytest.raises(ResourceExhausted) as caught:
        prepare_interactions(plan, lambda name: tmp_path / name, scratch=tmp_path, memory_gib=0.002)
    assert caught.value.code == "R603"
    assert [path.name for path in tmp_path.iterdir()] == ["c.parquet"]


@given(cuts=st.lists(st.integers(0, 4), min_size=1, max_size=8), size=st.integers(1, 5))
def test_how_rows_come_does_not_show_in_their_groups(cuts: list[int], size: int) -> None:
    rows = np.arange(sum(cuts))
    ends = np.cumsum([0, *cuts])
    chunks = [{"user_rows": rows[a:b]} for a, b in itertools.pairwise(ends)]
    got = [chunk["user_rows"].tolist() for chunk in regrouped(chunks, size)]
    assert [row for chunk in got for row in chunk] == rows.tolist()
    assert [len(chunk) for chunk in got] == [size] * (len(rows) // size) + [len(rows) % size] * (
        len(rows) % size > 0 or not len(rows)
    )


def test_more_rows_than_a_group_holds_are_saved_and_loaded(tmp_path: Path) -> None:
    n = ROWS + 3
    axis = np.array(["a", "b"])
    rows = (np.arange(n) % 2).astype(np.int32)
    whole = Interactions(axis, axis, rows, rows[::-1].copy())
    whole.save(tmp_path / "x.parquet")
    assert pq.ParquetFile(tmp_path / "x.parquet").num_row_groups == 2
    assert Interactions.load(tmp_path / "x.parquet").content_hash() == whole.content_hash()


def test_the_long_tail_says_what_share_the_most_chosen_items_hold() -> None:
    # 10 items, 20 choices: the first item has 11, nine have one.
    assert long_tail(np.array([1] * 9 + [11])) == {
        0.01: 0.55, 0.02: 0.55, 0.05: 0.55, 0.1: 0.55, 0.2: 0.6, 0.5: 0.75, 1.0: 1.0,
    }  # fmt: skip


def test_a_summary_counts_what_leaks() -> None:
    tally = Tally(n_users=3, n_items=4)
    tally.add("train", np.int32([0, 0]), np.int32([0, 1]), np.array([10, 30]))
    tally.add("train", np.int32([1]), np.int32([0]), np.array([40]))
    # User 0 at 20 is older than its own 30 and than the last 40; user 1 at 39 than its own 40; user 2 is new.
    tally.add("test", np.int32([0, 1, 2]), np.int32([1, 2, 2]), np.array([20, 39, 50]))
    assert tally.leakage()["test"] == {
        "user_without_train": 1,
        "item_without_train": 2,
        "before_last_of_train": 2,
        "before_last_of_own_train": 2,
    }
    found = tally.overview()
    assert found["density"] == 0.5 and found["never_chosen_items"] == 1
    assert found["choices_per_user"]["max"] == 3 and found["choices_per_chosen_item"]["median"] == 2


def test_pairs_whose_doubles_contradict_each_other_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "clicks.csv"
    rows = ["u,i1,a", "u,i2,a", "u,i1,c", "u,i2,a", "v,i3,b", "v,i4,c"]
    path.write_text("\n".join(["user_id,item_id,label", *rows]) + "\n")
    split = SplitConfig(method="label", **LABELS)  # type: ignore[arg-type]
    for memory in (None, 0.25):
        _, summary = prepared(
            tmp_path / f"out-{memory}", memory, path=path, columns=InteractionColumns(label="label"),
            filter=FilterConfig(), split=split,
        )  # fmt: skip
        assert (summary["duplicates"], summary["duplicates_of_another_label"]) == (2, 1)
        json.dumps(summary, allow_nan=False)
