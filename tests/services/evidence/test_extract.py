"""The extractive answerer: contracts that hold for any evidence, and answers that a person would expect."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.contracts import AnswerEvent, Draft, Evidence, Float32, Question
from services.evidence.extract import REFUSAL, ExtractiveAnswerer
from services.evidence.question import asked, holds
from services.evidence.scoring import MAX_CHARS, MAX_UNITS, sentences, wanted
from services.evidence.selection import select
from services.reranking.first_stage import FirstStage
from services.retrieval.fusion import FusionProfile, fuse
from tenants.errors import Unavailable
from tests import fakes

TOWER = (
    "The Eiffel Tower stands on the Champ de Mars in Paris. It is named after the engineer Gustave Eiffel. "
    "The tower was finished in March 1889. It is 330 metres tall."
)
FRUIT = "Bananas grow in bunches. They are yellow when ripe. Apples grow on trees in cool countries."


def ask(text: str, *passages: str, max_tokens: int | None = None, **config: object) -> list[AnswerEvent]:
    async def run() -> list[AnswerEvent]:
        retriever = fakes.FakeRetriever([fakes.passage(n, one) for n, one in enumerate(passages)])
        scope, question = fakes.scope(**config), Question(text, max_tokens=max_tokens)
        found = await retriever.retrieve(scope, question)
        fusion = fuse(found, "hybrid", FusionProfile())
        ranked = await FirstStage().rerank(scope, question, found, fusion)
        evidence = select(question, scope, found, ranked)
        return [event async for event in ExtractiveAnswerer(retriever).answer(scope, question, evidence, found)]

    return asyncio.run(run())


def draft_of(events: list[AnswerEvent]) -> Draft:
    assert events[-1].kind == "answer"
    assert events[-1].draft is not None
    return events[-1].draft


def test_the_sentence_that_answers_is_quoted() -> None:
    draft = draft_of(ask("When was the Eiffel Tower finished?", TOWER, FRUIT))
    assert draft.citations[0].quote == "The tower was finished in March 1889."
    assert draft.grounded == "full"
    assert draft.generator == "extractive"


def test_it_declines_what_the_evidence_does_not_hold() -> None:
    draft = draft_of(ask("Which enzyme unwinds the double helix during replication?", TOWER, FRUIT))
    assert draft == Draft(REFUSAL, "abstained", "extractive", (), abstain_score=draft.abstain_score)
    assert "does not answer" in draft.answer


def test_a_tenant_may_forbid_declining() -> None:
    draft = draft_of(ask("Which enzyme unwinds the double helix?", TOWER, FRUIT, answer={"abstain": "never"}))
    assert draft.citations


def test_nothing_indexed_is_declined() -> None:
    events = ask("Anything?")
    assert [event.kind for event in events] == ["token", "answer"]
    assert draft_of(events).grounded == "abstained"


class WithoutEmbedder(fakes.FakeRetriever):
    async def embed(self, model: str, texts: Sequence[str]) -> Float32:
        raise Unavailable("the embedder is away")


def ask_without_embedder(text: str, query: str, *passages: str) -> Draft:
    async def run() -> Draft:
        scope, question = fakes.scope(), Question(text)
        stored = [fakes.passage(n, one) for n, one in enumerate(passages)]
        found = await fakes.FakeRetriever(stored).retrieve(scope, question)
        if query == "was not embedded":
            nothing = np.zeros_like(found.dense)
            found = replace(found, query_vector=0 * found.query_vector, dense=nothing, legs=("sparse",))
        ranked = await FirstStage().rerank(scope, question, found, fuse(found, "hybrid", FusionProfile()))
        evidence = select(question, scope, found, ranked)
        return draft_of(
            [event async for event in ExtractiveAnswerer(WithoutEmbedder()).answer(scope, question, evidence, found)]
        )

    return asyncio.run(run())


@pytest.mark.parametrize("query", ["was embedded", "was not embedded"])
def test_without_the_embedder_the_words_decide_and_the_draft_says_so(query: str) -> None:
    draft = ask_without_embedder("When was the Eiffel Tower finished?", query, TOWER, FRUIT)
    assert draft.citations[0].quote == "The tower was finished in March 1889."
    assert draft.degraded == ("generator_unavailable",)
    unknown = ask_without_embedder("Which enzyme unwinds the double helix?", query, TOWER, FRUIT)
    assert unknown.grounded == "abstained"


WORDS = "tower Eiffel tall [1] x[0] Paris. 1889. bananas。 \n\n - # ``` what is the ? 塔 | a"
words = st.sampled_from(WORDS.split(" "))
texts = st.lists(words, max_size=40).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(texts, st.lists(texts, max_size=3), st.sampled_from(["never", "calibrated"]))
def test_markers_citations_and_stream_agree_for_any_text(question: str, passages: list[str], abstain: str) -> None:
    events = ask(question, *passages, answer={"abstain": abstain})
    draft = draft_of(events)
    assert "".join(event.text for event in events if event.kind == "token") == draft.answer
    assert tuple(event.citation for event in events if event.kind == "citation") == draft.citations
    markers = [int(mark) for mark in re.findall(r"\[(\d+)\]", draft.answer)]
    assert markers == [cite.marker for cite in draft.citations]
    by_id = {fakes.passage(n, one).chunk_id: one for n, one in enumerate(passages)}
    assert all(by_id[cite.chunk_id][cite.char_start : cite.char_end] == cite.quote for cite in draft.citations)
    assert (draft.grounded == "abstained") == (not draft.citations)


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("When did it open?", "date"),
        ("In what year did it open?", "date"),
        ("How many people live there?", "number"),
        ("Who wrote it?", "person"),
        ("Where is it?", "place"),
        ("Why does it rain?", "reason"),
        ("How do I read a file?", "procedure"),
        ("What is (are) Adult Acute Lymphoblastic Leukemia ?", "definition"),
        ("Are attributes stored on disk?", "yes_no"),
        ("Which band won?", "name"),
        ("日本の首都は？", "other"),
    ],
)
def test_what_a_question_asks_for(question: str, kind: str) -> None:
    assert asked(question) == kind


def test_a_sentence_holds_what_is_asked_for() -> None:
    assert holds("date", "It opened in May 1889.", "") == 1.0
    assert holds("date", "It opened.", "") == 0.0
    assert holds("person", "It was built by Gustave Eiffel.", "Who built it?") == 1.0
    assert holds("person", "It was built by Gustave Eiffel.", "Who is Gustave Eiffel?") == 0.0
    assert holds("other", "x", "") == 0.5


@pytest.mark.parametrize(("limit", "sentences"), [(None, 3), (1_000, 3), (16, 2), (15, 1), (1, 1)])
def test_max_tokens_bounds_the_words_of_whole_sentences(limit: int | None, sentences: int) -> None:
    steps = (
        "To water a cactus pour water on the soil. Then let all the water drain off. Then wait until the soil is dry."
    )
    draft = draft_of(ask("How do I water a cactus?", steps, max_tokens=limit))
    assert len(draft.citations) == sentences
    assert all(cite.quote in steps for cite in draft.citations)


def test_the_sentences_that_are_embedded_are_few_and_short_whatever_the_evidence_holds() -> None:
    many = " ".join(f"The tower {number} was finished in March 1889." for number in range(200))
    code = "\n\n".join(f"def tower_{number}(metres):\n    return [{'metres, ' * 60}]" for number in range(40))
    for text in (many, code):
        passage = fakes.passage(0, text)
        found = asyncio.run(fakes.FakeRetriever([passage]).retrieve(fakes.scope(), Question("tower")))
        evidence = Evidence((passage,), (0,), (1.0,), {})
        heads = [one.head for one in sentences(evidence, wanted("When was the tower finished?", found))]
        assert 0 < len(heads) <= MAX_UNITS
        assert sum(map(len, heads)) <= MAX_CHARS
