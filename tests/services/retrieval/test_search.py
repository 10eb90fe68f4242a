"""Both legs over a real table, against brute force over the same rows."""

import numpy as np

from tests.services.retrieval.conftest import unit

DIMENSION = 16
WORDS = [f"word{number}" for number in range(40)]


def vector_of(text):
    """A text's vector, fixed by its letters: retrieval does not care where vectors come from, only that both sides agree."""
    seed = np.frombuffer(text.encode().ljust(8, b"\0"), np.uint8).astype(np.uint32)
    return unit(np.random.default_rng(seed).standard_normal(DIMENSION))
