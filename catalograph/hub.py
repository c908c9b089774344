"""Features, retrievers and adapters of a run to and from a repository of the Hugging Face hub.

What is pushed are the files that the run declared, their hashes checked again, with a card and a list of
hashes beside them; what is pulled is held against that list and lands whole or not at all. Nothing but
safetensors, JSON and Markdown travels. `HF_ENDPOINT` says which hub, `hf auth login` or `HF_TOKEN` who.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import yaml

from catalograph.integrity import path_hashes, read_json, read_stage, require_run, stored_config
from catalograph.problems import unknown_name
from extract.disk import new_folder
from extract.errors import CatalographError, ConfigError, InvalidData, MissingPrerequisite
from extract.store import hash_file, write_atomic

Kind = Literal["features", "retriever", "adapter"]
KINDS: tuple[Kind, ...] = ("features", "retriever", "adapter")
MANIFEST, CARD = "catalograph.json", "README.md"
TRAVELS = ("*.safetensors", "*.json", "*.md")


@dataclass(frozen=True, slots=True)
class Pushed:
    """Where something was pushed to: the repository, the commit, and the files."""

    repo: str
    commit: str
    files: tuple[str, ...]


def push(run_dir: Path, kind: Kind, repo: str, *, names: Sequence[str] = (), public: bool = False) -> Pushed:
    """Put features, retrievers or the adapter of a finished run into a repository, which is made if need be.

    Args:
        run_dir: the run folder.
        kind: features go to a dataset repository, the others to a model repository.
        repo: ``OWNER/NAME``.
        names: features or retrievers; empty: all.
        public: a repository that is made is private otherwise: vectors and weights tell of users and items.

    Raises:
        MissingPrerequisite: P102, the stage is not done, or holds nothing of what was chosen; M310, the hub
            refused or cannot be reached.
        ConfigError: C003, the run has nothing of such a name.
        InvalidData: D113, a file is not what the stage declared.
    """
    require_run(run_dir)
    files = _files(run_dir, kind, names)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name, path in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)
        if not (folder / CARD).exists():
            write_atomic(folder / CARD, _card(kind, folder, sorted(files)).encode())
        hashes = {name: hash_file(folder / name) for name in sorted({*files, CARD})}
        manifest = {"format": 1, "kind": kind, "files": hashes}
        write_atomic(folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
        commit = _upload(folder, repo, _type(kind), public)
    return Pushed(repo, commit, tuple(sorted([*hashes, MANIFEST])))


def pull(repo: str, kind: Kind, to: Path, *, revision: str | None = None) -> str:
    """Fetch what `push` put there into the new folder `to`, and return the commit it is of.

    Args:
        repo: ``OWNER/NAME``.
        kind: of what is there.
        to: does not exist yet.
        revision: a commit; None: the newest, which may be another one tomorrow.

    Raises:
        UnsafeInput: U407, the folder exists.
        MissingPrerequisite: M310, the hub refused or cannot be reached.
        InvalidData: D130, there is no list of hashes, it is empty, or a file is missing or differs from it.
    """
    # Apart, so that no file of the repository lies where only checked ones go.
    with new_folder(to) as whole, tempfile.TemporaryDirectory(dir=to.parent, prefix=".pull-") as scratch:
        got = Path(scratch)
        commit = _download(repo, _type(kind), revision, got)
        for name in [*_checked(got, repo, kind), MANIFEST]:
            (whole / name).parent.mkdir(parents=True, exist_ok=True)
            (got / name).rename(whole / name)
    return commit


def _files(run_dir: Path, kind: Kind, names: Sequence[str]) -> dict[str, Path]:
    """The files to push by the names they get."""
    config = stored_config(run_dir)
    if kind == "adapter":
        return _some(_declared(run_dir, "60-finetune", "adapter/"), run_dir, "adapter")
    known = config.get(kind if kind == "features" else "retrievers") or {}
    for name in names:
        if name not in known:
            raise ConfigError("C003", unknown_name(kind, name, known), where=str(run_dir))
    chosen = tuple(names) or tuple(known)
    if kind == "features":
        made = {
            file: path
            for file, path in _declared(run_dir, "30-embed", "").items()
            if Path(file).stem in chosen and Path(file).suffix in (".safetensors", ".md")
        }
        return _some(made, run_dir, kind, set(names) - {Path(file).stem for file in made})
    strict = (config.get("candidates") or {}).get("protocol", "strict") == "strict"
    fits = _declared(run_dir, "40-train", "final/" if strict else "select/")
    made = {file: path for file, path in fits.items() if file.partition("/")[0] in chosen}
    return _some(made, run_dir, kind, set(names) - {file.partition("/")[0] for file in made})


def _some(
    made: dict[str, Path], run_dir: Path, kind: Kind, lacking: Set[str] = frozenset()
) -> dict[str, Path]:
    """The files; an error where there are none, or none of a name that was given."""
    if made and not lacking:
        return made
    # A retriever that no list is made from is not trained, and a refreshed run trains none.
    raise MissingPrerequisite(
        "P102", f"the run has made no files of {', '.join(sorted(lacking)) or kind}", where=str(run_dir),
        next_step="push from the run that trained or made it; one that `refresh` made has frozen models only",
    )  # fmt: skip


def _declared(run_dir: Path, stage: str, below: str) -> dict[str, Path]:
    folder = run_dir / "stages" / stage
    record, problems = read_stage(folder)
    if record is None and not problems:
        raise MissingPrerequisite("P102", f"the stage {stage} of this run is not done", where=str(run_dir))
    found = {}
    for name, digest in path_hashes(record or {}):
        if name.startswith(below):
            if not (folder / name).is_file() or hash_file(folder / name) != digest:
                problems.append(f"{name}: content differs from its recorded hash")
            found[name.removeprefix(below)] = folder / name
    if problems:
        raise InvalidData(
            "D113", f"stage {stage} does not match its record", where=str(run_dir), why=problems[0],
            next_step=f"catalograph verify --run-dir {run_dir}",
        )  # fmt: skip
    return found


def _card(kind: Kind, folder: Path, files: Sequence[str]) -> str:
    """Markdown with YAML in front, as the hub reads it; it holds no time and no host."""
    head: dict[str, Any] = {"library_name": "catalograph", "tags": ["recommendation", kind]}
    if kind == "features":
        names = [Path(name).stem for name in files if name.endswith(".safetensors")]
        lines = [
            "# Features of a catalogue's items",
            "",
            "One vector per item, found by its id. In a run:",
            "",
        ]
        lines += ["```yaml", "features:"]
        lines += [f"  {name}: {{vectors: {{path: {name}.safetensors}}}}" for name in names]
        lines += ["```", "", *(f"* [{name}]({name}.md): model, template, rows, hash" for name in names)]
    else:
        lines = [
            "# Retrievers", "",
            "Weights on the users and items of one data set, by position. With the same interactions and",
            "features, `recsys.models.load_model(folder, train, features)` reads them.", "",
            "| name | model | settings | axes |", "| --- | --- | --- | --- |",
        ]  # fmt: skip
        for name in (name for name in files if name.endswith("model.json")):
            card = read_json(folder / name)
            settings = json.dumps(card["config"], sort_keys=True)
            row = (name.partition("/")[0], f"`{card['model']}`", f"`{settings}`", f"`{card['axes'][:16]}`")
            lines.append(f"| {' | '.join(row)} |")
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n" + "\n".join(lines) + "\n"


def _checked(folder: Path, repo: str, kind: Kind) -> list[str]:
    """The names in the list of hashes, all of them there and as it says."""
    manifest = read_json(folder / MANIFEST)
    hashes = manifest.get("files") if isinstance(manifest, Mapping) else None
    if not isinstance(hashes, Mapping) or not hashes or manifest.get("kind") != kind:
        raise InvalidData(
            "D130", f"the repository holds no {kind} that were pushed from here", where=repo,
            why=f"no {MANIFEST}" if manifest is None else f"{MANIFEST} tells of something else or of no file",
        )  # fmt: skip
    root = folder.resolve()
    for name, digest in hashes.items():
        if not _is_as_pushed(root, name, digest):
            raise InvalidData("D130", "a file is not the one that was pushed", where=f"{repo}: {name[:80]!r}")
    return list(hashes)


def _is_as_pushed(root: Path, name: str, digest: object) -> bool:
    """Whether a file of that very name lies below a folder, through no link, and has that hash."""
    path = root / name
    if PurePosixPath(name).as_posix() != name or name == MANIFEST or not path.is_relative_to(root):
        return False
    try:
        return path.resolve() == path and path.is_file() and hash_file(path) == digest
    except (OSError, ValueError):  # What no file can be called: NUL bytes, lone surrogates, too many letters.
        return False


def _type(kind: Kind) -> str:
    return "dataset" if kind == "features" else "model"


def _upload(folder: Path, repo: str, repo_type: str, public: bool) -> str:
    from huggingface_hub import HfApi

    api = HfApi(library_name="catalograph")
    try:
        api.create_repo(repo, repo_type=repo_type, private=not public, exist_ok=True)
        done = api.upload_folder(
            repo_id=repo, repo_type=repo_type, folder_path=folder, commit_message="Pushed by catalograph",
            allow_patterns=list(TRAVELS),
        )  # fmt: skip
    except Exception as error:
        raise _refused(error, repo) from error
    return str(done.oid)


def _download(repo: str, repo_type: str, revision: str | None, folder: Path) -> str:
    from huggingface_hub import HfApi

    api = HfApi(library_name="catalograph")
    try:
        commit = str(api.repo_info(repo, repo_type=repo_type, revision=revision).sha)
        api.snapshot_download(
            repo, repo_type=repo_type, revision=commit, local_dir=folder, allow_patterns=list(TRAVELS)
        )
    except Exception as error:
        raise _refused(error, repo) from error
    return commit


def _refused(error: Exception, repo: str) -> CatalographError:
    """The client's own words, which hold no token, in four lines."""
    return MissingPrerequisite(
        "M310", "the hub refused, or cannot be reached", where=repo,
        why=f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}",
        next_step="check the name, `hf auth whoami`, HF_ENDPOINT and HF_HUB_OFFLINE",
    )  # fmt: skip
