"""Our answers in the shape of OpenAI's chat completions: message, annotations, chunks, stop sequences. Pure.

Citations are `url_citation` annotations over the characters of `content`, and once more in Cohere's shape
(`message.citations`); the whole `Answer` is `message.fathom`, in a stream `delta.fathom` of the last chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from services.result import StreamEvent


@dataclass(frozen=True, slots=True)
class Completion:
    """What all parts of one answer have in common. `created` in Unix seconds; `base` the
    tenant's base address, "" when a document's address could be another one's.
    """

    model: str
    created: int
    base: str
    stop: tuple[str, ...] = ()
    usage: bool = False

    def whole(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """`chat.completion`."""
        content = before(answer["answer"], self.stop)
        message = {
            "role": "assistant",
            "content": content,
            "refusal": None,
            "annotations": self.annotations(answer, len(content)),
            "citations": spans_cited(answer, len(content)),
            "fathom": answer,
        }
        choice = {"index": 0, "message": message, "finish_reason": answer["finish_reason"], "logprobs": None}
        return self._head(answer["query_id"], "chat.completion") | {
            "choices": [choice],
            "usage": usage_of(answer),
        }

    def chunk(self, query_id: str, delta: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
        """`chat.completion.chunk`."""
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        counted = {"usage": None} if self.usage else {}
        return self._head(query_id, "chat.completion.chunk") | {"choices": [choice]} | counted

    def counted(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """The chunk that `stream_options.include_usage` asks for: no choices, the usage."""
        return self._head(answer["query_id"], "chat.completion.chunk") | {"choices": [], "usage": usage_of(answer)}

    def annotations(self, answer: Mapping[str, Any], shown: int) -> list[dict[str, Any]]:
        """Of the citations within the first `shown` characters; an index each, which OpenAI's accumulator asks for."""
        cited = [one for one in answer["citations"] if one["answer_end"] <= shown]
        return [self._annotation(one) | {"index": n} for n, one in enumerate(cited)]

    def _annotation(self, citation: Mapping[str, Any]) -> dict[str, Any]:
        """`url` is the document's own, else its address here, else the chunk's name."""
        here = f"{self.base}/documents/{quote(citation['document_id'], safe='/')}"
        own = here if self.base else f"urn:fathom:chunk:{citation['chunk_id']}"
        return {
            "type": "url_citation",
            "url_citation": {
                "start_index": citation["answer_start"],
                "end_index": citation["answer_end"],
                "title": citation["title"],
                "url": citation["url"] or own,
            },
        }

    def _head(self, query_id: str, kind: str) -> dict[str, Any]:
        return {"id": f"chatcmpl-{query_id}", "object": kind, "created": self.created, "model": self.model}


@dataclass
class ChunkWriter:
    """The line's events, one after another, as chunks; nothing after a stop sequence but the end."""

    completion: Completion
    query_id: str = ""
    _stop: StopFilter = field(init=False)

    def __post_init__(self) -> None:
        self._stop = StopFilter(self.completion.stop)

    def write(self, event: StreamEvent) -> Iterator[dict[str, Any]]:
        """The chunks of one event."""
        if event.name == "evidence":
            self.query_id = event.data["query_id"]
            yield self._delta(role="assistant", content="", refusal=None)
        elif event.name == "token":
            if text := self._stop.feed(event.data["text"]):
                yield self._delta(content=text)
        elif event.name == "answer":  # with all annotations: only now is it known what a stop sequence cuts
            if text := self._stop.rest():
                yield self._delta(content=text)
            if notes := self.completion.annotations(event.data, self._stop.shown):
                yield self._delta(annotations=notes, citations=spans_cited(event.data, self._stop.shown))
            yield self.completion.chunk(self.query_id, {"fathom": event.data}, event.data["finish_reason"])
            if self.completion.usage:
                yield self.completion.counted(event.data)

    def _delta(self, **delta: Any) -> dict[str, Any]:
        return self.completion.chunk(self.query_id, delta)


class StopFilter:
    """Lets text through up to the first stop sequence; holds back what could be the beginning of one."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""
        self._ended = False
        self.shown = 0  # characters that were let through

    def feed(self, text: str) -> str:
        """What may be shown now."""
        if self._ended:
            return ""
        self._held += text
        kept = len(before(self._held, self._stop))
        open_ = len(self._held) - max((_overlap(self._held, one) for one in self._stop), default=0)
        if kept < len(self._held) and kept <= open_:
            self._ended = True
            return self._let(kept, keep=False)
        return self._let(open_)

    def rest(self) -> str:
        """What was held back and turned out to be no beginning."""
        return self._let(len(before(self._held, self._stop)), keep=False)

    def _let(self, size: int, *, keep: bool = True) -> str:
        text, self._held = self._held[:size], self._held[size:] if keep else ""
        self.shown += len(text)
        return text


def before(text: str, stop: Sequence[str]) -> str:
    """`text` up to the first stop sequence."""
    return text[: min((place for one in stop if (place := text.find(one)) >= 0), default=len(text))]


def spans_cited(answer: Mapping[str, Any], shown: int) -> list[dict[str, Any]]:
    """Cohere's citations of the same spans: one a cited stretch of text, with every source that it has."""
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for one in answer["citations"]:
        start, end = one["answer_start"], one["answer_end"]
        if end > shown:
            continue
        text = answer["answer"][start:end]
        cited = found.setdefault((start, end), {"start": start, "end": end, "text": text, "sources": []})
        document = {"id": one["document_id"], "title": one["title"], "snippet": one["quote"]}
        cited["sources"].append({"type": "document", "id": one["chunk_id"], "document": document})
    return [cited | {"type": "TEXT_CONTENT"} for cited in found.values()]


def usage_of(answer: Mapping[str, Any]) -> dict[str, int]:
    """OpenAI's three counts."""
    usage = answer["usage"]
    return {**usage, "total_tokens": usage["prompt_tokens"] + usage["completion_tokens"]}


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
