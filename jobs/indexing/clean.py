"""Bytes → characters → text that shows what it holds. Pure.

Hidden characters are a way to smuggle words past a reader into an index, so they are dropped here, once, before
any offset is counted. What a person sees stays as it was: NFC, not NFKC, so that m² does not become m2.
"""

from __future__ import annotations

import re
import unicodedata

from charset_normalizer import from_bytes

from jobs.indexing.reasons import ParseFailure, Reason

SAMPLE_BYTES = 65_536
_BOMS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\x00\x00", "utf-32-le"),
    (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)

# Control characters but tab and newline, soft hyphen, zero-width, bidirectional marks and overrides, invisible
# operators, interlinear marks, lone surrogates, Unicode tags, the supplementary variation selectors.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f"
    "\u202a-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff]"
)
# The joiners shape words in Arabic, Indic scripts and emoji; beside ASCII or at an edge they only hide.
_JOINERS = re.compile("(?<![^\x00-\x7f])[\u200c\u200d]+|[\u200c\u200d]+(?![^\x00-\x7f])")
_BREAKS = re.compile("\r\n?|[\x0c\x85\u2028\u2029]")
_SURROGATES = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    """`text` in NFC with line feeds as line ends and without characters that cannot be seen.

    Lone surrogates become U+FFFD, so that the result always encodes as UTF-8.
    """
    text = _BREAKS.sub("\n", text)
    if text.isascii():
        return _HIDDEN.sub("", text)
    text = _SURROGATES.sub("\ufffd", text)
    return unicodedata.normalize("NFC", _JOINERS.sub("", _HIDDEN.sub("", text)))


def decode(data: bytes, declared: str | None = None) -> str:
    """Decode by byte-order mark, then UTF-8, then `declared`, then by statistics over the first 64 KiB.

    Raises `ParseFailure` (`encoding`) when nothing fits, (`unsupported`) for binary data.
    """
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    if looks_binary(data):
        return _wide(data)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        return _legacy(data, declared, error)


def looks_binary(data: bytes) -> bool:
    """Whether the first 8 KiB hold a NUL, which no 8-bit text does."""
    return b"\x00" in data[:8192]


def _wide(data: bytes) -> str:
    """UTF-16 without a mark: nearly every other byte of western text is 0."""
    sample = data[: 4096 & ~1]
    for encoding, zeros in (("utf-16-le", sample[1::2]), ("utf-16-be", sample[::2])):
        if zeros.count(0) > 0.4 * max(1, len(zeros)) and sample.count(0) < 0.6 * len(sample):
            return data.decode(encoding, "replace")
    raise ParseFailure(Reason.UNSUPPORTED, "the file is binary and no known format; convert it to text first")


def _legacy(data: bytes, declared: str | None, error: UnicodeDecodeError) -> str:
    if declared:
        try:
            return data.decode(declared)
        except (LookupError, UnicodeError):
            pass  # a wrong declaration is common, statistics may still find the right one
    # A few bad bytes in otherwise good UTF-8 are damage, not another encoding.
    repaired = data.decode("utf-8", "replace")
    damaged = repaired.count("\ufffd")
    wide = sum(1 for char in repaired[:100_000] if char > "\x7f" and char != "\ufffd")
    if wide > 4 * damaged:
        return repaired
    matches = from_bytes(_around(data, error.start))
    best = matches.best()
    if best is None:
        raise ParseFailure(Reason.ENCODING, "no known character encoding fits; save the file as UTF-8")
    # Among equally plausible ones the western code page is by far the most common; short samples tie often.
    western = any(match.encoding == "cp1252" and match.chaos <= best.chaos + 0.01 for match in matches)
    return data.decode("cp1252" if western else best.encoding, "replace")


def _around(data: bytes, position: int) -> bytes:
    """A sample that holds the first byte which is not UTF-8."""
    start = max(0, position - SAMPLE_BYTES // 2)
    return data[start : start + SAMPLE_BYTES]
