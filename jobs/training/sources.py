"""Where labelled questions come from: folders in the BEIR layout. Reads, samples and splits; ranks nothing.

A folder may hold a teacher's logits in `teacher.tsv` (query id, document id, score), beside labels or in their place.

What is not to be learned from is set apart by documents, never by questions: the documents that a folder's dev and
test qrels judge, or, in a folder without such splits, those of the tenth of titles that `is_held_out`. No question
about a reserved document is trained on and none is ever a negative; they stay in the corpus that is searched, so
that a dev figure is a fair one.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from blake3 import blake3

from jobs.evaluation.answers import is_held_out
from jobs.evaluation.datasets import read_jsonl, read_qrels, read_scores
from tenants.errors import InvalidInput, NotFound
from tenants.ids import DIGEST_CHARS

SEED = 7


@dataclass(frozen=True, slots=True)
class Judged:
    """One question and the documents that answer it; `split` is train or dev.

    `taught` {document: a teacher's logit}, where there is a teacher.
    """

    text: str
    gold: tuple[str, ...]
    split: str
    taught: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        """For a column of text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Judged:
        """What `to_json` wrote."""
        value = json.loads(text)
        return cls(value["text"], tuple(value["gold"]), value["split"], value["taught"])


@dataclass(frozen=True, slots=True)
class Source:
    """A corpus {_id, title, text} and its questions; `reserved` documents are never trained on."""

    name: str
    documents: tuple[Mapping[str, Any], ...]
    questions: tuple[Judged, ...]
    reserved: frozenset[str]
    digest: str
    licence: str = "as the owner's documents"


@dataclass(frozen=True, slots=True)
class Sample:
    """How much of a folder to take: whole titles up to so many documents, then so many questions of each split."""

    folder: Path
    documents: int | None = None
    questions: int | None = None
    dev: int = 100

    @classmethod
    def parse(cls, text: str) -> Sample:
        """`FOLDER[:QUESTIONS[:DOCUMENTS]]`. Raises `InvalidInput` for a count that is no positive number."""
        folder, *counts = text.split(":")
        if len(counts) > 2 or not all(count.isdigit() and int(count) > 0 for count in counts):
            raise InvalidInput.field("/data", f"{text} is not FOLDER, FOLDER:QUESTIONS or FOLDER:QUESTIONS:DOCUMENTS")
        numbers = [int(count) for count in counts] + [None, None]
        return cls(Path(folder).expanduser(), documents=numbers[1], questions=numbers[0])

    def __str__(self) -> str:
        """What `parse` reads, the folder by its name."""
        counts = [self.questions, self.documents] if self.documents else [self.questions] if self.questions else []
        return ":".join(map(str, [self.folder.name, *counts]))


def read_source(sample: Sample) -> Source:
    """Read and sample one folder. Raises `NotFound` without the files, `InvalidInput` without a usable question."""
    folder = sample.folder
    rows = {str(row["_id"]): row for row in read_jsonl(_existing(folder, "corpus.jsonl"))}
    if not rows:
        raise InvalidInput.field("/data", f"{folder.name} holds no document")
    dev, reserved = _held_back(folder, rows)
    taught = _teacher(folder)
    trained = _labels(folder, taught)
    kept = _whole_titles(rows, sample.documents)
    texts = {str(row["_id"]): str(row["text"]) for row in read_jsonl(_existing(folder, "queries.jsonl"))}
    by_text = {_key(texts[query]): scores for query, scores in taught.items() if query in texts}
    fit = [
        replace(one, taught=by_text.get(_key(one.text), {}))
        for one in _judged(trained, texts, kept, "train", without=reserved)
    ]
    check = _judged(dev or trained, texts, kept, "dev", only=reserved)
    questions = (*_some(fit, sample.questions), *_some(check, sample.dev))
    if not fit:
        raise InvalidInput.field("/data", f"{folder.name} has no training question with a relevant document")
    documents = tuple(rows[name] for name in kept)
    return Source(folder.name, documents, questions, reserved, _digest(documents, questions), _licence(folder))


def read_dev_source(sample: Sample) -> Source:
    """A folder that only measures: its dev questions, over its whole corpus. Raises as `read_source`."""
    folder = sample.folder
    rows = {str(row["_id"]): row for row in read_jsonl(_existing(folder, "corpus.jsonl"))}
    texts = {str(row["_id"]): str(row["text"]) for row in read_jsonl(_existing(folder, "queries.jsonl"))}
    found = _judged(read_qrels(_existing(folder, "qrels/dev.tsv")), texts, dict.fromkeys(rows), "dev")
    if not found:
        raise InvalidInput.field("/dev", f"{folder.name} has no dev question with a relevant document")
    questions = tuple(_some(found, sample.questions or sample.dev))
    documents = tuple(rows.values())
    return Source(folder.name, documents, questions, frozenset(rows), _digest(documents, questions), _licence(folder))


def _held_back(folder: Path, rows: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, dict[str, int]], frozenset[str]]:
    """The dev judgements, and every document that a split other than train judges; see the module's docstring."""
    others = [path for path in sorted((folder / "qrels").glob("*.tsv*")) if not path.name.startswith("train.")]
    if not others:
        return {}, frozenset(name for name, row in rows.items() if is_held_out(str(row.get("title") or name)))
    dev: dict[str, dict[str, int]] = {}
    reserved: set[str] = set()
    for path in others:
        judged = read_qrels(path)
        reserved.update(document for grades in judged.values() for document in grades)
        if path.name.startswith("dev."):
            dev = judged
    return dev, frozenset(reserved)


