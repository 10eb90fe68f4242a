"""How much of a corpus has changed is counted by chunks, over all versions."""

from dataclasses import replace

from jobs.indexing.commit import turned_over
from tenants.scope import TURNOVER, Release
from tests import fakes


def release(chunks: int) -> Release:
    made = fakes.scope().release
    assert made is not None
    return replace(made, chunks=chunks)


def test_what_came_and_what_went_counts():
    first = turned_over(release(100), None, 100)
    assert first.profile[TURNOVER] == 100
    changed = turned_over(release(100), first, 10)  # ten chunks replaced by ten
    assert changed.profile[TURNOVER] == 120
    erased = turned_over(release(95), changed, 0)
    assert erased.profile[TURNOVER] == 125
    grown = turned_over(release(200), erased, 105)
    assert grown.profile[TURNOVER] == 230
