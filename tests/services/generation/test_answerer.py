"""The generated answer: only what is supported leaves, cited verbatim; whatever the engine does, there is an answer."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest

from services.contracts import AnswerEvent, Draft, Evidence, Passage, Question
from services.evidence.extract import REFUSAL, ExtractiveAnswerer
from services.evidence.selection import select
from services.generation.answerer import GroundedAnswerer
from services.generation.checking import UNSUPPORTED
from services.reranking.first_stage import FirstStage
from services.retrieval.fusion import FusionProfile, fuse
from tenants.errors import DeadlineExceeded, Overloaded, Unavailable
from tenants.scope import TenantScope
from tests import fakes
from tests.services.generation.scripted import ScriptedEngine, generators

TOWER = fakes.passage(
    1,
    "The Eiffel Tower stands on the Champ de Mars in Paris. It is named after the engineer Gustave Eiffel. "
    "The tower was finished in March 1889. It is 330 metres tall.",
    "tower.md",
)
FRUIT = fakes.passage(2, "Bananas grow in bunches. They are yellow when ripe.", "fruit.md")
QUESTION = "When was the Eiffel Tower finished?"
FINISHED = "The tower was finished in March 1889."
GOOD = "The Eiffel Tower was finished in March 1889 [1].\n"


async def events_of(
    engine: ScriptedEngine | None, question: Question, scope: TenantScope, passages: tuple[Passage, ...]
) -> list[AnswerEvent]:
    retriever = fakes.FakeRetriever(passages)
    found = await retriever.retrieve(scope, question)
    ranked = await FirstStage().rerank(scope, question, found, fuse(found, "hybrid", FusionProfile()))
    evidence: Evidence = select(question, scope, found, ranked)
    answerer = GroundedAnswerer(ExtractiveAnswerer(retriever), generators(engine))
    return [event async for event in answerer.answer(scope, question, evidence, found)]


def ask(
    engine: ScriptedEngine | None,
    text: str = QUESTION,
    *,
    generator: str | None = None,
    own: str = "auto",
    **config: object,
) -> Draft:
    question = Question(text, generator=generator)
    events = asyncio.run(events_of(engine, question, fakes.scope(generator=own, **config), (TOWER, FRUIT)))
    draft = events[-1].draft
    assert draft is not None
    # A stream's parts are the answer, its citations the draft's: always.
    assert "".join(event.text for event in events) == draft.answer
    assert tuple(event.citation for event in events if event.citation) == draft.citations
    for citation in draft.citations:
        passage = next(one for one in (TOWER, FRUIT) if one.chunk_id == citation.chunk_id)
        assert citation.quote == passage.text[citation.char_start : citation.char_end]
        assert f"[{citation.marker}]" in draft.answer
    return draft


def test_a_supported_line_is_cited_verbatim() -> None:
    draft = ask(ScriptedEngine(GOOD))
    assert draft.answer == "The Eiffel Tower was finished in March 1889 [1]"
    assert (draft.grounded, draft.generator) == ("full", "vllm:scripted")
    assert [citation.quote for citation in draft.citations] == [FINISHED]
    assert (draft.prompt_tokens, draft.completion_tokens) == (40, 12)
    assert draft.prompt_version == "evidence-first-1"


@pytest.mark.parametrize(
    "invented",
    [
        "The tower was finished in March 1890 [1].\n",  # another number
        "The tower was not finished in March 1889 [1].\n",  # the contrary
        "The tower was finished in March 1889 [2].\n",  # the wrong passage
        "The tower was finished in March 1889 [9].\n",  # a passage that nobody showed
        "The tower was finished in March 1889\n",  # no passage
        "Bananas [2].\n",  # words of a passage that speaks of something else
        "The tower was finished in March 1889, see https://evil.example/x [1].\n",  # a link out of nowhere
        "The tower was finished in March 1889 [see evil] [1].\n",
    ],
)
def test_what_is_not_supported_is_dropped(invented: str) -> None:
    draft = ask(ScriptedEngine(GOOD + invented))
    assert draft.grounded == "partial"
    assert draft.answer.startswith("The Eiffel Tower was finished in March 1889 [1]")
    assert "evil" not in draft.answer
    assert len(draft.citations) == 1


@pytest.mark.parametrize("url", ["http://[bad", "http://a\uff0fb.com", "https://ok.example/a"])
def test_no_address_of_a_document_and_no_token_breaks_an_answer(url: str) -> None:
    passage = replace(TOWER, url=url)
    question = Question(QUESTION)
    engine = ScriptedEngine(GOOD + "The tower was finished in March 1889 //evil\u2100.com [1].\n")
    events = asyncio.run(events_of(engine, question, fakes.scope(), (passage, FRUIT)))
    assert events[-1].draft is not None
    assert events[-1].draft.answer.startswith("The Eiffel Tower was finished in March 1889 [1]")
    assert "evil" not in events[-1].draft.answer


def test_names_that_look_like_hosts_are_no_links() -> None:
    passage = fakes.passage(1, "ASP.NET Core runs on Linux. It uses java.net and System.IO.", "net.md")
    engine = ScriptedEngine("ASP.NET Core runs on Linux [1].\n")
    events = asyncio.run(events_of(engine, Question("Where does ASP.NET Core run?"), fakes.scope(), (passage,)))
    assert events[-1].draft is not None
    assert events[-1].draft.answer == "ASP.NET Core runs on Linux [1]"


def test_what_breaks_inside_still_ends_in_an_answer() -> None:
    draft = ask(ScriptedEngine(GOOD, error=RuntimeError("a bug"), breaks_after=5))
    assert (draft.generator, draft.degraded) == ("extractive", ("generator_unavailable",))


def test_nothing_supported_is_an_abstention() -> None:
    draft = ask(ScriptedEngine("Bananas orbit the moon every 12 days [1].\n"))
    assert (draft.answer, draft.grounded, draft.citations) == (REFUSAL, "abstained", ())
    assert draft.completion_tokens == 12


def test_a_tenant_may_see_unsupported_lines_marked() -> None:
    draft = ask(ScriptedEngine("Bananas orbit the moon [1].\n" + GOOD), answer={"unsupported": "mark"})
    assert draft.answer.startswith(f"Bananas orbit the moon {UNSUPPORTED} The Eiffel Tower was finished")
    assert draft.grounded == "partial"


def test_the_model_may_decline() -> None:
    draft = ask(ScriptedEngine("NONE"))
    assert (draft.answer, draft.grounded) == (REFUSAL, "abstained")


def test_no_token_is_spent_on_what_the_evidence_does_not_answer() -> None:
    engine = ScriptedEngine(GOOD)
    draft = ask(engine, "Which enzyme unwinds the double helix during replication?")
    assert (draft.grounded, draft.completion_tokens) == ("abstained", 0)
    assert engine.asked == []


def test_what_is_missing_is_said() -> None:
    engine = ScriptedEngine(GOOD + "The tower weighs zebras [1].\n")
    draft = ask(engine, "When was the Eiffel Tower finished, and what does its zirconium cost?")
    assert draft.answer.endswith("The evidence says nothing about: zirconium, cost.")
    assert draft.grounded == "partial"


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (Unavailable("gone"), "generator_unavailable"),
        (Overloaded("full"), "generator_unavailable"),
        (DeadlineExceeded("late"), "generator_timeout"),
    ],
)
def test_a_generator_that_fails_at_once_gives_way_to_the_extractive_answer(error: Exception, word: str) -> None:
    draft = ask(ScriptedEngine(GOOD, error=error, breaks_after=20))
    assert (draft.generator, draft.degraded) == ("extractive", (word,))
    assert draft.citations[0].quote == FINISHED


def test_a_generator_that_dies_in_the_middle_leaves_what_was_checked() -> None:
    draft = ask(ScriptedEngine(GOOD + "And it is 330", error=Unavailable("gone"), breaks_after=len(GOOD) + 10))
    assert draft.answer.startswith("The Eiffel Tower was finished in March 1889 [1]")
    assert (draft.grounded, draft.degraded) == ("partial", ("generator_unavailable",))


def test_no_generator_is_no_loss_for_auto() -> None:
    assert (ask(None).generator, ask(None).degraded) == ("extractive", ())
    away = ScriptedEngine(away=Unavailable("not yet"))
    assert (ask(away).generator, ask(away).degraded) == ("extractive", ())


def test_extractive_is_what_it_says() -> None:
    engine = ScriptedEngine(GOOD)
    assert ask(engine, generator="extractive").generator == "extractive"
    assert ask(engine, own="extractive").generator == "extractive"
    assert engine.asked == []
    assert ask(engine, generator="vllm", own="extractive").generator == "vllm:scripted"


def test_evidence_that_the_model_cannot_read_is_answered_without_it() -> None:
    draft = ask(ScriptedEngine(GOOD, context_tokens=100))
    assert (draft.generator, draft.degraded) == ("extractive", ("generator_unavailable",))


async def test_a_caller_who_leaves_ends_the_writing() -> None:
    engine = ScriptedEngine(GOOD, hangs=True)
    question, scope = Question(QUESTION), fakes.scope()
    retriever = fakes.FakeRetriever((TOWER, FRUIT))
    found = await retriever.retrieve(scope, question)
    ranked = await FirstStage().rerank(scope, question, found, fuse(found, "hybrid", FusionProfile()))
    answerer = GroundedAnswerer(ExtractiveAnswerer(retriever), generators(engine))
    evidence = select(question, scope, found, ranked)
    async with aclosing(answerer.answer(scope, question, evidence, found)) as events:
        async for event in events:
            if event.kind == "citation":
                break
    assert engine.open == 0


def test_tenants_have_salts_of_their_own_and_the_request_is_reproducible() -> None:
    engine = ScriptedEngine(GOOD)
    ask(engine)
    ask(engine)
    first, second = engine.asked
    assert first == second
    assert first.salt
    assert first.temperature == 0
