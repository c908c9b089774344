"""Lists as lines of a TREC run."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray


def trec_lines(
    user_ids: NDArray[np.str_], items: NDArray[np.str_], final: NDArray[np.float32], tag: str
) -> list[str]:
    """A line per item of lists [U, K], '' where there is none: user, Q0, item, rank, score, tag."""
    rows, columns = np.nonzero(items != "")
    scores = descending(final)[rows, columns].tolist()
    users = [trec_field(user) for user in user_ids.tolist()]
    fields = {item: trec_field(item) for item in np.unique(items).tolist()}
    places, end = (columns + 1).tolist(), f" {trec_field(tag)}\n"
    return [
        f"{users[row]} Q0 {fields[item]} {place} {score:.9g}{end}"
        for row, item, place, score in zip(
            rows.tolist(), items[rows, columns].tolist(), places, scores, strict=True
        )
    ]


def descending(final: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores [U, K], each lowered to the next float32 below the one before where it is not below it; one that
    is NaN is taken to be as high as it may be, 0 at the top.
    """
    lowered = np.zeros_like(final)
    ceiling = np.full(len(final), np.inf, dtype=np.float32)
    for place in range(final.shape[1]):
        own = final[:, place]
        below = np.nextafter(ceiling, np.float32(-np.inf))
        fallback = np.where(np.isinf(ceiling), np.float32(0), ceiling)
        ceiling = np.minimum(np.where(np.isnan(own), fallback, own), below)
        lowered[:, place] = ceiling
    return lowered


def trec_field(text: str) -> str:
    """A field of a TREC file: white space and % percent-encoded."""
    return re.sub(r"[\s%]", lambda m: "".join(f"%{byte:02X}" for byte in m.group().encode()), str(text))