def _whole_titles(rows: Mapping[str, Mapping[str, Any]], limit: int | None) -> dict[str, None]:
    """Ids of at most about `limit` documents, all of a title or none: a topic's passages are its hard negatives."""
    groups: dict[str, list[str]] = {}
    for name, row in rows.items():
        groups.setdefault(str(row.get("title") or name), []).append(name)
    titles = sorted(groups)
    random.Random(SEED).shuffle(titles)  # noqa: S311 a sample, not a secret
    kept: dict[str, None] = {}
    for title in titles:
        if limit is not None and len(kept) >= limit:
            break
        kept.update(dict.fromkeys(groups[title]))
    return kept


def _judged(
    judgements: Mapping[str, Mapping[str, int]],
    texts: Mapping[str, str],
    kept: Mapping[str, None],
    split: str,
    *,
    without: frozenset[str] = frozenset(),
    only: frozenset[str] | None = None,
) -> list[Judged]:
    """Questions whose relevant documents are all kept; the same words asked twice are one question."""
    merged: dict[str, tuple[str, dict[str, None]]] = {}
    for query, grades in judgements.items():
        if query in texts and texts[query].strip():
            gold = merged.setdefault(_key(texts[query]), (texts[query], {}))[1]
            gold.update(dict.fromkeys(document for document, grade in grades.items() if grade > 0))
    return [
        Judged(text, tuple(gold), split)
        for text, gold in merged.values()
        if gold
        and all(document in kept for document in gold)
        and without.isdisjoint(gold)
        and (only is None or any(document in only for document in gold))
    ]


def _key(text: str) -> str:
    return " ".join(text.lower().split())


def _teacher(folder: Path) -> dict[str, dict[str, float]]:
    """{query: {document: logit}} of the folder's `teacher.tsv`, which is laid out like a qrels file."""
    path = next((path for path in (folder / "teacher.tsv", folder / "teacher.tsv.gz") if path.is_file()), None)
    return read_scores(path) if path else {}


def _labels(folder: Path, taught: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, int]]:
    """The training judgements; without them what the teacher scores highest is the answer."""
    labelled = any((folder / "qrels" / f"train.tsv{end}").is_file() for end in ("", ".gz"))
    if taught and not labelled:
        return {query: {max(scores, key=lambda name: scores[name]): 1} for query, scores in taught.items()}
    return read_qrels(_existing(folder, "qrels/train.tsv"))


def _some(questions: list[Judged], limit: int | None) -> list[Judged]:
    if limit is None or len(questions) <= limit:
        return questions
    return random.Random(SEED).sample(questions, limit)  # noqa: S311 a sample, not a secret


def _digest(documents: Iterable[Mapping[str, Any]], questions: Iterable[Judged]) -> str:
    """128 bits of blake3 over what was sampled, in order."""
    hasher = blake3()
    for row in documents:
        hasher.update(f"{row['_id']}\0{row.get('title') or ''}\0{row['text']}\0".encode())
    for one in questions:
        hasher.update(f"{one.split}\0{one.text}\0{one.gold!r}\0".encode())
        if one.taught:
            hasher.update(f"{sorted(one.taught.items())!r}\0".encode())
    return hasher.hexdigest()[:DIGEST_CHARS]


def _licence(folder: Path) -> str:
    """What the folder's `meta.json` says, if it is there."""
    meta = folder / "meta.json"
    return str(json.loads(meta.read_text("utf-8")).get("licence", "unknown")) if meta.is_file() else "unknown"


def _existing(folder: Path, name: str) -> Path:
    """The plain or the gzipped file."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise NotFound(f"{folder} holds no {name}; give a folder in the BEIR layout (corpus, queries, qrels/train.tsv)")
