"""Promises about whole runs that the other files do not hold to account: see docs/reliability.md."""

from __future__ import annotations

import builtins
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from catalograph.cli import main
from catalograph.config import RunConfig, changed_keys
from catalograph.config_file import load_config
from catalograph.config_keys import NOT_RESULTS, results_of
from catalograph.runs import content_hash, lock_folder, open_run, verify
from extract.disk import atomic_file, write_atomic
from extract.errors import RunFolderError
from extract.features import FeatureTable
from recsys.candidates import Candidates
from recsys.interactions import Interactions

OLDER = Path(__file__).parent / "older_runs" / "first_format"
OLDER_HASH = "83a68edf53ddcec27e459fbe2735dfb099b60f8245359831cd2d3c06645306df"
CONFIG = yaml.safe_load((OLDER / "run.yaml").read_text())


def shop(folder: Path, **changes: Any) -> Path:
    """The tables of the older run in another folder, and a configuration."""
    folder.mkdir(parents=True)
    for name in ("items.csv", "clicks.csv"):
        shutil.copy(OLDER / name, folder / name)
    (folder / "run.yaml").write_text(yaml.safe_dump(CONFIG | changes))
    return folder / "run.yaml"


def run(config: Path, folder: Path, verb: str = "run") -> int:
    return main([verb, "-c", str(config), "--run-dir", str(folder)])


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("golden")
    assert run(shop(root / "shop"), root / "run") == 0
    return content_hash(root / "run")


# Dying anywhere


class Died(BaseException):
    """Like a kill, nothing may handle it."""


