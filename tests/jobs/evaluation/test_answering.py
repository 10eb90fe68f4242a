"""What an answer is worth, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from jobs.evaluation.answering import Written, figure_of, judged, risk_curve, summary
from services.contracts import Citation, Draft
from services.evidence.citations import Pick, compose
from tests import fakes

TEXT = "The pump moves 40 litres a minute. It needs no oil."
PASSAGE = fakes.passage(1, TEXT, "pump.md")


def draft(*spans: tuple[int, int], grounded: str = "full") -> Draft:
    parts = compose([PASSAGE], [Pick(0, start, end, "sentence") for start, end in spans])
    cited = tuple(citation for part in parts for citation in part.citations)
    return Draft("".join(part.text for part in parts), grounded, "extractive", cited)  # type: ignore[arg-type]


def test_a_quoted_answer_has_every_figure() -> None:
    found = judged(draft((0, 34)), [PASSAGE], {"pump.md": 1}, ["40 litres"])
    assert found["verbatim"] == found["citation_precision"] == found["citation_recall"] == found["cited_in_gold"] == 1
    assert (found["exact"], found["containment"], found["correct"]) == (0.0, 1.0, 1.0)
    assert found["token_f1"] == pytest.approx(2 * 2 / (5 + 2))  # of "pump moves 40 litres minute"


def test_a_wrong_citation_is_seen() -> None:
    good = draft((0, 34))
    wrong = Citation(1, PASSAGE.chunk_id, "pump.md", "", None, "It needs no oil.", 35, 51, None, 0, 34)
    found = judged(Draft(good.answer, "full", "vllm:x", (wrong,)), [PASSAGE], {"other.md": 1}, [])
    assert (found["verbatim"], found["citation_precision"], found["citation_recall"]) == (1.0, 0.0, 0.0)
    assert (found["cited_in_gold"], found["answerable"], found["correct"]) == (0.0, 0.0, 0.0)
    forged = Citation(1, PASSAGE.chunk_id, "pump.md", "", None, "It needs oil.", 35, 51, None, 0, 34)
    assert judged(Draft(good.answer, "full", "vllm:x", (forged,)), [PASSAGE], {}, [])["verbatim"] == 0.0


def test_an_abstention_is_judged_as_one() -> None:
    found = judged(
        Draft("The evidence does not answer.", "abstained", "extractive", ()), [PASSAGE], {"pump.md": 1}, ["x"]
    )
    assert found["citation_precision"] is None
    assert found["citation_recall"] is None
    assert "exact" not in found
    assert (found["answerable"], found["correct"]) == (1.0, 0.0)


def written(confidence: float, correct: float, answerable: float) -> Written:
    figures = {"correct": correct, "answerable": answerable}
    return Written("full", "extractive", confidence, figures, 10.0, 20.0, 0)


def test_risk_by_confidence() -> None:
    answers = [written(0.2, 0, 0), written(0.9, 1, 1), written(0.5, 0, 1), written(0.8, 1, 1)]
    np.testing.assert_allclose(risk_curve(answers), [0, 0, 1 / 3, 1 / 2])
    figures = summary(answers)
    assert figures["abstention_auroc"] == 1.0
    assert figures["risk_coverage_area"] == pytest.approx((0 + 0 + 1 / 3 + 1 / 2) / 4, abs=1e-6)
    assert figures["grounded_full"] == 1.0
    assert (figures["first_token_p50_ms"], figures["answer_p95_ms"]) == (10.0, 20.0)
    assert len(figure_of({"extractive": answers, "vllm": answers}).axes) == 2
