"""The answerer of the line: judge → prompt → engine → lines, each checked before it is shown → draft.

Nothing is asked of a generator when the evidence does not answer. What it writes leaves line by line, as soon as a
line is checked; citations follow their line. Whatever happens to the engine, the caller gets an answer: before the
first line the extractive one, after it what was checked so far; the draft's `degraded` says so.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from dataclasses import dataclass, replace
from typing import Protocol

from blake3 import blake3

from services import deadline
from services.contracts import AnswerEvent, Candidates, Degradation, Draft, Evidence, Passage, Question
from services.evidence.citations import Part
from services.evidence.conflicts import conflicts
from services.evidence.extract import ExtractiveAnswerer, Judged, quoted, refused
from services.generation.checking import Checked, missing
from services.generation.engine import Piece, Refused, Writing
from services.generation.generators import Chosen, Generators
from services.generation.grammar import LineReader, pattern
from services.generation.prompt import RULES, TEMPLATE_TOKENS, Prompt, block, fitting, prompt_of
from tenants.errors import DeadlineExceeded, FathomError, Overloaded, QuotaExceeded
from tenants.scope import TenantScope

MAX_TOKENS = 512  # of an answer whose caller names no limit
COUNT_S = 2.0  # to count the tokens of the evidence
CHARS_PER_TOKEN = 3
RESERVE_S = 1.0  # kept for the extractive answer and the audit, at most a quarter of what is left


class TokenQuota(Protocol):
    """A tenant's generator tokens a minute."""

    def left(self, scope: TenantScope) -> int | None:
        """Tokens that may be spent now; None = no limit."""
        ...

    def spend(self, scope: TenantScope, tokens: int) -> None:
        """Count tokens that were spent."""
        ...


class NoQuota:
    """TokenQuota without limits, for offline callers."""

    def left(self, scope: TenantScope) -> int | None:
        """No limit."""
        return None

    def spend(self, scope: TenantScope, tokens: int) -> None:
        """Nothing is counted."""


_log = logging.getLogger("fathom.generation")
Turn = Callable[[str, float | None], AbstractAsyncContextManager[object]]


def _at_once(_tenant: str, _timeout_s: float | None) -> AbstractAsyncContextManager[object]:
    return nullcontext()


@dataclass
class _Work:
    """One answer in the making."""

    chosen: Chosen
    prompt: Prompt
    shown: tuple[Passage, ...]
    max_tokens: int
    checked: Checked
    reader: LineReader
    expected_tokens: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    written_chars: int = 0
    cut: bool = False
    failure: Degradation | None = None

    @property
    def spent_tokens(self) -> int:
        """As the engine counted; of one that broke off, or was left, as well as can be told from outside."""
        if self.prompt_tokens:
            return self.prompt_tokens + self.completion_tokens
        return self.expected_tokens + math.ceil(self.written_chars / CHARS_PER_TOKEN)