@contextmanager
def dying_at(fatal: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Every rename and fsync is written down, and the one of this number (from 1) is not done."""
    calls: list[str] = []
    replace, fsync = os.replace, os.fsync

    def watched(name: str, real: Any) -> Any:
        def call(*rest: Any) -> None:
            calls.append(name)
            if len(calls) == fatal:
                raise Died
            real(*rest)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", watched("rename", replace))
        patch.setattr(os, "fsync", watched("fsync", fsync))
        yield calls


def test_a_run_that_died_at_its_renames_and_fsyncs_ends_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, golden: str
) -> None:
    config = shop(tmp_path / "shop")
    with dying_at(0, monkeypatch) as calls:
        assert run(config, tmp_path / "whole") == 0
    assert len(calls) > 60
    # Another few of them on each day this is read would be all of them; the benchmark takes every one.
    for number in sorted(random.Random(4).sample(range(1, len(calls) + 1), 5)):
        folder = tmp_path / f"died-{number}"
        with dying_at(number, monkeypatch), pytest.raises(Died):
            run(config, folder)
        assert run(config, folder) == 0
        assert content_hash(folder) == golden and verify(folder) == []


def test_bytes_are_on_the_disk_before_their_name_and_the_name_before_what_counts_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dying_at(0, monkeypatch) as calls:
        write_atomic(tmp_path / "data", b"x")
        write_atomic(tmp_path / "record", b"y")
    assert calls == ["fsync", "rename", "fsync"] * 2


# A full disk and little memory


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_limit_on_files_names_the_bytes_and_is_mended_by_a_rerun(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], golden: str
) -> None:
    config = shop(tmp_path / "shop")
    with largest_file(1800):
        assert run(config, tmp_path / "run") == 6
    told = capsys.readouterr().err
    assert "error[R601]: no room to write " in told and " bytes are free" in told
    assert run(config, tmp_path / "run") == 0
    assert content_hash(tmp_path / "run") == golden


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
@pytest.mark.parametrize("kib", [12, 48, 80])
def test_a_full_disk_names_the_bytes_and_is_mended_by_a_rerun(
    tmp_path: Path, kib: int, capsys: pytest.CaptureFixture[str], golden: str
) -> None:
    config, disk = shop(tmp_path / "shop"), tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is forbidden here")
    try:
        assert run(config, disk / "run") == 6
        told = capsys.readouterr().err
        assert "error[R601]: no room to write" in told and " bytes are free" in told
        assert "Traceback" not in told and "Logging error" not in told
        subprocess.run(["mount", "-o", "remount,size=10m", str(disk)], check=True)
        assert run(config, disk / "run") == 0
        assert content_hash(disk / "run") == golden and verify(disk / "run") == []
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    write_atomic(tmp_path / "data", b"old")
    with largest_file(100), pytest.raises(Exception, match="no room to write 200 bytes"):
        with atomic_file(tmp_path / "data", 200) as file:
            file.write(b"n" * 200)
    assert (tmp_path / "data").read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["data"]


LITTLE = """
import resource, sys
import catalograph.stages, recsys.prepare, pyarrow.parquet
from catalograph.cli import main
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 60_000_000,) * 2)
sys.exit(main(sys.argv[1:]))
"""


def test_too_little_memory_ends_a_process_with_exit_code_6_and_no_traceback(tmp_path: Path) -> None:
    config = shop(tmp_path / "shop", data=CONFIG["data"] | {"interactions": "many.parquet"})
    chance = np.random.default_rng(0)
    users = pa.array(chance.integers(0, 10**6, 10**6)).cast(pa.string())
    items = pa.array(chance.integers(0, 8, 10**6)).cast(pa.string())
    table = {"user_id": users, "item_id": pa.compute.binary_join_element_wise("i", items, "")}
    pq.write_table(pa.table({**table, "time": np.arange(10**6)}), tmp_path / "shop" / "many.parquet")
    command = [sys.executable, "-c", LITTLE, "prepare", "-c", str(config), "--run-dir", str(tmp_path / "run")]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 6, done.stderr
    assert "error[R602]: memory ran out" in done.stderr and "Traceback" not in done.stderr
    assert verify(tmp_path / "run") == []


def environment(**more: str) -> dict[str, str]:
    packages = os.pathsep.join(path for path in sys.path if path)
    return os.environ | {"PYTHONPATH": packages, "OMP_NUM_THREADS": "1"} | more


# Two processes, clocks, places


def test_a_stopped_holder_is_named_at_once_and_its_folder_is_not_taken(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from catalograph.runs import lock_folder\n"
        "held = lock_folder(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment()) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        holder.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(RunFolderError, match=f"process {holder.pid} on host"):
            lock_folder(tmp_path)
        assert time.monotonic() - started < 1
        holder.kill()
    lock_folder(tmp_path).close()


def test_a_clock_that_jumps_and_files_of_the_future_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, golden: str
) -> None:
    config = shop(tmp_path / "shop")
    for name in ("items.csv", "clicks.csv"):
        os.utime(tmp_path / "shop" / name, (4e9, 4e9))
    chance = random.Random(0)
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: chance.choice((0.0, 1e9, 4e9)))
        assert run(config, tmp_path / "run", "train") == 0
    os.utime(tmp_path / "shop" / "clicks.csv", (0, 0))
    assert run(config, tmp_path / "run") == 0
    assert content_hash(tmp_path / "run") == golden


def test_locale_time_zone_umask_and_odd_paths_change_nothing(tmp_path: Path, golden: str) -> None:
    place = tmp_path / "schöner Laden 🛒 [1]*"
    config = shop(place)
    more = {"LC_ALL": "C", "LANG": "C", "TZ": "Asia/Kathmandu"}
    command = [
        sys.executable,
        "-m",
        "catalograph",
        "run",
        "-c",
        str(config),
        "--run-dir",
        str(place / "rün 🏃"),
    ]
    done = subprocess.run(
        command, env=environment(**more), capture_output=True, preexec_fn=lambda: os.umask(0o077) and None
    )
    assert done.returncode == 0, done.stderr
    assert content_hash(place / "rün 🏃") == golden
    assert (place / "rün 🏃" / "run.json").stat().st_mode & 0o077 == 0


def test_a_path_that_is_no_utf_8_is_refused_by_name(tmp_path: Path) -> None:
    folder = os.path.join(os.fsencode(tmp_path), b"shop\xff")
    command = [os.fsencode(sys.executable), b"-m", b"catalograph", b"prepare", b"--run-dir", folder]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 2 and "error[C001]: an argument is no UTF-8" in done.stderr
    assert "shop\\udcff" in done.stderr


# Changed settings


def test_every_setting_that_affects_results_is_named_where_it_differs(tmp_path: Path) -> None:
    config = load_config(OLDER.parents[3] / "configs" / "demo.yaml")
    stored = config.redacted()
    for key in results_of(stored):
        changed = json.loads(json.dumps(stored, default=str))
        table, *path = changed, *key.split(".")
        for step in path[:-1]:
            table = table[step]
        table[path[-1]] = "another value"
        assert key in changed_keys(changed, config) or builtins.any(
            name.startswith(key) for name in changed_keys(changed, config)
        ), key
    assert changed_keys(stored, config) == {}


def test_a_setting_that_moves_no_result_is_not_among_those_compared() -> None:
    config = RunConfig.model_validate(CONFIG)
    assert not {"threads", "max_bad", "report.title", "data.root"} & set(results_of(config.redacted()))
    assert {"threads", "max_bad", "report", "data.root"} <= set(NOT_RESULTS)


# Older folders


@pytest.fixture
def older(tmp_path: Path) -> Path:
    shutil.copytree(OLDER, tmp_path / "older")
    return tmp_path / "older"


def test_an_older_run_folder_is_whole_and_has_its_hash(older: Path) -> None:
    assert verify(older / "folder") == []
    assert content_hash(older / "folder") == OLDER_HASH


def test_what_an_older_run_made_is_read(older: Path) -> None:
    stages = older / "folder" / "stages"
    features = FeatureTable.load(stages / "30-embed" / "title.safetensors")
    assert features.ids == tuple(f"i{n}" for n in range(8)) and features.present.all()
    lists = Candidates.from_parquet(stages / "50-recommend" / "test.parquet")
    assert lists.items.shape == (5, 3)
    assert len(Interactions.load(stages / "10-prepare" / "train.parquet")) == 10
    exported = older / "exported"
    assert main(["export", "--run-dir", str(older / "folder"), "--to", str(exported)]) == 0
    assert (exported / "title.parquet").is_file()


def test_an_older_run_goes_on_or_names_what_changed(older: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main([
        "run", "-c", str(older / "run.yaml"), "--set", f"data.root={older}",
        "--run-dir", str(older / "folder"),
    ])  # fmt: skip
    told = capsys.readouterr().err
    assert code == 10 and "error[R104]: stage 10-prepare was made from other inputs or settings" in told
    assert "filter.min_user: null before, 1 now" in told and "Traceback" not in told
    assert verify(older / "folder") == []


def test_a_folder_without_a_format_and_one_of_a_later_one_are_refused(older: Path) -> None:
    from catalograph.integrity import read_sealed, write_sealed

    path = older / "folder" / "run.json"
    record = read_sealed(path)
    assert record is not None
    for version in (None, "1", 2):
        write_sealed(path, record | {"format_version": version})
        with pytest.raises(RunFolderError) as caught:
            open_run(older / "folder", load_config(older / "folder" / "config.yaml"))
        assert caught.value.code == "R105"


# Signals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_at_any_time_ends_a_run_soon_with_its_code_and_costs_no_result(
    tmp_path: Path, number: int, code: int, golden: str
) -> None:
    config, folder = shop(tmp_path / "shop"), tmp_path / "run"
    command = [sys.executable, "-m", "catalograph", "run", "-c", str(config), "--run-dir", str(folder)]
    with subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not (folder / "run.json").exists():
            time.sleep(0.005)
        time.sleep(random.Random(int(number)).uniform(0, 0.3))
        sent = time.monotonic()
        process.send_signal(number)
        _, told = process.communicate()
    assert process.returncode == code and "Traceback" not in told
    assert time.monotonic() - sent < 10
    assert verify(folder) == [] and run(config, folder) == 0
    assert content_hash(folder) == golden


def test_no_library_sends_usage_data_unless_the_user_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from catalograph.terminal import quieten_libraries

    names = ["HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "RAY_USAGE_STATS_ENABLED", "VLLM_NO_USAGE_STATS"]
    monkeypatch.setattr(os, "environ", {"DO_NOT_TRACK": "0"})
    quieten_libraries()
    assert [os.environ[name] for name in names] == ["1", "0", "0", "1"]
