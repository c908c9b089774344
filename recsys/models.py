"""The table of recommenders, and how one is built, saved and loaded."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from extract.errors import ConfigError, InvalidData, MissingPrerequisite
from extract.features import FeatureTable
from extract.store import write_atomic
from recsys.als import ALS
from recsys.bm3 import BM3
from recsys.bpr_mf import BPRMF
from recsys.cm3 import CM3
from recsys.content_search import ContentSearch
from recsys.ease import Ease
from recsys.freedom import FREEDOM
from recsys.graph_filter import GraphFilter
from recsys.interactions import Interactions
from recsys.item_knn import ItemKNN
from recsys.lightgcn import LightGCN
from recsys.lirdrec import LIRDRec
from recsys.popularity import Popularity
from recsys.ranking import Recommender
from recsys.settings import SETTINGS
from recsys.smore import SMORE
from recsys.sparse_ease import SparseEase
from recsys.vbpr import VBPR


class Model(Recommender, Protocol):
    """A recommender of this package: it has settings, the hash of the axes it was built on, and weights that
    can be kept.
    """

    config: Any
    axes: str

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The weights by name."""
        ...

    def restore(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Take back what `tensors` gave."""
        ...


# Every class is called as Model(config, train, features, seed=...).
MODELS: dict[str, tuple[type[Any], type[BaseModel]]] = {
    "popularity": (Popularity, SETTINGS["popularity"]),
    "item_knn": (ItemKNN, SETTINGS["item_knn"]),
    "ease": (Ease, SETTINGS["ease"]),
    "sparse_ease": (SparseEase, SETTINGS["sparse_ease"]),
    "als": (ALS, SETTINGS["als"]),
    "bpr_mf": (BPRMF, SETTINGS["bpr_mf"]),
    "lightgcn": (LightGCN, SETTINGS["lightgcn"]),
    "vbpr": (VBPR, SETTINGS["vbpr"]),
    "content_search": (ContentSearch, SETTINGS["content_search"]),
    "graph_filter": (GraphFilter, SETTINGS["graph_filter"]),
    "freedom": (FREEDOM, SETTINGS["freedom"]),
    "bm3": (BM3, SETTINGS["bm3"]),
    "smore": (SMORE, SETTINGS["smore"]),
    "lirdrec": (LIRDRec, SETTINGS["lirdrec"]),
    "cm3": (CM3, SETTINGS["cm3"]),
}


def build_model(
    name: str,
    params: Mapping[str, Any] | BaseModel,
    train: Interactions,
    features: Mapping[str, FeatureTable] | None = None,
    *,
    seed: int = 0,
) -> Model:
    """An untrained model on the axes of `train`; `features` are aligned by id.

    Unknown names or settings raise ConfigError.
    """
    if name not in MODELS:
        close = difflib.get_close_matches(name, MODELS, n=1)
        raise ConfigError(
            "C204",
            f"no model is called `{name}`",
            why=f"models: {', '.join(MODELS)}",
            next_step=f"did you mean `{close[0]}`?" if close else "",
        )
    model_class, config_class = MODELS[name]
    try:
        config = config_class.model_validate(params if isinstance(params, BaseModel) else dict(params))
    except ValidationError as problem:
        details = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in problem.errors())
        allowed = f"settings: {', '.join(config_class.model_fields) or 'none'}"
        raise ConfigError("C204", f"bad settings of `{name}`", why=details, next_step=allowed) from problem
    model: Model = model_class(config, train, features, seed=seed)
    return model


def save_model(model: Model, folder: Path) -> None:
    """Write `model.safetensors`, then `model.json` with name, settings and what the weights belong to."""
    names = [name for name, (model_class, _) in MODELS.items() if type(model) is model_class]
    if not names:
        raise ConfigError("C204", f"`{type(model).__name__}` is not in the table of models")
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: np.ascontiguousarray(values) for name, values in model.tensors().items()}
    data = safetensors.numpy.save(tensors)
    write_atomic(folder / "model.safetensors", data)
    card = {
        "model": names[0],
        "config": model.config.model_dump(mode="json"),
        "identity": _identity(model),
        "axes": model.axes,
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    write_atomic(folder / "model.json", (json.dumps(card, indent=2, sort_keys=True) + "\n").encode())


def load_model(
    folder: Path, train: Interactions, features: Mapping[str, FeatureTable] | None = None
) -> Model:
    """The model that `save_model` wrote, on the same users, items and features, or InvalidData D215.

    The train rows may differ (graph and histories are then those of `train`); the axes may not, or rows would
    change their meaning.
    """
    card_path = folder / "model.json"
    if not card_path.is_file():
        raise MissingPrerequisite(
            "P201", "no saved model", where=str(folder), next_step="run the train stage first"
        )
    card = json.loads(card_path.read_text(encoding="utf-8"))
    data = (folder / "model.safetensors").read_bytes()
    model = build_model(card["model"], card["config"], train, features)
    expected = {"sha256": card["sha256"], "axes": card["axes"], **card["identity"]}
    found = {"sha256": hashlib.sha256(data).hexdigest(), "axes": model.axes, **_identity(model)}
    if changed := sorted(key for key in expected if expected[key] != found.get(key)):
        raise InvalidData(
            "D215",
            "a saved model does not fit",
            where=str(folder),
            why=f"differs: {', '.join(changed)} (axes: the users and items it was trained on)",
            next_step="train again, or give the interactions and features of the training run",
        )
    model.restore(safetensors.numpy.load(data))
    return model


def _identity(model: Model) -> dict[str, str]:
    """What, beside weights and axes, a model must share with its saved form: settings, features."""
    identity: dict[str, str] = model.identity() if hasattr(model, "identity") else {}
    return identity
