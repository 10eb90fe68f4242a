"""A conversation as one question: the last thing the user said, with what it leans on. Pure.

Retrieval needs a question that stands by itself. Words alone decide here: a short turn that points back (a personal
pronoun, "and", "what about", a bare "why?") gets the user's turn before it put in front. What the assistant
said is never searched for, so that an answer cannot feed itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]
BACK = 3  # turns of the user that may be put in front, while each of them points back as well
LONG = 12  # words from which a turn stands by itself

_POINTS_BACK = re.compile(
    r"^\s*(?:and|but|how so|how come|what about|how about|which one|who else|what else)\b"
    r"|^\s*(?:why|how|when|where)\W*$"
    r"|\b(?:it|its|they|them|their|theirs|these|those|he|she|him|her|his|hers|the same|the former|the latter"
    r"|(?:this|that|the first|the second|the last) one)\b",
    re.IGNORECASE,
)
# "is it true that": says nothing of what was said before.
_EMPTY_IT = re.compile(
    r"\b(?:is it|it is|it's)\s+(?:true|possible|safe|necessary|allowed|legal|better|worth)\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Turn:
    """One message."""

    role: Role
    text: str


def standalone(turns: Sequence[Turn], chars: int) -> str:
    """The question to retrieve for, at most `chars` characters, the newest kept; "" when the user said nothing."""
    said = [turn.text.strip() for turn in turns if turn.role == "user" and turn.text.strip()]
    if not said:
        return ""
    parts = [said[-1]]
    for earlier in reversed(said[-1 - BACK : -1]):
        if not points_back(parts[0]) or len(earlier) + 1 + sum(map(len, parts)) + len(parts) > chars:
            break
        parts.insert(0, earlier)
    return "\n".join(parts)


def points_back(text: str) -> bool:
    """Whether a turn needs the one before it to be understood."""
    return len(text.split()) < LONG and _POINTS_BACK.search(_EMPTY_IT.sub("", text)) is not None
