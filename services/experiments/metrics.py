"""What experiments measure of their users: one table of names, directions and bounds. Pure.

A value belongs to one question; a unit's value is the mean over its questions within the observation window.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Metric:
    """`bounded`: every value lies in [0, 1]. `about` is what a person reads."""

    name: str
    better: Literal["higher", "lower"]
    bounded: bool
    about: str

    @property
    def sign(self) -> float:
        """+1 when more is better, −1 when less is: a difference times `sign` is a gain."""
        return 1.0 if self.better == "higher" else -1.0


_ALL = (
    Metric("clicked", "higher", True, "share of questions with a click on a passage or citation"),
    Metric("click_rank", "higher", True, "1 / rank of the first clicked passage, 0 without a click"),
    Metric("liked", "higher", True, "share of questions that were rated up"),
    Metric("disliked", "lower", True, "share of questions that were rated down"),
    Metric("followed_up", "lower", True, "share of questions that the same user asked on within ten minutes"),
    Metric("abstained", "lower", True, "share of questions without an answer"),
    Metric("abandoned", "lower", True, "share of streams that the asker left before their end"),
    Metric("degraded", "lower", True, "share of answers that name a degradation"),
    Metric("answer_ms", "lower", False, "time to the whole answer, ms"),
    Metric("rerank_ms", "lower", False, "time in the cross-encoders, ms"),
    Metric("pairs", "lower", False, "pairs that a cross-encoder scored"),
    Metric("tokens", "lower", False, "tokens that a generator read and wrote"),
)
METRICS: Mapping[str, Metric] = {one.name: one for one in _ALL}
