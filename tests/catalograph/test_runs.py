from __future__ import annotations

import io
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from catalograph import progress as progress_module
from catalograph import runs
from catalograph.config import RunConfig
from catalograph.progress import Progress
from catalograph.runs import content_hash, open_run, stored_config, verify
from extract.errors import InvalidData, RunFolderError, UnsafeInput


def config(**changes: object) -> RunConfig:
    values: dict[str, object] = {
        "data": {"catalog": "items.csv", "interactions": "clicks.csv"},
        "retrievers": {"pop": {"model": "popularity"}},
        "caption": {"engine": "fake", "model": "https://me:hunter2@host/model"},
    }
    return RunConfig.model_validate(values | changes)


def finish(folder: Path, files: dict[str, bytes], stage: str = "20-embed", seconds: float = 1.0) -> None:
    with open_run(folder, config()) as run:
        opened = run.stage(stage, {"model": "m"})
        for name, data in files.items():
            opened.output(name).write_bytes(data)
        opened.finish(list(files), {"in": 2, "ok": 2}, seconds)


def test_a_run_folder_says_what_made_it(tmp_path: Path) -> None:
    with open_run(tmp_path / "r", config(seed=3)):
        pass
    run = json.loads((tmp_path / "r" / "run.json").read_text())
    assert run["format_version"] == 1 and run["outcome"] == "ok"
    assert stored_config(tmp_path / "r")["seed"] == 3
    environment = json.loads((tmp_path / "r" / "env.json").read_text())
    assert environment["packages"]["numpy"] and environment["python"].startswith("3.")


def test_secrets_do_not_reach_the_folder(tmp_path: Path) -> None:
    with open_run(tmp_path, config()) as run:
        run.stage("10-a", {"x": 1})
    written = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert b"hunter2" not in written and b"***" in written


def test_a_second_process_is_refused_with_the_holder(tmp_path: Path) -> None:
    with open_run(tmp_path, config()):
        with pytest.raises(RunFolderError) as caught:
            open_run(tmp_path, config())
    assert caught.value.code == "R101" and caught.value.exit_code == 10
    assert f"process {os.getpid()} on host {socket.gethostname()}" in caught.value.why


def test_the_lock_ends_with_its_process_even_after_kill_9(tmp_path: Path) -> None:
    hold = "import fcntl, sys, time; f = open(sys.argv[1], 'a+'); fcntl.flock(f, fcntl.LOCK_EX)"
    code = f"{hold}; print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / "LOCK"], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(RunFolderError, match="in use"):
            open_run(tmp_path, config())
        holder.send_signal(signal.SIGKILL)
    with open_run(tmp_path, config()):
        pass


