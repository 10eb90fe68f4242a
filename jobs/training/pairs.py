"""Texts → padded pairs of token ids for training, by the tokenizer that serves. Numpy, no torch.

A passage that is too long keeps the window that holds most of the question's rare words:
argmax over windows of Σ idf(t) · [t in question]. Cutting off its end would call a passage relevant whose answer
was cut off.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from services.reranking.pairs import STORED, PairTokenizer

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Ids = npt.NDArray[np.uint32]

MULTIPLE = 8
_BATCH = 2_000


class PairBuilder:
    """One tokenizer's pairs; `pad` is the padding's id, `room` what a pair of `most` tokens has beside specials."""

    def __init__(self, tokenizer_json: str, pad: int, max_tokens: int = 512) -> None:
        self._tokenizer = PairTokenizer(tokenizer_json, max_tokens)
        self._pad = pad
        self.specials = int(self._tokenizer.windows([(b"", b"")]).lengths()[0])

    @property
    def digest(self) -> str:
        """Names the tokenizer."""
        return self._tokenizer.digest

    def texts(self, texts: Sequence[str]) -> list[Ids]:
        """Token ids of each text, without special tokens."""
        found: list[Ids] = []
        for start in range(0, len(texts), _BATCH):
            found += [np.frombuffer(ids, STORED) for ids in self._tokenizer.ids(texts[start : start + _BATCH])]
        return found

    def padded(self, pairs: Sequence[tuple[Ids, Ids]]) -> tuple[Int64, Int64, Int64]:
        """(n, length) int64 token ids, attention mask and token types of (question, passage) pairs that fit."""
        windows = self._tokenizer.windows([(question.tobytes(), passage.tobytes()) for question, passage in pairs])
        longest = -(-int(windows.lengths().max()) // MULTIPLE) * MULTIPLE
        ids = np.full((len(pairs), longest), self._pad, dtype=np.int64)
        for row, tokens in enumerate(windows.ids):
            ids[row, : len(tokens)] = tokens
        places = np.arange(longest)
        mask = places < windows.lengths()[:, None]
        return ids, mask.astype(np.int64), ((places >= windows.first[:, None]) & mask).astype(np.int64)


def rarity(passages: Sequence[Ids]) -> Float32:
    """(highest id + 1,) float32 idf = log(n / df): 0 for what every passage has, and for what none has."""
    df = np.zeros(1 + max((int(ids.max(initial=0)) for ids in passages), default=0), dtype=np.int64)
    for ids in passages:
        df[np.unique(ids)] += 1
    rare: Float32 = np.log(max(1, len(passages)) / np.maximum(df, 1)).astype(np.float32)
    rare[df == 0] = 0
    return rare


def window(question: Ids, passage: Ids, room: int, rare: Float32) -> Ids:
    """At most `room` of the passage's tokens in a row, see the module's docstring; ties go to the earliest."""
    if len(passage) <= room:
        return passage
    value = np.where(np.isin(passage, question), rare[passage], 0)
    total = np.concatenate([[0.0], np.cumsum(value)])
    start = int(np.argmax(total[room:] - total[:-room]))
    return passage[start : start + room]
