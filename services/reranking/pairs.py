"""Texts → stored token ids → query-passage windows → batches of one width. Pure but for the tokenizer itself.

A chunk is tokenised once, when it is indexed; a pair is put together from ids. Token ids of one text are `bytes`:
little-endian uint32, no special tokens. A window is what the model reads at once: [CLS] query [SEP] passage [SEP] for
BERT, whatever the tokenizer's own template says for others.

A window's width is its own length rounded up, never its neighbours': a pair is computed in the same shape whoever else
is in the batch, so that its logit does not depend on the company.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt
from blake3 import blake3
from tokenizers import Tokenizer

Int64 = npt.NDArray[np.int64]
Pair = tuple[bytes, bytes]  # token ids of the query and of the passage

STORED = np.dtype("<u4")
DIGEST_CHARS = 32
OVERLAP = 4  # neighbouring windows share a quarter of a passage's room
_NO_MATTER = ("truncation", "padding", "post_processor", "decoder")  # to the ids of a text without special tokens


@dataclass(frozen=True, slots=True)
class PairWindows:
    """`ids[i]` (t,) int64 are window i's tokens, specials included; `owner[i]` int64 the pair it belongs to.

    `first[i]` int64 tokens are of type 0 (the query's part), the rest of type 1; owners ascend.
    """

    ids: tuple[Int64, ...]
    first: Int64
    owner: Int64

    def lengths(self) -> Int64:
        """(w,) int64 tokens per window, special tokens included."""
        return np.fromiter((len(ids) for ids in self.ids), np.int64, len(self.ids))

    def highest(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(w,) float32 logits of windows → (pairs,) float32: a passage is as relevant as its best window."""
        if not len(logits):
            return logits
        starts = np.flatnonzero(np.diff(self.owner, prepend=-1))
        best: npt.NDArray[np.float32] = np.maximum.reduceat(logits, starts)
        return best


@dataclass(frozen=True, slots=True)
class PairBatch:
    """`rows` (b,) int64 window numbers, the rest (b, width) int64; mask 1 = token, padded on the right; types 0, 1."""

    rows: Int64
    ids: Int64
    mask: Int64
    types: Int64

    @property
    def inputs(self) -> tuple[Int64, ...]:
        """What a graph is fed, in its order."""
        return (self.ids, self.mask, self.types)


@dataclass(frozen=True, slots=True)
class _Template:
    """The special tokens around and between two texts, and the type of the passage's part."""

    before: Int64
    between: Int64
    after: Int64
    typed: bool

    @property
    def size(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)


class PairTokenizer:
    """A cross-encoder's tokenizer; `max_tokens` is one window's length, special tokens included. Thread-safe."""

    def __init__(self, tokenizer_json: str, max_tokens: int) -> None:
        self.digest = tokenizer_digest(tokenizer_json)
        self.max_tokens = max_tokens
        self._tokenizer = Tokenizer.from_str(tokenizer_json)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._template = _template(self._tokenizer)
        # From here on a text that spells "[SEP]" is text: it cannot close its own part of the pair.
        self._tokenizer.encode_special_tokens = True

    def ids(self, texts: Sequence[str]) -> list[bytes]:
        """The token ids of each text, whole, without special tokens; lone surrogates are read as `?`."""
        clean = [text.encode("utf-8", "replace").decode() for text in texts]
        encodings = self._tokenizer.encode_batch_fast(clean, add_special_tokens=False)
        return [np.asarray(encoding.ids, STORED).tobytes() for encoding in encodings]

    def windows(self, pairs: Sequence[Pair]) -> PairWindows:
        """Every pair gives at least one window; a long passage several that overlap, each with the query before it.

        The query keeps its beginning and its end when it is longer than half the room and the passage needs the rest.
        """
        ids: list[Int64] = []
        first: list[int] = []
        owner: list[int] = []
        for number, (query, passage) in enumerate(pairs):
            for part, boundary in self._windows(_read(query), _read(passage)):
                ids.append(part)
                first.append(boundary)
                owner.append(number)
        return PairWindows(tuple(ids), np.asarray(first, np.int64), np.asarray(owner, np.int64))

    def _windows(self, query: Int64, passage: Int64) -> Iterator[tuple[Int64, int]]:
        layout = self._template
        room = self.max_tokens - layout.size
        query = _bounded(query, max(room // 2, room - len(passage)))
        head = np.concatenate((layout.before, query, layout.between))
        for part in _parts(passage, room - len(query)):
            window = np.concatenate((head, part, layout.after))
            yield window, len(head) if layout.typed else len(window)


def tokenizer_digest(tokenizer_json: str) -> str:
    """Names what decides the ids of a text, hex: two models with one vocabulary share stored ids."""
    parts = {name: value for name, value in json.loads(tokenizer_json).items() if name not in _NO_MATTER}
    return blake3(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:DIGEST_CHARS]


def pair_batches(windows: PairWindows, *, budget_tokens: int, multiple: int, pad_id: int) -> Iterator[PairBatch]:
    """Batches of windows of one width, widest first; at most `budget_tokens` each, padding included.

    A width is the window's own length rounded up to `multiple`.
    """
    widths = -(-windows.lengths() // multiple) * multiple
    order = np.argsort(-widths, kind="stable")
    for width, group in groupby(order, key=lambda row: int(widths[row])):
        rows = np.fromiter(group, np.int64)
        size = max(1, budget_tokens // width)
        for start in range(0, len(rows), size):
            yield _padded(windows, rows[start : start + size], width, pad_id)


def _padded(windows: PairWindows, rows: Int64, width: int, pad_id: int) -> PairBatch:
    ids = np.full((len(rows), width), pad_id, np.int64)
    for place, row in enumerate(rows):
        tokens = windows.ids[row]
        ids[place, : len(tokens)] = tokens
    places = np.arange(width)
    lengths = np.fromiter((len(windows.ids[row]) for row in rows), np.int64, len(rows))
    mask = places < lengths[:, None]
    types = (places >= windows.first[rows][:, None]) & mask
    return PairBatch(rows, ids, mask.astype(np.int64), types.astype(np.int64))


def _template(tokenizer: Tokenizer) -> _Template:
    pair = tokenizer.encode("a", "a")
    ids = np.asarray(pair.ids, np.int64)
    query = [place for place, part in enumerate(pair.sequence_ids) if part == 0]
    passage = [place for place, part in enumerate(pair.sequence_ids) if part == 1]
    return _Template(
        before=ids[: query[0]],
        between=ids[query[-1] + 1 : passage[0]],
        after=ids[passage[-1] + 1 :],
        typed=pair.type_ids[passage[0]] == 1,
    )


def _read(stored: bytes) -> Int64:
    return np.frombuffer(stored, STORED).astype(np.int64)


def _bounded(query: Int64, room: int) -> Int64:
    if len(query) <= room:
        return query
    return np.concatenate((query[: room - room // 2], query[len(query) - room // 2 :]))


def _parts(passage: Int64, room: int) -> Iterator[Int64]:
    if len(passage) <= room:
        yield passage
        return
    step = max(1, room - room // OVERLAP)
    last = len(passage) - room  # the last window is full, too
    for start in range(0, last + step, step):
        start = min(start, last)
        yield passage[start : start + room]