def test_the_lock_is_given_back_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), open_run(tmp_path, config()):
        raise ZeroDivisionError("inside")
    assert json.loads((tmp_path / "run.json").read_text())["outcome"] == "ZeroDivisionError"
    failures = [json.loads(line) for line in (tmp_path / "logs/run.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in failures if row["event"] == "failure"] == ["ZeroDivisionError"]
    with open_run(tmp_path, config()):
        pass


def test_another_configuration_is_refused_by_key_and_value(tmp_path: Path) -> None:
    with open_run(tmp_path, config()):
        pass
    with pytest.raises(RunFolderError) as caught:
        open_run(tmp_path, config(seed=4, device="cpu"))
    assert caught.value.code == "R102"
    assert caught.value.why == 'seed: 0 before, 4 now; device: "auto" before, "cpu" now'
    with open_run(tmp_path, config()):
        pass


def test_settings_that_move_no_result_may_change(tmp_path: Path) -> None:
    with open_run(tmp_path, config()):
        pass
    with open_run(tmp_path, config(threads=2, max_bad=0.5, run_dir=str(tmp_path), report={"title": "New"})):
        pass
    assert stored_config(tmp_path)["threads"] == 2
    assert verify(tmp_path) == []


def test_a_folder_whose_first_process_was_killed_before_its_record_is_taken_over(tmp_path: Path) -> None:
    with open_run(tmp_path, config()):
        pass
    (tmp_path / "run.json").unlink()
    with open_run(tmp_path, config()):
        pass
    assert verify(tmp_path) == []


def test_a_folder_of_other_things_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(RunFolderError) as caught:
        open_run(tmp_path, config())
    assert caught.value.code == "R103" and "holiday.jpg" in caught.value.why
    assert [p.name for p in tmp_path.iterdir()] == ["holiday.jpg"]


def test_a_folder_left_by_a_process_killed_at_its_start_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "LOCK").write_text("{}")
    (tmp_path / "config.yaml.abc.tmp").write_text("half")
    with open_run(tmp_path, config()):
        pass
    assert verify(tmp_path) == []


def test_a_folder_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    from catalograph.integrity import write_sealed

    with open_run(tmp_path, config()):
        pass
    write_sealed(tmp_path / "run.json", {"format_version": 99})
    with pytest.raises(RunFolderError) as caught:
        open_run(tmp_path, config())
    assert caught.value.code == "R105"


def test_a_stage_is_done_only_after_finish(tmp_path: Path) -> None:
    with open_run(tmp_path, config()) as run:
        stage = run.stage("20-embed", {"model": "m", "inputs": ["a"]})
        assert not stage.done
        with pytest.raises(ValueError, match="not done"):
            _ = stage.hash
        stage.output("deep/x.bin").write_bytes(b"abc")
        assert not run.stage("20-embed", {"model": "m", "inputs": ["a"]}).done
        stage.finish(["deep/x.bin"], {"in": 1}, 2.5)
        assert stage.done
        again = run.stage("20-embed", {"inputs": ["a"], "model": "m"})
        assert again.done and again.hash == stage.hash
        assert again.counts == {"in": 1} and again.seconds == 2.5


def test_a_declared_folder_stands_for_its_files(tmp_path: Path) -> None:
    with open_run(tmp_path, config()) as run:
        stage = run.stage("20-embed", {})
        stage.output("shards/b").write_bytes(b"1")
        stage.output("shards/a").write_bytes(b"2")
        stage.finish(["shards"])
        assert [row["path"] for row in stage.record["outputs"]] == ["shards/a", "shards/b"]


@pytest.mark.parametrize("name", ["absent.bin", "../../run.json", "/etc/hostname"])
def test_outputs_must_exist_inside_the_stage(tmp_path: Path, name: str) -> None:
    with open_run(tmp_path, config()) as run:
        stage = run.stage("20-embed", {})
        with pytest.raises(ValueError, match="output"):
            stage.finish([name])
        assert not stage.done


@pytest.mark.parametrize("damage", ["remove", "shorten", "record"])
def test_a_damaged_stage_is_not_done_and_can_be_done_again(tmp_path: Path, damage: str) -> None:
    finish(tmp_path, {"x.bin": b"abc"})
    before = content_hash(tmp_path)
    stage = tmp_path / "stages/20-embed"
    if damage == "remove":
        (stage / "x.bin").unlink()
    elif damage == "shorten":
        (stage / "x.bin").write_bytes(b"ab")
    else:
        (stage / "stage.json").write_bytes(
            (stage / "stage.json").read_bytes().replace(b"20-embed", b"20-embee")
        )
    assert len(verify(tmp_path)) == 1
    with pytest.raises(InvalidData):
        content_hash(tmp_path)
    with open_run(tmp_path, config()) as run:
        assert not run.stage("20-embed", {"model": "m"}).done
    finish(tmp_path, {"x.bin": b"abc"})
    assert verify(tmp_path) == [] and content_hash(tmp_path) == before


def test_a_stage_of_other_parts_is_refused_finished_or_not(tmp_path: Path) -> None:
    with open_run(tmp_path, config()) as run:
        stage = run.stage("20-embed", {"catalog": "aa", "model": {"name": "m", "revision": 1}})
        for _ in range(2):
            with pytest.raises(RunFolderError) as caught:
                run.stage("20-embed", {"catalog": "bb", "model": {"name": "m", "revision": 2}})
            assert caught.value.code == "R104"
            assert caught.value.why == 'catalog: "aa" before, "bb" now; model.revision: 1 before, 2 now'
            stage.finish([])


def test_the_content_hash_ignores_times_hosts_logs_and_order(tmp_path: Path) -> None:
    finish(tmp_path / "a", {"x": b"1", "y": b"2"}, seconds=1.0)
    finish(tmp_path / "b", {"y": b"2", "x": b"1"}, seconds=99.0)
    (tmp_path / "b" / "stages/20-embed/scratch.tmp").write_bytes(b"zzz")
    with open_run(tmp_path / "b", config(threads=1)) as run:
        run.log("hello", host="elsewhere")
        run.stage("30-begun", {"only": "begun"})
    assert content_hash(tmp_path / "a") == content_hash(tmp_path / "b")


@pytest.mark.parametrize(
    ("files", "stage"),
    [
        ({"x": b"1", "y": b"3"}, "20-embed"),
        ({"x": b"1", "z": b"2"}, "20-embed"),
        ({"x": b"1", "y": b"2"}, "30-embed"),
    ],
)
def test_the_content_hash_sees_contents_names_and_stages(
    tmp_path: Path, files: dict[str, bytes], stage: str
) -> None:
    finish(tmp_path / "a", {"x": b"1", "y": b"2"})
    finish(tmp_path / "b", files, stage)
    assert content_hash(tmp_path / "a") != content_hash(tmp_path / "b")


def test_verify_finds_one_flipped_bit(tmp_path: Path) -> None:
    finish(tmp_path, {"x.bin": bytes(100)})
    target = tmp_path / "stages/20-embed/x.bin"
    target.write_bytes(bytes(50) + b"\x01" + bytes(49))
    assert verify(tmp_path) == ["20-embed/x.bin: content differs from its recorded hash"]


@pytest.mark.parametrize("name", ["run.json", "config.yaml"])
def test_verify_finds_changed_records(tmp_path: Path, name: str) -> None:
    finish(tmp_path, {})
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes().replace(b"0", b"1"))
    assert [problem.split(":")[0] for problem in verify(tmp_path)] == [name]


