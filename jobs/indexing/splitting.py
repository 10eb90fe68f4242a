"""Text → spans of at most so many tokens, cut where the text itself has a seam. Pure.

The splitter of `semantic-text-splitter` asks for the size of hundreds of candidate slices. Each text is tokenised
once; a slice's size is then the number of tokens that start inside it, found by bisection: six times faster than
tokenising the slices (`benchmarks/chunking.py`). A slice cut inside a word is counted exactly afterwards.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from unicodedata import category

from semantic_text_splitter import CodeSplitter, MarkdownSplitter, TextSplitter
from tokenizers import Tokenizer

from tenants.config import Chunking

SEGMENT_CHARS = 200_000  # longer texts are split into segments first, so that memory does not grow with the file
RUN_CHARS = 8_000  # a longer run of characters without a blank is cut
BATCH_CHARS = 2_000_000
CHARS_PER_TOKEN = 16  # a token stands for at most this many characters, or a megabyte of base64 were one "word"
GRAMMARS = {  # language → package and the function that gives its grammar
    "c": ("tree_sitter_c", "language"),
    "cpp": ("tree_sitter_cpp", "language"),
    "go": ("tree_sitter_go", "language"),
    "java": ("tree_sitter_java", "language"),
    "javascript": ("tree_sitter_javascript", "language"),
    "python": ("tree_sitter_python", "language"),
    "rust": ("tree_sitter_rust", "language"),
    "typescript": ("tree_sitter_typescript", "language_tsx"),  # reads .ts too, but for the rare `<T>value` casts
}

_SEAMS = ("\n# ", "\n## ", "\n\n", "\n", " ", "。", ".")


@dataclass(frozen=True, slots=True)
class Piece:
    """text[start:end], which has `tokens` tokens (special ones not counted)."""

    start: int
    end: int
    tokens: int


class TokenSplitter:
    """Splits texts by one tokenizer and one size; one caller at a time, others wait."""

    def __init__(self, chunking: Chunking, tokenizer_json: str) -> None:
        self._tokenizer = _tokenizer(tokenizer_json)
        self._limit = chunking.tokens
        self._overlap = min(chunking.overlap, chunking.tokens // 2)
        # Only word pieces are known to be counted the same inside a text and alone.
        self._additive = type(self._tokenizer.model).__name__ == "WordPiece"
        self._ruler = _Ruler()
        self._lock = threading.Lock()
        self._splitters: dict[str, TextSplitter | MarkdownSplitter | CodeSplitter] = {}

    def split(self, texts: Sequence[str], kinds: Sequence[str]) -> list[list[Piece]]:
        """Per text its pieces in order; `kinds` are formats of `PARSED_SCHEMA`. Blank texts have none."""
        pieces: list[list[Piece]] = [[] for _ in texts]
        for batch in _batches(list(_segments(texts))):
            starts = self._token_starts([texts[index][start:end] for index, start, end in batch])
            for (index, start, end), tokens in zip(batch, starts, strict=True):
                with self._lock:
                    found = list(self._segment(texts[index][start:end], kinds[index], tokens))
                pieces[index].extend(Piece(p.start + start, p.end + start, p.tokens) for p in found)
        return pieces

    def count(self, text: str) -> int:
        """Tokens of `text` by itself."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _token_starts(self, texts: list[str]) -> list[list[int]]:
        encodings = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        return [[start for start, _ in encoding.offsets] for encoding in encodings]

    def _segment(self, text: str, kind: str, starts: list[int]) -> Iterator[Piece]:
        if not text or text.isspace():
            return
        if len(starts) <= self._limit and len(text) <= self._limit * CHARS_PER_TOKEN:
            begin = len(text) - len(text.lstrip())
            yield Piece(begin, len(text.rstrip()), len(starts))
            return
        self._ruler.lay(text, starts)
        for begin, chunk in self._splitter(kind).chunk_indices(text):
            if chunk and not chunk.isspace():
                yield from self._checked(text, begin, begin + len(chunk))

    def _checked(self, text: str, start: int, end: int) -> Iterator[Piece]:
        """The piece itself, or its halves when its exact count is above the limit after all."""
        inside = _inside_word(text, start) or _inside_word(text, end)
        tokens = self.count(text[start:end]) if inside or not self._additive else self._ruler.tokens(start, end)
        if tokens <= self._limit or end - start < 2:
            yield Piece(start, end, tokens)
            return
        middle = text.rfind(" ", start + 1, (start + end) // 2 + 1)
        middle = middle if middle > start else (start + end) // 2
        for left, right in ((start, middle), (middle, end)):
            part = text[left:right]
            if part and not part.isspace():
                begin = left + len(part) - len(part.lstrip())
                yield from self._checked(text, begin, left + len(part.rstrip()))

    def _splitter(self, kind: str) -> TextSplitter | MarkdownSplitter | CodeSplitter:
        if kind not in self._splitters:
            self._splitters[kind] = self._make(kind)
        return self._splitters[kind]

    def _make(self, kind: str) -> TextSplitter | MarkdownSplitter | CodeSplitter:
        if kind == "markdown":
            return MarkdownSplitter.from_callback(self._ruler, self._limit, self._overlap)
        if found := GRAMMARS.get(kind.removeprefix("code:")):
            package, function = found
            grammar = getattr(import_module(package), function)()
            # Code carries its own context in names; overlap would start chunks inside a function.
            return CodeSplitter.from_callback(grammar, self._ruler, self._limit, 0)
        return TextSplitter.from_callback(self._ruler, self._limit, self._overlap)


class _Ruler:
    """Counts the tokens of a slice of the text that was laid under it.

    The splitter hands over slices without their place, so each is looked for near the last one. An equal text
    found elsewhere has the same count.
    """

    _SLACK = 4_096  # how far back the splitter may go: overlap and the halving of a chunk

    def __init__(self) -> None:
        self._text = ""
        self._starts: list[int] = []
        self._near = 0

    def lay(self, text: str, starts: list[int]) -> None:
        self._text, self._starts, self._near = text, starts, 0

    def __call__(self, piece: str) -> int:
        place = self._text.find(piece, max(0, self._near - self._SLACK))
        if place < 0:
            place = max(0, self._text.find(piece))
        self._near = place
        return max(self.tokens(place, place + len(piece)), -(-len(piece) // CHARS_PER_TOKEN))

    def tokens(self, start: int, end: int) -> int:
        return bisect_left(self._starts, end) - bisect_left(self._starts, start)


@lru_cache(maxsize=8)
def _tokenizer(tokenizer_json: str) -> Tokenizer:
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _inside_word(text: str, place: int) -> bool:
    return 0 < place < len(text) and not _blank(text[place - 1]) and not _blank(text[place])


def _blank(char: str) -> bool:
    """Whether word pieces end here. Python calls some control characters spaces (NEL, form feed) that BERT drops."""
    return char in "\t\n\r" or (char.isspace() and category(char) != "Cc")


def _segments(texts: Sequence[str]) -> Iterator[tuple[int, int, int]]:
    """(index, start, end) of parts of at most `SEGMENT_CHARS`, cut at the best seam of their second half."""
    for index, text in enumerate(texts):
        for start, end in _cuts(text, 0, len(text), SEGMENT_CHARS):
            # The splitter's time grows with the square of a run without a blank; prose has no such runs.
            longest = max(map(len, text[start:end].split()), default=0)
            size = SEGMENT_CHARS if longest <= RUN_CHARS else RUN_CHARS
            yield from ((index, *cut) for cut in _cuts(text, start, end, size))


def _cuts(text: str, start: int, end: int, size: int) -> Iterator[tuple[int, int]]:
    while end - start > size:
        cut = _seam(text, start + size // 2, start + size)
        yield start, cut
        start = cut
    yield start, end


def _seam(text: str, low: int, high: int) -> int:
    for seam in _SEAMS:
        place = text.rfind(seam, low, high)
        if place >= 0:
            return place + 1
    return high


def _batches(segments: list[tuple[int, int, int]]) -> Iterator[list[tuple[int, int, int]]]:
    batch: list[tuple[int, int, int]] = []
    chars = 0
    for segment in segments:
        batch.append(segment)
        chars += segment[2] - segment[1]
        if chars >= BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch
