"""What a run tells of its work while it runs, and what a kill cost by what it told."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def watch(log: Path) -> None:
    """Write down in this process what reaches a model, what is committed, and what is begun."""
    import recsys.train
    import rerank.train
    from extract.sentence_embedder import SentenceEmbedder
    from extract.store import ShardStore
    from extract.transformers_captioner import TransformersCaptioner

    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(*words: object) -> None:
        os.write(file, (" ".join(map(str, words)) + "\n").encode())

    caption, embed, commit = TransformersCaptioner.caption, SentenceEmbedder.embed, ShardStore.commit
    fit, epoch, step = recsys.train.fit, recsys.train._train_epoch, rerank.train._accumulate
    job = ["none"]

    def watched_caption(self: Any, images: Sequence[Any], prompts: Sequence[str]) -> Any:
        note("model", "captions", len(images))
        return caption(self, images, prompts)

    def watched_embed(self: Any, texts: Sequence[str], *rest: Any, **named: Any) -> Any:
        note("model", "vectors", len(texts))
        return embed(self, texts, *rest, **named)

    def watched_commit(self: ShardStore, shard: int, *rest: Any, **named: Any) -> Any:
        row = commit(self, shard, *rest, **named)
        kind = "captions" if "caption" in self.folder.parts[-2] else "vectors"
        note("commit", kind, f"{self.folder.name}/{shard}", named["n_in"])
        return row

    def watched_fit(*rest: Any, **named: Any) -> Any:
        folder = named.get("checkpoints")
        job[0] = "/".join(folder.parts[-2:]) if folder else "none"
        return fit(*rest, **named)

    def watched_epoch(model: Any, optimizer: Any, triples: Any, config: Any, number: int, team: Any) -> float:
        note("begin", job[0], number)
        return epoch(model, optimizer, triples, config, number, team)

    def watched_step(
        scorer: Any, batch: Any, words: Any, config: Any, accelerator: Any, key: Any, *rest: Any
    ) -> Any:
        note("begin", "finetune", key[1])
        return step(scorer, batch, words, config, accelerator, key, *rest)

    TransformersCaptioner.caption = watched_caption  # type: ignore[method-assign]
    SentenceEmbedder.embed = watched_embed  # type: ignore[method-assign]
    ShardStore.commit = watched_commit  # type: ignore[method-assign]
    recsys.train.fit, recsys.train._train_epoch = watched_fit, watched_epoch
    rerank.train._accumulate = watched_step


def words_of(log: Path) -> list[list[str]]:
    # What follows the last line break was torn by the kill.
    return [line.split() for line in log.read_text().rpartition("\n")[0].splitlines()] if log.exists() else []


def cost(logs: Sequence[Path]) -> dict[str, Any]:
    """What the processes of one folder lost and did again; the last one ended by itself."""
    lost = {"captions": 0, "vectors": 0}
    twice: Counter[str] = Counter()
    redone = {"epochs": 0, "steps": 0}
    largest = {"captions": 0, "vectors": 0}
    committed: Counter[str] = Counter()
    before: dict[str, list[int]] = {}
    for log in logs:
        # Since the last commit: what an item without a picture adds to a shard never reached a model.
        reached, begun = Counter[str](), dict[str, list[int]]()
        for words in words_of(log):
            if words[0] == "model":
                reached[words[1]] += int(words[2])
            elif words[0] == "commit":
                reached[words[1]] = 0
                largest[words[1]] = max(largest[words[1]], int(words[3]))
                committed[f"{words[1]} {words[2]}"] += 1
            else:
                begun.setdefault(words[1], []).append(int(words[2]))
        for kind in lost:
            lost[kind] = max(lost[kind], reached[kind])
        for job, numbers in begun.items():
            again = len(set(numbers) & set(before.get(job, ())))
            name = "steps" if job == "finetune" else "epochs"
            redone[name] = max(redone[name], again)
            before[job] = numbers
    twice.update({name: n for name, n in committed.items() if n > 1})
    return {"lost": lost, "largest": largest, "redone": redone, "committed_twice": sorted(twice)}
