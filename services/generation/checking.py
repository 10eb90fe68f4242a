"""From a written line to what may be shown: cited, aligned with verbatim text, or dropped. Pure.

A line stays when a passage that it cites supports it (evidence/support.py); its citations are those that do, each
quoting the text that comes closest. A line without support is dropped, or kept with a mark and without a marker where
the tenant asks for that. A line with a link that no shown passage's own address is never leaves: a document must not
send the reader anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from services.contracts import Citation, Passage
from services.evidence.citations import Part, Pick, cite, compose
from services.evidence.conflicts import Conflict, disclosed
from services.evidence.support import Support, claim_of, support
from services.evidence.text import STOP_WORDS, stem, words
from services.generation.grammar import Line
from services.generation.prompt import unfenced

UNSUPPORTED = "(not supported by the evidence)"
SHORT = 2  # content words
MISSING_WORDS = 4  # named of a partial answer at most

# With a scheme or `www.`, or a host with a path; `ASP.NET`, `java.net` and `7//2` are none.
_LINK = re.compile(
    r"\b[a-z][a-z0-9+.-]{1,20}://\S+|(?<![\w/:])//[\w\[]\S*|\bwww\.\S+|\b(?:mailto|data|javascript|tel):\S+"
    r"|(?<![\w.@/-])(?:[\w-]+\.)+[a-z]{2,24}(?::\d+)?/\S*|(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?/\S*",
    re.IGNORECASE,
)
_ASKING = (
    "please explain describe tell show give list name say help want need know much many lot also compare define mean"
)
_ASKING_STEMS = frozenset(stem(word) for word in _ASKING.split())


@dataclass
class Checked:
    """An answer as it grows: `text` is what was released, `citations` those of its markers.

    `marks` keeps unsupported lines, marked, instead of dropping them.
    """

    question: str
    passages: Sequence[Passage]
    marks: bool = False
    text: str = ""
    citations: list[Citation] = field(default_factory=list)
    supported: int = 0
    unsupported: int = 0

    def release(self, line: Line) -> Part | None:
        """What of a line may be shown now; None = nothing."""
        said = " ".join(unfenced(line.text).split())
        if not said or self._leads_away(said):
            self.unsupported += 1
            return None
        backed = list(self._backed(said, line.markers))
        if not backed:
            self.unsupported += 1
            return self._marked(said) if self.marks else None
        self.supported += 1
        return self._cited(said, backed)

    def disclose(self, found: Sequence[Conflict]) -> list[Part]:
        """The conflicts, quoted, behind what was written; one whose quotes would lead away is only noted."""
        quoted = [one for one in found if not any(self._leads_away(self._text_of(pick)) for pick in one.picks)]
        parts = list(compose(self.passages, disclosed(quoted), len(self.text), len(self.citations)))
        for part in parts:
            self._add(part)
        return parts

    def say(self, text: str) -> Part:
        """A sentence of the house's own, which cites nothing."""
        return self._add(Part(self._gap() + text, ()))

    def _backed(self, said: str, markers: Iterable[int]) -> Iterable[tuple[int, Support]]:
        for marker in markers:
            text = self.passages[marker - 1].text
            found = support(said, text)
            if found is not None and found.holds and self._to_the_point(said, text[found.start : found.end]):
                yield marker - 1, found

    def _to_the_point(self, said: str, quote: str) -> bool:
        """A line of one or two words is easily found anywhere: its quote must speak of what was asked."""
        if len(claim_of(said).stems) > SHORT:
            return True
        return bool(claim_of(quote).stems & claim_of(self.question).stems)

    def _cited(self, said: str, backed: Sequence[tuple[int, Support]]) -> Part:
        gap = self._gap()
        start = len(self.text) + len(gap)
        first = len(self.citations) + 1
        spans = (start, start + len(said))
        citations = tuple(
            cite(first + number, self.passages[place], (one.start, one.end), spans)
            for number, (place, one) in enumerate(backed)
        )
        markers = "".join(f"[{citation.marker}]" for citation in citations)
        return self._add(Part(f"{gap}{said} {markers}", citations))

    def _marked(self, said: str) -> Part:
        return self._add(Part(f"{self._gap()}{said} {UNSUPPORTED}", ()))

    def _gap(self) -> str:
        return " " if self.text else ""

    def _add(self, part: Part) -> Part:
        self.text += part.text
        self.citations += part.citations
        return part

    def _text_of(self, pick: Pick) -> str:
        return self.passages[pick.place].text[pick.start : pick.end]

    def _leads_away(self, said: str) -> bool:
        links = [_address(link.group()) for link in _LINK.finditer(said)]
        allowed = {_address(passage.url) for passage in self.passages if passage.url} - {""} if links else set()
        return any(link not in allowed for link in links)


def missing(question: str, passages: Sequence[Passage]) -> tuple[str, ...]:
    """The question's content words, as asked, that no shown passage holds: what a partial answer does not cover."""
    held = {stem(word) for one in passages for word in words(f"{one.title} {one.heading} {one.text}")}
    named = (word for word in words(question) if word not in STOP_WORDS and len(word) > 2)
    asked = dict.fromkeys(word for word in named if stem(word) not in _ASKING_STEMS)
    return tuple(word for word in asked if stem(word) not in held)[:MISSING_WORDS]


def _address(link: str) -> str:
    """Host and path of an address, however it is written; "" for one that is none."""
    bare = link.rstrip(".,;:!?)'\"")
    try:
        parts = urlsplit(bare if "//" in bare else "//" + bare)
    except ValueError:
        return ""
    return (parts.netloc.removeprefix("www.") + parts.path.rstrip("/")).casefold()
