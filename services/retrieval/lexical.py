"""What both retrieval legs and the cross-encoders read of a chunk, and how a question is read beside it. Pure.

A chunk's `text` stays as its document has it (NFC, so that a citation is verbatim); what machines read is NFKC, in
which 𝗳𝗿𝗲𝗲, ｆｒｅｅ and free are one word: letters that only look like others can neither hide a word nor add one.
"""

from __future__ import annotations

import unicodedata


def lexical(title: str, heading: str, text: str) -> str:
    """Title, heading and text on lines of their own, empty ones left out, in NFKC."""
    return readable("\n".join(part for part in (title, heading, text) if part))


def readable(text: str) -> str:
    """`text` in NFKC (Unicode Standard Annex 15)."""
    return text if text.isascii() else unicodedata.normalize("NFKC", text)
