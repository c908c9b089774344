"""Plain search: the results of any search engine and the texts of what it found, as lists to rank."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from extract.errors import InvalidData, UnsafeInput
from recsys.candidates import Candidates
from rerank.lists import RankingList

SOURCE = "search"
"""Name of the search engine's own scores and ranks."""

IDS = ("docid", "qid", "doc_id", "query_id", "_id", "id")
TEXTS = ("text", "contents", "content", "body", "passage", "segment", "query")


@dataclass(frozen=True)
class Results:
    """What was found for U queries: lists of at most K, the queries' words, and the texts by id."""

    candidates: Candidates
    queries: Mapping[str, str]
    texts: Mapping[str, str]

    def lists(self) -> list[RankingList]:
        """One list per query, shown in the order it came in, as FIRST does."""
        made = []
        for row, query in enumerate(self.candidates.user_ids.tolist()):
            items = tuple(str(item) for item in self.candidates.items[row] if item)
            nothing = np.zeros(len(items), np.float32)
            made.append(
                RankingList(query, (), items, np.arange(len(items)), nothing, query=self.queries[query])
            )
        return made


def read_requests(path: Path) -> Results:
    """JSON lines as RankLLM writes them, gzip or not: a query, and its candidates with score and text.

    Raises:
        InvalidData: D220, a line is not of that form.
        UnsafeInput: U102, the file cannot be read.
    """
    queries: dict[str, str] = {}
    texts: dict[str, str] = {}
    found: dict[str, list[tuple[str, float]]] = {}
    for number, line in enumerate(text_lines(path), start=1):
        try:
            row = json.loads(line)
            query = row["query"]
            name = _name(query["qid"] if isinstance(query, dict) else row.get("qid", number))
            queries[name] = query["text"] if isinstance(query, dict) else query
            entries = row["candidates"]
            found[name] = [
                (_name(entry["docid"]), float(entry.get("score", -n))) for n, entry in enumerate(entries)
            ]
            own = {_name(entry["docid"]): _text(entry.get("doc", entry)) for entry in entries}
            texts |= own
            _check([name, queries[name], *own, *own.values()], found[name])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InvalidData(
                "D220", "a line holds no query with candidates", where=f"{path}, line {number}",
                why=f"{type(error).__name__}: {error}",
                next_step='write {"query": {"qid": .., "text": ..}, "candidates": [{"docid": .., ..}]}',
            ) from error  # fmt: skip
    return Results(_candidates(found), queries, texts)


def _name(value: object) -> str:
    """An id as text; TypeError if it is neither a text nor a whole number, such as null."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise TypeError(f"{value!r} is no id")
    return str(value)


def _check(texts: Sequence[str], found: Sequence[tuple[str, float]]) -> None:
    """Raise ValueError for texts that no file can hold, and for nameless or doubled candidates."""
    "".join(texts).encode()
    names = [name for name, _ in found]
    if "" in names or len(set(names)) < len(names):
        raise ValueError("a candidate has no id, or the id of another one")
    if not all(math.isfinite(score) for _, score in found):
        raise ValueError("a score is no finite number")


def read_run(run: Path, queries: Path, texts: Path) -> Results:
    """A TREC run, and two tables (JSON lines, or id and text between tabs) of the queries and the documents.

    A query's documents are ordered by score, ties by rank. Only documents of the run are kept; one without
    text is shown empty.

    Raises:
        InvalidData: D220, a line is not a run's; D221, a query has no words.
    """
    rows: dict[str, list[tuple[float, int, str]]] = {}
    for number, line in enumerate(text_lines(run), start=1):
        fields = line.split()
        try:
            query, _, document, rank, score = fields[:5]
            if not math.isfinite(float(score)):
                raise ValueError(f"{score} is no score")
            rows.setdefault(query, []).append((-float(score), int(rank), document))
        except ValueError as error:
            raise InvalidData(
                "D220", "not a line of a TREC run", where=f"{run}, line {number}", why=str(error),
                next_step="write: query Q0 document rank score tag",
            ) from error  # fmt: skip
    found = {query: [(name, -score) for score, _, name in sorted(group)] for query, group in rows.items()}
    words = dict(_table(queries))
    if lacking := [query for query in found if query not in words]:
        raise InvalidData(
            "D221", f"{len(lacking)} queries of the run have no words", where=str(queries),
            why=f"first: {', '.join(lacking[:5])}",
        )  # fmt: skip
    wanted = {name for group in found.values() for name, _ in group}
    kept = {name: text for name, text in _table(texts) if name in wanted}
    return Results(_candidates(found), {query: words[query] for query in found}, kept)


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Judgments: by query, a document's grade.

    Raises:
        InvalidData: D225, a line is no judgment.
        UnsafeInput: U102, the file cannot be read.
    """
    found: dict[str, dict[str, int]] = {}
    for number, line in enumerate(text_lines(path), start=1):
        try:
            query, _, document, grade = line.split()[:4]
            found.setdefault(query, {})[document] = int(grade)
        except ValueError as error:
            raise InvalidData(
                "D225", "not a line of judgments", where=f"{path}, line {number}", why=str(error),
                next_step="write: query 0 document grade",
            ) from error  # fmt: skip
    return found


