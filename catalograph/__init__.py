"""Catalograph: a catalogue in, ranked recommendations out, offline.

The command line is `catalograph.cli`, the configuration `catalograph.config`, the run folder
`catalograph.runs`. The verbs as functions are in `catalograph.api`, and here too, imported when used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from catalograph.api import (
        RunSummary,
        check_config,
        compare,
        content_hash,
        draft_config,
        estimate,
        evaluate,
        export,
        export_choices,
        extract,
        finetune,
        load,
        prepare,
        probe,
        pull,
        push,
        recommend,
        recommend_newcomers,
        refresh,
        rerank,
        rerank_search,
        run,
        run_demo,
        train,
        try_captions,
        tune,
        update_store,
        verify,
        write_report,
    )

__all__ = [
    "RunSummary",
    "check_config",
    "compare",
    "content_hash",
    "draft_config",
    "estimate",
    "evaluate",
    "export",
    "export_choices",
    "extract",
    "finetune",
    "load",
    "prepare",
    "probe",
    "pull",
    "push",
    "recommend",
    "recommend_newcomers",
    "refresh",
    "rerank",
    "rerank_search",
    "run",
    "run_demo",
    "train",
    "try_captions",
    "tune",
    "update_store",
    "verify",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from catalograph import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
