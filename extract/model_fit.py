"""Which size rule a transformers image processor follows, where it is one we can apply ahead of it."""

from __future__ import annotations

from typing import Any

from transformers.image_processing_backends import PilBackend

from extract.picture_fit import PictureFit, Resizer

BY_AREA = frozenset({"Qwen2VLImageProcessorPil"})
"""Image processors that resize to whole blocks within a number of pixels, as Qwen2-VL's does."""


def picture_fit(
    image_processor: Any, *, resizer: Resizer = "pillow", reduced_jpeg: bool = False
) -> PictureFit | None:
    """The rule of an image processor; None where it cuts, pads or tiles by a rule of its own.

    Only the PIL backend: there a picture that already has the target's size comes through untouched.
    """
    if not isinstance(image_processor, PilBackend) or not getattr(image_processor, "do_resize", False):
        return None
    kind = type(image_processor)
    size = {key: value for key, value in dict(image_processor.size).items() if value is not None}
    rule: dict[str, Any] | None = None
    if kind.__name__ in BY_AREA and size.keys() == {"shortest_edge", "longest_edge"}:
        block = image_processor.patch_size * image_processor.merge_size
        rule = {"kind": "pixels", "size": (size["shortest_edge"], size["longest_edge"]), "block": block}
    elif kind.resize is PilBackend.resize and kind._preprocess is PilBackend._preprocess:
        if size.keys() == {"shortest_edge"}:
            rule = {"kind": "shortest", "size": (size["shortest_edge"], 0)}
        elif size.keys() == {"height", "width"}:
            rule = {"kind": "exact", "size": (size["width"], size["height"])}
    if rule is None:
        return None
    return PictureFit(
        **rule, resample=int(image_processor.resample), resizer=resizer, reduced_jpeg=reduced_jpeg
    )