class GroundedAnswerer:
    """contracts.Answerer over a generator, with the extractive answerer beside it.

    `turn` gives a tenant's request its fair turn at the engine (tenant's uid, seconds to wait at most).
    """

    def __init__(
        self,
        extractive: ExtractiveAnswerer,
        generators: Generators,
        quota: TokenQuota | None = None,
        turn: Turn = _at_once,
    ) -> None:
        self._extractive = extractive
        self._generators = generators
        self._quota = quota or NoQuota()
        self._turn = turn

    async def answer(
        self, scope: TenantScope, question: Question, evidence: Evidence, candidates: Candidates
    ) -> AsyncGenerator[AnswerEvent]:
        """Checked lines with their citations, the draft last."""
        judged = await self._extractive.judge(scope, question, evidence, candidates)
        chosen = await self._generators.choose(scope, question)
        work = None
        if chosen is not None and not judged.declined:
            work = await self._prepare(chosen, scope, question, evidence)
        if work is None:
            for event in await asyncio.to_thread(_without, judged, chosen, scope, question, evidence):
                yield event
            return
        async with aclosing(self._write(work, scope, question)) as events:
            async for event in events:
                yield event
        for event in await asyncio.to_thread(_concluded, work, judged, scope, question, evidence):
            yield event

    async def _prepare(
        self, chosen: Chosen, scope: TenantScope, question: Question, evidence: Evidence
    ) -> _Work | None:
        """The prompt over as many passages as the model reads; None when not even the best one fits."""
        config = scope.config
        most = min(question.max_tokens or MAX_TOKENS, chosen.facts.context_tokens // 2)
        room = chosen.facts.context_tokens - most - TEMPLATE_TOKENS
        blocks = [block(number, one, config.sources.authority) for number, one in enumerate(evidence.passages, 1)]
        limit_s = min(COUNT_S, deadline.remaining_s() / 4)
        texts = [f"{RULES}{config.answer.instructions}{question.text}", *blocks]
        try:
            with deadline.within(limit_s):
                async with deadline.enforced():
                    head, *sizes = await chosen.engine.count(texts)
        except FathomError as error:
            self._failed(chosen, error)
            return None
        shown = evidence.passages[: fitting(sizes, room - head)]
        if not shown:
            return None
        prompt = prompt_of(question.text, shown, config.answer.instructions, config.sources.authority)
        checked = Checked(question.text, shown, marks=config.answer.unsupported == "mark")
        tokens = head + sum(sizes[: len(shown)])
        return _Work(chosen, prompt, shown, most, checked, LineReader(prompt.shown), expected_tokens=tokens)

    def _failed(self, chosen: Chosen, error: FathomError) -> Degradation:
        """What to call a failure; only an engine that is gone is asked for anew before it is chosen again."""
        if not isinstance(error, (Overloaded, DeadlineExceeded, QuotaExceeded, Refused)):
            self._generators.lost(chosen.engine)
        return "generator_timeout" if isinstance(error, DeadlineExceeded) else "generator_unavailable"

    async def _write(self, work: _Work, scope: TenantScope, question: Question) -> AsyncGenerator[AnswerEvent]:
        """The lines that hold, as they come; what ends the engine early is noted in `work`."""
        left, reserved = deadline.remaining_s(), 0
        timeout_s = left - min(RESERVE_S, left / 4) if math.isfinite(left) else math.inf
        try:
            if (allowed := self._quota.left(scope)) is not None and allowed <= 0:
                raise QuotaExceeded("the tenant's generator tokens of this minute are spent")
            reserved = work.expected_tokens + work.max_tokens
            self._quota.spend(scope, reserved)
            async with self._turn(scope.uid, None if math.isinf(timeout_s) else timeout_s):
                spent = left - deadline.remaining_s() if math.isfinite(left) else 0.0
                pieces = work.chosen.engine.write(_writing(work, scope, question), max(0.0, timeout_s - spent))
                async with aclosing(pieces) as stream:
                    async for piece in stream:
                        for event in _shown(work, piece):
                            yield event
        except FathomError as error:
            work.failure = self._failed(work.chosen, error)
        except Exception:  # noqa: BLE001 - the outermost frame of a model's work
            # Whatever a model wrote or a server sent: the caller gets an answer.
            _log.exception("a generated answer failed")
            work.failure = "generator_unavailable"
        finally:
            self._quota.spend(scope, work.spent_tokens - reserved if reserved else 0)


def _writing(work: _Work, scope: TenantScope, question: Question) -> Writing:
    return Writing(
        system=work.prompt.system,
        user=work.prompt.user,
        pattern=pattern(work.prompt.shown),
        max_tokens=work.max_tokens,
        temperature=question.temperature or 0.0,
        salt=blake3(scope.uid.encode()).hexdigest()[:32],
        adapter=work.chosen.adapter,
    )


def _shown(work: _Work, piece: Piece) -> list[AnswerEvent]:
    work.prompt_tokens = piece.prompt_tokens or work.prompt_tokens
    work.completion_tokens = piece.completion_tokens or work.completion_tokens
    work.written_chars += len(piece.text)
    work.cut = work.cut or piece.cut
    parts = [part for line in work.reader.feed(piece.text) if (part := work.checked.release(line))]
    return [event for part in parts for event in _of(part)]


def _of(part: Part) -> list[AnswerEvent]:
    cited = [AnswerEvent("citation", citation=citation) for citation in part.citations]
    return [AnswerEvent("token", text=part.text), *cited]


def _without(
    judged: Judged, chosen: Chosen | None, scope: TenantScope, question: Question, evidence: Evidence
) -> list[AnswerEvent]:
    """No generator, nothing for it to say, or evidence that it cannot read."""
    if judged.declined:
        return refused(judged, chosen.name if chosen else "extractive")
    events = quoted(judged, scope, question, evidence)
    return events if chosen is None else _degraded(events, "generator_unavailable")


def _concluded(
    work: _Work, judged: Judged, scope: TenantScope, question: Question, evidence: Evidence
) -> list[AnswerEvent]:
    """The last line, the conflicts, what is missing, and the draft."""
    checked = work.checked
    ended = () if work.failure else work.reader.rest()  # an engine that broke off left half a line
    parts = [part for line in ended if (part := checked.release(line))]
    if not checked.text and work.failure is not None:
        return _counted(_degraded(quoted(judged, scope, question, evidence), work.failure), work)
    if not checked.supported and not checked.text:
        return _counted(refused(judged, work.chosen.name), work)
    disagree = conflicts(question.text, work.shown, scope.config)
    parts += checked.disclose(disagree)
    partial = bool(checked.unsupported or work.failure or work.reader.malformed)
    if partial and (lacking := missing(question.text, work.shown)):
        parts.append(checked.say(f"The evidence says nothing about: {', '.join(lacking)}."))
    draft = Draft(
        answer=checked.text,
        grounded="partial" if partial else "full",
        generator=work.chosen.name,
        citations=tuple(checked.citations),
        conflicts=tuple(one.note for one in disagree),
        degraded=tuple(dict.fromkeys((*judged.degraded, *((work.failure,) if work.failure else ())))),
        abstain_score=judged.abstain_score,
        prompt_version=work.prompt.version,
    )
    events = [event for part in parts for event in _of(part)]
    return _counted([*events, AnswerEvent("answer", draft=draft)], work)


def _counted(events: list[AnswerEvent], work: _Work) -> list[AnswerEvent]:
    """The draft with what the generator read and wrote."""
    *before, last = events
    assert last.draft is not None
    draft = replace(
        last.draft,
        prompt_tokens=work.prompt_tokens,
        completion_tokens=work.completion_tokens,
        prompt_version=work.prompt.version,
        cut=work.cut,
    )
    return [*before, replace(last, draft=draft)]


def _degraded(events: list[AnswerEvent], word: Degradation) -> list[AnswerEvent]:
    *before, last = events
    assert last.draft is not None
    draft = replace(last.draft, degraded=tuple(dict.fromkeys((*last.draft.degraded, word))))
    return [*before, replace(last, draft=draft)]
