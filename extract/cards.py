"""The data card of a feature: what its vectors are and what made them, for people and for programs.

Markdown with the facts as YAML in front, which is what a dataset page of the Hugging Face hub is made of. A
card holds no time and no host, so equal features have equal cards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import yaml

from extract.features import FeatureTable

_NOTE = (
    "One vector per item, found by the item's id. A missing item is not known, which is not the same as a "
    "vector of zeros. `sha256` is over ids, values and presence."
)


def feature_facts(name: str, table: FeatureTable, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a card says of a table: its size, its hash, its provenance, and ``more``."""
    provenance = asdict(table.provenance)
    settings = provenance.pop("settings")
    return {
        "name": name,
        "rows": len(table),
        "missing": len(table) - int(table.present.sum()),
        "width": table.width,
        "sha256": table.content_hash(),
        **provenance,
        **(more or {}),
        "settings": dict(settings),
    }


def feature_card(name: str, table: FeatureTable, more: Mapping[str, Any] | None = None) -> str:
    """The card of a table.

    Args:
        name: of the feature.
        table: its vectors.
        more: further facts, as JSON values, such as the template of the texts.
    """
    facts = feature_facts(name, table, more)
    front = yaml.safe_dump({"feature": facts}, sort_keys=False, allow_unicode=True, width=100)
    return f"---\n{front}---\n\n# A feature of a catalogue's items\n\n{_NOTE}\n"


def read_card(text: str) -> dict[str, Any]:
    """The facts of a card that `feature_card` wrote."""
    return dict(yaml.safe_load(text.removeprefix("---\n").partition("\n---\n")[0])["feature"])