def graded_ndcg(candidates: Candidates, judged: Mapping[str, Mapping[str, int]], k: int) -> float:
    """Mean NDCG@k over judged queries, the grade as gain, unjudged 0, as trec_eval's ndcg_cut."""
    values = []
    for query, items in zip(candidates.user_ids.tolist(), candidates.items.tolist(), strict=True):
        if query not in judged:
            continue
        ideal = _gain(sorted((max(g, 0) for g in judged[query].values()), reverse=True), k)
        own = _gain([max(judged[query].get(item, 0), 0) for item in items if item], k)
        values.append(own / ideal if ideal else 0.0)
    return float(np.mean(values)) if values else 0.0


def _gain(grades: Sequence[int], k: int) -> float:
    return float(sum(grade / np.log2(place + 2) for place, grade in enumerate(grades[:k])))


def _candidates(found: Mapping[str, Sequence[tuple[str, float]]]) -> Candidates:
    width = max(map(len, found.values()), default=0)
    names = [[*(name for name, _ in group), *[""] * (width - len(group))] for group in found.values()]
    items = np.array(names, np.str_).reshape(len(found), width)
    scores = np.full(items.shape, np.nan, np.float32)
    for row, group in enumerate(found.values()):
        scores[row, : len(group)] = [score for _, score in group]
    places = np.arange(1, width + 1, dtype=np.int32)
    ranks = np.where(items != "", places, 0).astype(np.int32)
    return Candidates(np.array(list(found), np.str_), items, {SOURCE: scores}, {SOURCE: ranks}, scores)


def _table(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text_lines(path), start=1):
        if line.lstrip().startswith("{"):
            try:
                row = json.loads(line)
                name = next(row[key] for key in IDS if key in row)
                text = _text(row)
                f"{name}{text}".encode()
            except (ValueError, StopIteration, RecursionError) as error:
                raise InvalidData(
                    "D222", "a line has no id, or is no JSON", where=f"{path}, line {number}",
                    why=f"looked for: {', '.join(IDS)}",
                ) from error  # fmt: skip
            yield str(name), text
        else:
            name, _, text = line.partition("\t")
            yield name, text


def _text(document: Any) -> str:
    if isinstance(document, str):
        return document
    found = next((document[key] for key in TEXTS if isinstance(document.get(key), str)), "")
    return f"{document['title']} {found}".strip() if document.get("title") else found


def text_lines(path: Path) -> Iterator[str]:
    """The lines of a text file, gzip or not, that are not empty; UnsafeInput U102 if it cannot be read."""
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rt", encoding="utf-8") if packed else path.open(encoding="utf-8") as lines:
            for line in lines:
                if line.strip():
                    yield str(line).rstrip("\r\n")
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
        raise UnsafeInput("U102", "a file cannot be read", where=str(path), why=str(error)) from error
