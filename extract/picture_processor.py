"""A model's processor without its video half.

In transformers 5 a processor class with a slot for videos refuses to be built without torchvision, though a
picture never reaches that slot. Here it stays empty, with and without torchvision, so that both give the same
inputs and the family's own class still writes the picture tokens.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from transformers import (
    PROCESSOR_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    Idefics3Processor,
)

OTHER_PROCESSORS: dict[str, Any] = {
    # Its own class writes pictures exactly as Idefics3's does and demands num2words, for videos only.
    "smolvlm": Idefics3Processor,
}
"""By model type: the class to use where the family's own would need more than pictures do."""

MARK_THEMSELVES = {"blip-2", "florence2", "instructblip"}
"""Model types whose processor puts the picture's mark in front of the text, which must have none then."""


def picture_mark(model_type: str, processor: Any) -> str:
    """What stands for the picture in a prompt that no chat template writes; "" if nothing does."""
    mark = getattr(processor, "image_token", None)
    return "" if mark is None or model_type in MARK_THEMSELVES else f"{mark}\n"


def load_processor(folder: Path) -> Any:
    """The processor of a model folder; code of the repository is not run.

    Raises:
        OSError, ValueError: files are missing or do not fit together.
        ImportError: the processor needs a package that is not installed.
    """
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    config = AutoConfig.from_pretrained(folder, **options)
    kind = OTHER_PROCESSORS.get(config.model_type) or PROCESSOR_MAPPING.get(type(config), None)
    special = config.model_type in OTHER_PROCESSORS
    if kind is None or not (special or "video_processor" in kind.get_attributes()):
        return AutoProcessor.from_pretrained(folder, **options)
    slots = dict.fromkeys(kind.get_attributes())
    slots["image_processor"] = AutoImageProcessor.from_pretrained(folder, **options)
    slots["tokenizer"] = AutoTokenizer.from_pretrained(folder, **options)
    stored, _ = kind.get_processor_dict(folder, **options)
    known = inspect.signature(kind.__init__).parameters
    settings = {name: value for name, value in stored.items() if name in known and name not in slots}
    try:
        return type("PicturesOnly", (_EmptySlots, kind), {})(**slots, **settings)
    except (AttributeError, TypeError):
        # A few classes ask their video half for settings; these need torchvision after all.
        return AutoProcessor.from_pretrained(folder, **options)


class _EmptySlots:
    def check_argument_for_proper_class(self, name: str, argument: Any) -> Any:
        """Let a slot be empty; what is there is checked as ever."""
        check = super().check_argument_for_proper_class  # type: ignore[misc]
        return None if argument is None else check(name, argument)
