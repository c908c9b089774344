"""Parts of a run's lists, each read by a process of its own, on one machine or under any scheduler."""

from __future__ import annotations

from pathlib import Path

from catalograph.progress import Progress
from catalograph.rerank_lists import final_lists
from catalograph.rerank_parts import blocks_of, fill_blocks
from catalograph.reranker_model import load_trained
from catalograph.stages import shared_road
from catalograph.updating import hold


def rerank_part(run_dir: Path, part: tuple[int, int], store: Path, progress: Progress) -> dict[str, int]:
    """Reads part i of n of a run's test lists into a store, for a `rerank` that takes it over.

    Returns:
        Counts of lists: ``lists`` of the part, ``read`` now, ``kept`` from before.

    Raises:
        MissingPrerequisite: P102, the finetune stage is not done.
        RunFolderError: R101, another process works on the same part, or writes in the run folder.
    """
    with shared_road(run_dir, ("finetune",), progress) as road, hold(store, part):
        road.use_threads()
        lists = final_lists(road)[1]
        blocks = blocks_of(road, store, len(lists))
        # A part of few lists may have none: it is a part all the same, and no mistake when it is merged.
        blocks.folder.mkdir(parents=True, exist_ok=True)
        return fill_blocks(road, blocks, lists, lambda: load_trained(road, lists), part)
