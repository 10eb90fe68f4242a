"""SRT and WebVTT → one line a cue, each with its time. Pure."""

from __future__ import annotations

import re

from jobs.indexing.clean import clean, decode
from jobs.indexing.formats.document import Assembler, Parsed
from jobs.indexing.reasons import ParseFailure, Reason

_TIME = r"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})"
_CUE = re.compile(rf"^[ \t]*{_TIME}[ \t]+-->[ \t]+{_TIME}.*$", re.MULTILINE)
_VOICE = re.compile(r"<v(?:\.[^ >]*)?[ \t]+([^>]{1,200})>")
_TAG = re.compile(r"<[^>]{0,200}>|\{\\[^}]{0,100}\}")
_NUMBER = re.compile(r"\n\s*\d+\s*\Z")


def read_transcript(data: bytes, name: str, max_chars: int) -> Parsed:
    """Read cues. Raises `ParseFailure`: `malformed` (no cue), `empty` (no words), `encoding`."""
    source = clean(decode(data))
    cues = list(_CUE.finditer(source))
    if not cues:
        raise ParseFailure(Reason.MALFORMED, "the transcript has no time stamps")
    text = Assembler(max_chars, separator="\n")
    ends = [cue.start() for cue in cues[1:]] + [len(source)]
    for cue, end in zip(cues, ends, strict=True):
        text.add(_words(source[cue.end() : end]), t_start_s=_seconds(cue))
    if not text.text:
        raise ParseFailure(Reason.EMPTY, "the transcript has no words")
    return Parsed(text.text, "transcript", name, text.spans)


def _words(block: str) -> str:
    """A cue's words on one line: up to the blank line that ends it, the next cue's number left out."""
    body = _NUMBER.sub("", "\n" + block.rstrip()).strip().split("\n\n", 1)[0]
    return " ".join(_TAG.sub("", _VOICE.sub(r"\1: ", body)).split())


def _seconds(cue: re.Match[str]) -> float:
    hours, minutes, seconds, fraction = cue.group(1, 2, 3, 4)
    return int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds) + int(fraction.ljust(3, "0")) / 1000
