"""Lists to rerank in blocks: kept as they are done, shared out by number, put together to the same bytes.

A block is some hundred lists that follow each other. Its scores depend on nothing outside it, so they are the
same in whichever process it is read; a block counts only if its bytes match their hash.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from catalograph.rerank_lists import item_texts, settings_of
from catalograph.road import Road
from extract.errors import UnsafeInput
from extract.store import fingerprint, write_atomic
from rerank.inference import CHUNK, Cost, Scorer, rank_lists
from rerank.lists import RankingList

logger = logging.getLogger(__name__)

FOLDER = "blocks"
Scores = list[NDArray[np.float32]]


@dataclass(frozen=True)
class Blocks:
    """The blocks of one run's lists below a folder.

    Attributes:
        folder: of these lists and weights; other ones have another.
        count: how many blocks there are.
    """

    folder: Path
    count: int

    def of_part(self, part: tuple[int, int]) -> list[int]:
        """Numbers of the blocks of part i of n: every n-th, beginning with i."""
        return list(range(part[0], self.count, part[1]))

    def read(self, number: int) -> tuple[Scores, Cost] | None:
        """Scores and cost of a block; None where it is not there or damaged."""
        try:
            with safe_open(self._path(number), framework="numpy") as file:
                parts = {name: file.get_tensor(name) for name in ("scores", "lengths", "cost")}
                told = (file.metadata() or {}).get("sha256")
        except (OSError, SafetensorError):
            return None
        if told != _hash(parts):
            logger.warning("block %d is read again: %s does not match its hash", number, self._path(number))
            return None
        scores = np.split(parts["scores"], np.cumsum(parts["lengths"])[:-1])
        return scores, Cost(*map(int, parts["cost"]))

    def write(self, number: int, scores: Scores, cost: Cost) -> None:
        """Keeps a block, whole or not at all."""
        parts: dict[str, NDArray[np.generic]] = {
            "scores": np.concatenate(scores).astype(np.float32),
            "lengths": np.array([len(row) for row in scores], np.int64),
            "cost": np.array([cost.prompts, cost.tokens], np.int64),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self._path(number), save(parts, metadata={"sha256": _hash(parts)}))

    def take_over(self, other: Blocks) -> int:
        """Copies blocks that are lacking here, if they are whole there; how many."""
        taken = 0
        for number in range(self.count):
            if self.read(number) is None and (found := other.read(number)) is not None:
                self.write(number, *found)
                taken += 1
        return taken

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.safetensors"


def blocks_of(road: Road, store: Path, lists: int) -> Blocks:
    """The blocks of so many lists of a run below a store; what makes the lists and weights is their key."""
    finetune = road.stage("finetune")
    key = fingerprint(
        finetune=finetune.hash, made_of=finetune.fingerprint, recommend=road.hash_of("recommend"),
        device=road.config.device, dtype=settings_of(road).dtype, block=CHUNK,
    )  # fmt: skip
    return Blocks(store / FOLDER / key[:16], -(-lists // CHUNK))


def fill_blocks(
    road: Road, blocks: Blocks, lists: Sequence[RankingList], load: Callable[[], Scorer],
    part: tuple[int, int] = (0, 1),
) -> dict[str, int]:  # fmt: skip
    """Reads the lists of those blocks of a part that are lacking; the counts of lists.

    Args:
        load: gives the trained scorer; not asked for where nothing is lacking.
    """
    own = blocks.of_part(part)
    lacking = [number for number in own if blocks.read(number) is None]
    reading = settings_of(road).inference.model_copy(update={"max_move": None})
    total = sum(len(_lists_of(lists, number)) for number in own)
    todo = sum(len(_lists_of(lists, number)) for number in lacking)
    if lacking:
        scorer, texts = load(), item_texts(road)
        with road.progress.task("rerank", todo) as task:
            done = 0
            for number in lacking:
                cost, here = Cost(), _lists_of(lists, number)
                blocks.write(number, rank_lists(scorer, here, texts, reading, cost=cost), cost)
                done += len(here)
                task.reach(done)
    return {"lists": total, "read": todo, "kept": total - todo}


def all_scores(blocks: Blocks) -> tuple[Scores, Cost]:
    """The scores of all lists, and what they cost, from blocks that are all there."""
    scores, total = Scores(), Cost()
    for number in range(blocks.count):
        found = blocks.read(number)
        if found is None:
            raise ValueError(f"block {number} is lacking")
        scores += found[0]
        total = Cost(total.prompts + found[1].prompts, total.tokens + found[1].tokens)
    return scores, total


def merge_blocks(stores: Sequence[Path], own: Path) -> int:
    """Copies blocks of other stores into one, whatever run they are of: their key says it. How many.

    Raises:
        UnsafeInput: U409, a folder holds no blocks.
    """
    taken = 0
    for store in stores:
        found = sorted((store / FOLDER).glob(f"*/{'[0-9]' * 6}.safetensors"))
        if not (store / FOLDER).is_dir():
            raise UnsafeInput(
                "U409", "no blocks of lists are there", where=str(store),
                next_step="give the --store of rerank --shard",
            )  # fmt: skip
        for folder in sorted({path.parent for path in found}):
            count = 1 + max(int(path.stem) for path in found if path.parent == folder)
            taken += Blocks(own / FOLDER / folder.name, count).take_over(Blocks(folder, count))
    return taken


def forget_blocks(road: Road) -> None:
    """Removes a run's own blocks; to be called when the rerank stage is done."""
    shutil.rmtree(road.path("rerank", "none").with_name(FOLDER), ignore_errors=True)


def _lists_of(lists: Sequence[RankingList], number: int) -> Sequence[RankingList]:
    return lists[number * CHUNK : (number + 1) * CHUNK]


def _hash(parts: dict[str, NDArray[np.generic]]) -> str:
    return hashlib.sha256(
        b"".join(parts[name].tobytes() for name in ("scores", "lengths", "cost"))
    ).hexdigest()
