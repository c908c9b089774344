"""What the doctor makes of machines that lack something."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest

from catalograph import doctor


def nvidia_smi(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver's tool that answers as `body` says, first on the path."""
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{body}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def check(name: str, folder: Path) -> doctor.Check:
    return next(found for found in doctor.examine(folder) if found.name == name)


def test_devices_are_those_the_driver_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, 'echo "NVIDIA H200, 143771 MiB"; echo; echo "NVIDIA T4, 15360 MiB"', monkeypatch)
    assert doctor.accelerators() == ["NVIDIA H200, 143771 MiB", "NVIDIA T4, 15360 MiB"]
    found = check("accelerator", tmp_path)
    assert (found.status, found.found) == ("ok", "NVIDIA H200, 143771 MiB; NVIDIA T4, 15360 MiB")


def test_a_driver_that_fails_is_no_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, "exit 9", monkeypatch)
    assert doctor.accelerators() == [] and check("accelerator", tmp_path).status == "note"


@pytest.mark.parametrize(
    ("version", "numbers"),
    [("2.13.0+cpu", (2, 13, 0)), ("5.3.0rc1", (5, 3, 0)), ("1.2.dev4", (1, 2)), ("", ())],
)
def test_a_version_is_its_leading_numbers(version: str, numbers: tuple[int, ...]) -> None:
    assert doctor._numbers(version) == numbers


def test_versions_too_old_and_too_new_fail_with_the_command_that_mends_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {"old": "1.9", "new": "3.0.1", "good": "2.5"}
    monkeypatch.setattr(doctor, "PACKAGES", tuple((name, (2,), (3,)) for name in [*versions, "absent"]))
    monkeypatch.setattr(doctor, "installed", lambda name: versions.get(name))
    found = {row.name: row for row in doctor.examine(tmp_path)}
    assert [found[name].status for name in ("old", "new", "good", "absent")] == ["fail", "fail", "ok", "fail"]
    assert found["old"].advice == found["new"].advice.replace("new", "old") == 'pip install "old>=2,<3"'
    assert found["absent"].advice == "pip install absent"


def test_the_extras_it_names_can_be_installed(tmp_path: Path) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    for extra, package, _ in doctor.EXTRAS:
        named = {re.split(r"[\[=><]", line)[0] for line in project["optional-dependencies"][extra]}
        assert package in named
    advice = {found.name: found.advice for found in doctor.examine(tmp_path) if found.status == "note"}
    assert advice.get("extra vllm", "").startswith("for captioning with vLLM: pip install") or (
        doctor.installed("vllm") is not None
    )


def test_little_memory_and_little_disk_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2 * 2**30 // 4096}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)
    assert (check("memory", tmp_path).status, check("memory", tmp_path).found) == ("note", "2.0 GiB")
    usage = type("Usage", (), {"free": 2**29})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
    found = check("disk", tmp_path / "not" / "yet")
    assert (found.status, found.found) == ("note", f"0.5 GiB free at {tmp_path}")


def test_a_folder_that_cannot_be_written_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    found = check("disk", tmp_path)
    assert (found.status, found.advice) == ("fail", "choose another --run-dir")
