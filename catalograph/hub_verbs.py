"""The verbs `push` and `pull`: what a run made, to and from a repository of the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from catalograph.options import Folder, Json

if TYPE_CHECKING:
    from catalograph.hub import Kind

What = Annotated[str, typer.Argument(help="features, retriever or adapter.", show_default=False)]


def push(
    what: What,
    repo: Annotated[str, typer.Argument(help="Repository, OWNER/NAME.", show_default=False)],
    run_dir: Folder,
    name: Annotated[
        list[str] | None, typer.Option("--name", "-n", help="Feature or retriever. Repeatable. Default: all.")
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Make the repository public, if it is made now.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Put features, retrievers or the adapter of a run into a repository of the Hugging Face hub."""
    from catalograph.hub import push as pushed

    done = pushed(run_dir, _kind(what), repo, names=tuple(name or ()), public=public)
    told = {"repo": done.repo, "commit": done.commit, "files": list(done.files)}
    typer.echo(json.dumps(told) if as_json else f"{done.repo}@{done.commit}")


def pull(
    what: What,
    repo: Annotated[str, typer.Argument(help="Repository, OWNER/NAME.", show_default=False)],
    to: Annotated[Path, typer.Option("--to", help="Folder to make.")],
    revision: Annotated[
        str | None, typer.Option("--revision", help="Commit. Default: the newest.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Fetch what push put into a repository, checked against its hashes."""
    from catalograph.hub import pull as pulled

    commit = pulled(repo, _kind(what), to, revision=revision)
    typer.echo(json.dumps({"folder": str(to), "commit": commit}) if as_json else f"{to}: {repo}@{commit}")


def _kind(what: str) -> Kind:
    from catalograph.hub import KINDS

    if what not in KINDS:
        raise typer.BadParameter(f"{what}: choose from {', '.join(KINDS)}")
    return what