def test_verify_needs_a_run_folder(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError) as caught:
        verify(tmp_path)
    assert caught.value.code == "R103"


def test_inputs_are_hashed_once_per_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []
    real = runs.hash_file

    def counting(path: Path) -> str:
        calls.append(path)
        return real(path)

    data = tmp_path / "items.csv"
    data.write_bytes(b"a")
    monkeypatch.setattr(runs, "hash_file", counting)
    with open_run(tmp_path / "r", config()) as run:
        first = run.input_hash(data)
        assert run.input_hash(data) == first
    with open_run(tmp_path / "r", config()) as run:
        assert run.input_hash(data) == first
        assert calls.count(data) == 1
        data.write_bytes(b"b")
        os.utime(data, ns=(1, 1))
        assert run.input_hash(data) != first


def test_a_folder_of_inputs_is_known_by_names_and_contents(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "a.jpg").write_bytes(b"12")
    with open_run(tmp_path / "r", config()) as run:
        first = run.input_hash(pictures)
        os.utime(pictures / "a.jpg", ns=(1, 1))
        assert run.input_hash(pictures) == first
        # Of the same size: names and sizes alone would not tell.
        (pictures / "a.jpg").write_bytes(b"21")
        assert run.input_hash(pictures) != first
        (pictures / "a.jpg").write_bytes(b"12")
        (pictures / "b.jpg").write_bytes(b"")
        assert run.input_hash(pictures) != first
        (pictures / "b.jpg").unlink()
        shutil.copytree(pictures, tmp_path / "copy")
        os.utime(tmp_path / "copy" / "a.jpg", ns=(2, 2))
        assert run.input_hash(tmp_path / "copy") == first


def test_a_folder_whose_files_stay_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    real = runs.hash_file
    monkeypatch.setattr(runs, "hash_file", lambda path: read.append(path) or real(path))
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").write_bytes(b"12")
    for _ in range(2):
        with open_run(tmp_path / "r", config()) as run:
            run.input_hash(tmp_path / "pictures")
    assert read.count(tmp_path / "pictures" / "a.jpg") == 1


def test_a_file_of_a_folder_that_cannot_be_read_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path) -> str:
        raise PermissionError(path)

    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").write_bytes(b"12")
    with open_run(tmp_path / "r", config()) as run:
        known = run.input_hash(tmp_path / "pictures")
        os.utime(tmp_path / "pictures" / "a.jpg", ns=(1, 1))
        monkeypatch.setattr(runs, "hash_file", denied)
        assert run.input_hash(tmp_path / "pictures") != known
        monkeypatch.undo()


def test_a_missing_input_is_told(tmp_path: Path) -> None:
    with open_run(tmp_path / "r", config()) as run, pytest.raises(UnsafeInput):
        run.input_hash(tmp_path / "absent.csv")


def test_what_the_packages_log_reaches_the_run_log_while_it_is_open(tmp_path: Path) -> None:
    logger = logging.getLogger("extract.something")
    with open_run(tmp_path, config()):
        logger.warning("halved to %d", 4)
    logger.warning("too late")
    rows = [json.loads(line) for line in (tmp_path / "logs/run.jsonl").read_text().splitlines()]
    assert [row["message"] for row in rows if row["event"] == "log"] == ["halved to 4"]
    assert [row["event"] for row in rows] == ["start", "log", "end"]


def test_progress_writes_one_line_per_interval_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0, 31.0, 40.0, 62.0])
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: next(clock))
    out = io.StringIO()
    with Progress(out, every=30.0) as progress, progress.task("caption", 1000) as task:
        task(100)
        task.reach(310)
        task(1)
        task.reach(620, 1240)
    assert out.getvalue().splitlines() == [
        "caption: 310 of 1,000, 69 s left (10.0/s)",
        "caption: 620 of 1,240, 62 s left (10.0/s)",
    ]


def test_progress_shows_bars_on_a_terminal_and_takes_them_down() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    with Progress(out) as progress, progress.task("embed [x]", 10) as task:
        task(4)
        task.reach(10)
        progress.note("a note [y]")
    assert "a note [y]" in out.getvalue()
    assert threading.active_count() == 1 or all("rich" not in t.name.lower() for t in threading.enumerate())
