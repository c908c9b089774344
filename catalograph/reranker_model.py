"""The model that the reranking stages read lists with: made, stored, and loaded again."""

from __future__ import annotations

import shutil
from pathlib import Path

from catalograph.filling import model_folder
from catalograph.rerank_lists import settings_of
from catalograph.road import Road
from extract.disk import need_room
from extract.errors import InvalidData
from extract.models import find_model
from rerank.inference import Scorer
from rerank.lists import RankingList
from rerank.settings import RerankConfig

TRAINED = "token.safetensors"


def model_identity(settings: RerankConfig) -> str | None:
    """What tells one language model from another of the same name; None without one."""
    return None if settings.model is None else find_model(*_model(settings)).identity


def _model(settings: RerankConfig) -> tuple[str, str | None]:
    return model_folder(settings.model or ""), settings.revision


def _resolved(settings: RerankConfig) -> RerankConfig:
    """The settings with a folder for the model's name."""
    if settings.model is None:
        return settings
    folder = find_model(*_model(settings)).folder
    return settings.model_copy(update={"model": str(folder), "revision": None})


def fresh_scorer(road: Road, lists: list[RankingList]) -> Scorer:
    """A scorer that has learned nothing yet, ready to be trained."""
    settings = _resolved(settings_of(road))
    if settings.form == "text":
        from rerank.scorer import load_scorer, with_lora

        text = load_scorer(settings, max_candidates=_shown(road))
        return _placed(road, with_lora(text, settings.finetune.lora, seed=road.config.seed))
    if not lists:
        raise InvalidData("R303", "no training list holds a truth", next_step="raise candidates.k or folds")
    return _placed(road, _soft(road, lists[0]))


def _soft(road: Road, entry: RankingList) -> Scorer:
    """A scorer of the forms that read vectors."""
    settings, seed = _resolved(settings_of(road)), road.config.seed
    if settings.form == "hybrid":
        from rerank.hybrid import build_hybrid_scorer

        return build_hybrid_scorer(settings, entry, max_candidates=_shown(road), seed=seed)
    from rerank.token import build_token_scorer

    return build_token_scorer(settings, entry, seed=seed)


def load_trained(road: Road, lists: list[RankingList]) -> Scorer:
    """The trained scorer, for lists like these; it can no longer be trained."""
    from extract.transformers_captioner import pick_device

    settings, folder = _resolved(settings_of(road)), road.path("finetune", "adapter")
    if settings.form == "text":
        from rerank.scorer import load_scorer

        text = load_scorer(settings, max_candidates=_shown(road), adapter=folder)
        text.model.to(pick_device(road.config.device))
        text.pack()
        return text
    from rerank.token import load_trained as load_weights

    scorer = _soft(road, lists[0])
    load_weights(scorer, folder / TRAINED)
    return _placed(road, scorer)


def _shown(road: Road) -> int:
    """Candidates in a prompt."""
    return min(road.config.candidates.k, settings_of(road).inference.window or road.config.candidates.k)


def _placed(road: Road, scorer: Scorer) -> Scorer:
    from extract.transformers_captioner import pick_device

    scorer.model.to(pick_device(road.config.device))
    return scorer


def save_scorer(scorer: Scorer, folder: Path, settings: RerankConfig) -> None:
    """Writes what peft writes, without what differs between equal runs: a set's order, our own path."""
    if settings.form != "text":
        from rerank.token import save_trained

        save_trained(scorer, folder / TRAINED)
        return
    for config in scorer.model.peft_config.values():
        config.target_modules = sorted(config.target_modules)
        config.base_model_name_or_path = settings.model
    need_room(folder, sum(p.numel() * p.element_size() for p in scorer.model.parameters() if p.requires_grad))
    # peft writes into files that are there, and those may be another run's, by hard links.
    shutil.rmtree(folder, ignore_errors=True)
    # No embedding is trained; left to itself, peft would ask the model hub whether the vocabulary has grown.
    scorer.model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
