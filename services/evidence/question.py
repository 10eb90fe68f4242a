"""What a question asks for, from its wording, and whether a sentence holds such a thing. Pure; English cues.

A cue is a hint for the sentence model, never a rule: a question of another language simply has none.
"""

from __future__ import annotations

import re
from typing import Literal

Asked = Literal["number", "date", "person", "place", "reason", "procedure", "definition", "yes_no", "name", "other"]

_PATTERNS: tuple[tuple[Asked, str], ...] = (
    ("date", r"\b(?:when|(?:what|which) (?:\w+ )?(?:year|date|day|month|decade|century|time)|how long ago)\b"),
    ("number", r"\bhow (?:many|much|long|old|far|tall|high|big|large|often|fast|deep|wide|frequent|hot|cold)\b"),
    (
        "number",
        r"\bwhat (?:\w+ ){0,2}(?:percent\w*|number|amount|population|age|temperature|rate|proportion|share)\b",
    ),
    (
        "person",
        r"\b(?:who|whom|whose|(?:what|which) (?:\w+ )?(?:person|man|woman|king|queen|president|author|actor))\b",
    ),
    (
        "place",
        r"\b(?:where|(?:what|which) (?:\w+ )?(?:city|country|state|place|region|river|area|location|continent))\b",
    ),
    ("reason", r"\b(?:why|what (?:is|are|was|were)? ?(?:the )?(?:cause|reason)s?|what causes?|how come)\b"),
    ("procedure", r"\bhow (?:do|does|can|could|should|would|to|did|is|are|was|were|might)\b|\btreatments?\b"),
    ("definition", r"^\W*(?:what (?:is|are|was|were)(?: \(are\))? (?!the \w+ of)|define\b|explain\b|describe\b)"),
    ("yes_no", r"^\W*(?:is|are|was|were|do|does|did|can|could|has|have|had|should|would|will|may|might)\b"),
    ("name", r"\b(?:what|which)\b"),
)
_ASKED = tuple((kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in _PATTERNS)
_NUMBER = re.compile(
    r"\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|dozen|hundred|thousand|million|billion|half"
    r"|third|quarter|once|twice|percent)\b",
    re.IGNORECASE,
)
_DATE = re.compile(
    r"\b(?:1\d{3}|20\d{2}|\d{3}s|January|February|March|April|May|June|July|August|September|October|November|December"
    r"|century|today|spring|summer|autumn|winter|Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday)\b"
)
_NAME = re.compile(r"(?<=[\w,;)\"'] )[\"'(]?(?:[A-Z][\w'’.-]+)|^[A-Z][\w'’.-]+ [A-Z][\w'’.-]+")
_REASON = re.compile(
    r"\b(?:because|due to|caus\w+|since|as a result|in order to|result\w* (?:from|in)|so that|therefore|led to|reason"
    r"|to \w+)\b",
    re.IGNORECASE,
)
_PROCEDURE = re.compile(
    r"\b(?:by \w+ing|using|use[sd]?|call|set|run|add|includ\w+|must|should|can|treat\w*|step|first|then|through)\b",
    re.IGNORECASE,
)
_DEFINITION = re.compile(
    r"\b(?:is|are|was|were)\b (?:\w+ ){0,2}?(?:an?|the|one of|any|known|called|defined)\b"
    r"|\b(?:refers? to|means|describes?|consists? of|stands for|defined as|is when)\b",
    re.IGNORECASE,
)
_CUES: dict[Asked, re.Pattern[str]] = {
    "number": _NUMBER,
    "date": _DATE,
    "reason": _REASON,
    "procedure": _PROCEDURE,
    "definition": _DEFINITION,
}


def asked(question: str) -> Asked:
    """The first cue that matches, from the most to the least specific."""
    return next((kind for kind, cue in _ASKED if cue.search(question)), "other")


def holds(kind: Asked, sentence: str, question: str) -> float:
    """1.0 when `sentence` holds what `kind` asks for, else 0.0; 0.5 when nothing can be said."""
    cue = _CUES.get(kind)
    if cue is not None:
        return float(bool(cue.search(sentence)))
    if kind not in ("person", "place", "name"):
        return 0.5
    known = question.casefold()
    fresh = any(match.group().strip("\"'(.-").casefold() not in known for match in _NAME.finditer(sentence))
    return float(fresh)
