"""Text → windows of token ids → length-sorted batches under a token budget. Pure but for the tokenizer itself.

A text longer than the model's window becomes several windows, so nothing is silently cut. Batches hold windows
of about one length: padding is wasted work, and one long text never pads many short ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Windows:
    """`ids[i]` are the token ids of window i, special tokens included; `owner[i]` (int64) the text it belongs to."""

    ids: tuple[Sequence[int], ...]
    owner: Int64

    def lengths(self) -> Int64:
        """(w,) int64 tokens per window, special tokens included."""
        return np.fromiter((len(ids) for ids in self.ids), np.int64, len(self.ids))


@dataclass(frozen=True, slots=True)
class Batch:
    """`rows` (b,) int64 window numbers; `ids`, `mask` (b, length) int64, mask 1 = token, 0 = padding (right)."""

    rows: Int64
    ids: Int64
    mask: Int64

    @property
    def inputs(self) -> tuple[Int64, ...]:
        """What a graph is fed, in its order."""
        return (self.ids, self.mask)


class WindowTokenizer:
    """A tokenizer that cuts texts into windows of at most `max_tokens`, special tokens included. Thread-safe."""

    def __init__(self, tokenizer_json: str, max_tokens: int) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer_json)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens, stride=0)

    def windows(self, texts: Sequence[str]) -> Windows:
        """Every text gives at least one window; lone surrogates become `?`, as no tokenizer takes them."""
        clean = [text if _encodable(text) else text.encode("utf-8", "replace").decode() for text in texts]
        ids: list[Sequence[int]] = []
        owner: list[int] = []
        for number, encoding in enumerate(self._tokenizer.encode_batch_fast(clean)):
            for part in (encoding, *encoding.overflowing):
                ids.append(part.ids)
                owner.append(number)
        return Windows(tuple(ids), np.asarray(owner, np.int64))


def batches(windows: Windows, *, budget_tokens: int, multiple: int, pad_id: int) -> Iterator[Batch]:
    """Longest first, so that the largest buffers are made once; each at most `budget_tokens` with its padding.

    Lengths are rounded up to `multiple`, which keeps the number of shapes an engine compiles for small.
    """
    lengths = windows.lengths()
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        width = -(-int(lengths[order[start]]) // multiple) * multiple
        rows = order[start : start + max(1, budget_tokens // width)]
        yield _padded(windows, rows, width, pad_id)
        start += len(rows)


def _padded(windows: Windows, rows: Int64, width: int, pad_id: int) -> Batch:
    ids = np.full((len(rows), width), pad_id, np.int64)
    mask = np.zeros((len(rows), width), np.int64)
    for place, row in enumerate(rows):
        tokens = windows.ids[row]
        ids[place, : len(tokens)] = tokens
        mask[place, : len(tokens)] = 1
    return Batch(rows, ids, mask)


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
