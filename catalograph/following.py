"""What the other processes of `torchrun` do while the first one runs a command: they train along."""

from __future__ import annotations

from recsys.team import join
from recsys.train import assist


def follow() -> None:
    """Train what the first process trains, one after the other, until it has done."""
    team = join()
    for kind, work in team.follow():
        if kind == "fit":
            assist(team, *work)
        else:
            # Slow to import, and only a run with a reranker needs it.
            from rerank.train import fine_tune

            scorer, lists, valid, texts, config, seed = work
            fine_tune(scorer, lists, valid, texts, config, seed=seed)
