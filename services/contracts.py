"""What crosses the steps of the ask line: frozen values, and one Protocol per step. Pure.

Everywhere: scores are higher-is-better, ranks start at 1 (0 = the list does not hold it), times are
milliseconds, spans are half-open character offsets into the parsed document.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from tenants.scope import TenantScope

if TYPE_CHECKING:
    from services.experiments.interleaved import Interleaved
    from services.reranking.trace import Trace

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Bool = npt.NDArray[np.bool_]

Mode = Literal["hybrid", "dense", "sparse"]
RerankChoice = Literal["auto", "always", "never"]
Decision = Literal["skipped", "partial", "full", "cached", "unavailable"]
Grounded = Literal["full", "partial", "abstained"]
Degradation = Literal[
    "reranker_unavailable",
    "reranker_timeout",
    "generator_unavailable",
    "generator_timeout",
    "index_stale",
    "partial_candidates",
]
FilterOp = Literal["eq", "ne", "lt", "lte", "gt", "gte", "in", "exists"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A leaf of a filter: `field` is one of the contract's names, already validated."""

    field: str
    op: FilterOp
    value: str | float | int | bool | tuple[str | float | int | bool, ...] | None


@dataclass(frozen=True, slots=True)
class Junction:
    """`and` / `or` over at least one part, `not` over exactly one."""

    op: Literal["and", "or", "not"]
    parts: tuple[Filter, ...]


Filter = Comparison | Junction


@dataclass(frozen=True, slots=True)
class Question:
    """One validated question. `depth` caps the reranked candidates; `evidence` the passages shown."""

    text: str
    top_k: int = 10
    mode: Mode = "hybrid"
    rerank: RerankChoice = "auto"
    depth: int | None = None
    filter: Filter | None = None
    collections: tuple[str, ...] | None = None
    group_by: Literal["document"] | None = None
    session: str | None = None
    user: str | None = None
    explain: bool = False
    generator: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """Where a chunk stands in its document."""

    char_start: int
    char_end: int
    page: int | None = None
    t_start_s: float | None = None


@dataclass(frozen=True, slots=True)
class Passage:
    """One chunk as stored; `text` is verbatim."""

    chunk_id: str
    document_id: str
    title: str
    heading: str
    text: str
    collection: str
    ordinal: int
    span: Span
    url: str | None
    updated_at: str | None
    metadata: Mapping[str, Any]
    tokens: int
    token_ids: bytes = b""  # title, heading and text for a cross-encoder, see `Scored`; b"" = not stored
    owner: str = ""  # of a shared collection: its owner's uid, "/", its name; "" = the asker's own


@dataclass(frozen=True, slots=True)
class Candidates:
    """The union of both legs' lists, one row a chunk, in no order that matters.

    passages  n chunks
    dense     (n,) float32 cosine similarity in [-1, 1]; exact for every row, in the dense list or not
    sparse    (n,) float32 BM25, 0 where the full-text list does not hold the row
    dense_rank, sparse_rank  (n,) int32, 1-based, 0 = not in that list
    vectors   (n, d) float32 unit rows
    query_vector (d,) float32 unit
    legs      the lists that answered; one missing is the degradation `partial_candidates`
    unsearched shared collections that the asker's configuration names and that could not be read: also
              `partial_candidates`
    """

    passages: tuple[Passage, ...]
    dense: Float32
    sparse: Float32
    dense_rank: Int32
    sparse_rank: Int32
    vectors: Float32
    query_vector: Float32
    legs: tuple[str, ...] = ("dense", "sparse")
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    unsearched: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fusion:
    """The first stage's one order.

    score (n,) float32 in [0, 1]: weight·minmax(dense) + (1 − weight)·minmax(sparse).
    order (n,) int32: row numbers, best first. rank (n,) int32: 1-based.
    `source` says where the weight came from: labels | corpus | default | mode.
    """

    score: Float32
    order: Int32
    rank: Int32
    weight: float
    source: str


@dataclass(frozen=True, slots=True)
class Ranked:
    """The final order and how it came about; `order` holds row numbers of the candidates, best first.

    score (n,) float32 is what `order` sorts by; `rerank` (n,) float32 raw logits, NaN = not scored;
    `probability` (n,) float32 calibrated, NaN = not calibrated. `trace` is how the order came about, None where no
    policy was asked.
    """

    order: Int32
    score: Float32
    rerank: Float32
    probability: Float32
    decision: Decision
    reason: str
    uncertainty: float | None
    pairs: int = 0
    pairs_cached: int = 0
    model: str | None = None
    certificate: str | None = None
    degraded: tuple[Degradation, ...] = ()
    trace: Trace | None = None
    interleaved: Interleaved | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """The passages shown to the answerer, best first; `rows` are their candidate rows.

    `probabilities` are the calibrated ones of all candidates that a cross-encoder scored, falling; () = none was.
    """

    passages: tuple[Passage, ...]
    rows: tuple[int, ...]
    scores: tuple[float, ...]
    dropped: Mapping[str, str] = field(default_factory=dict)
    probabilities: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Citation:
    """`quote == passage.text[quote_start:quote_end]`; `answer_start/_end` span the cited sentence."""

    marker: int
    chunk_id: str
    document_id: str
    title: str
    url: str | None
    quote: str
    char_start: int
    char_end: int
    page: int | None
    answer_start: int
    answer_end: int


@dataclass(frozen=True, slots=True)
class ConflictNote:
    """Two shown chunks that disagree, and which one the tenant's rules prefer."""

    between: tuple[str, str]
    about: str
    preferred: str | None
    why: Literal["newer", "more authoritative", "undecided"]


@dataclass(frozen=True, slots=True)
class Draft:
    """What an answerer wrote, checked: every marker has a citation and the reverse."""

    answer: str
    grounded: Grounded
    generator: str
    citations: tuple[Citation, ...]
    conflicts: tuple[ConflictNote, ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    degraded: tuple[Degradation, ...] = ()
    abstain_score: float | None = None
    prompt_version: str | None = None
    cut: bool = False  # the generator was ended by the limit of tokens


@dataclass(frozen=True, slots=True)
class AnswerEvent:
    """One step of a stream: `token` carries text, `citation` a citation, `answer` the whole draft."""

    kind: Literal["token", "citation", "answer"]
    text: str = ""
    citation: Citation | None = None
    draft: Draft | None = None


class Retriever(Protocol):
    """Embeds the question and reads both legs at the scope's pinned version."""

    async def retrieve(self, scope: TenantScope, question: Question) -> Candidates:
        """Raises `DeadlineExceeded`, `Unavailable`; an empty index gives no candidates."""
        ...

    async def embed(self, model: str, texts: Sequence[str]) -> Float32:
        """(n, d) float32 unit rows; `model` is an embedder reference."""
        ...


class Reranker(Protocol):
    """Decides whether, how deep and with which model to rerank, and does it."""

    async def rerank(self, scope: TenantScope, question: Question, candidates: Candidates, fusion: Fusion) -> Ranked:
        """Never raises for an unavailable model: that is a degradation in the value."""
        ...


@dataclass(frozen=True, slots=True)
class Scored:
    """What one cross-encoder said of some chunks of one question, in the order in which they were given.

    logits (n,) float32 raw, higher = more relevant; cached (n,) bool, True = an earlier question paid for it.
    `revision` is the model's that scored: an alias may move between two calls of one question.
    """

    logits: Float32
    cached: Bool
    elapsed_ms: float
    revision: str = ""


@dataclass(frozen=True, slots=True)
class CrossEncoderFacts:
    """A served cross-encoder: what the policy and the audit must know of it.

    `tokenizer` is the digest that decides whether a chunk's stored `token_ids` (little-endian uint32, no special
    tokens) are this model's; `cost_ms[i]` is the measured time of one pair of at most `cost_tokens[i]` tokens
    (ascending) in a full batch; `gflop` is the work of one pair of `cost_tokens[i]` tokens. `languages` are those
    that it was trained for, () = any.
    """

    reference: str
    revision: str
    dtype: str
    tokenizer: str
    cost_tokens: tuple[int, ...]
    cost_ms: tuple[float, ...]
    gflop: tuple[float, ...]
    languages: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What `rerank.model` shows: `reference@revision`, the revision's first eight characters."""
        return f"{self.reference}@{self.revision[:8]}"


class PairScorer(Protocol):
    """Scores query-chunk pairs with a named cross-encoder; looks into the cache first."""

    async def facts(self, scope: TenantScope, reference: str) -> CrossEncoderFacts:
        """Raises `Unavailable` while the model is not there, `InvalidInput` for one that cannot be loaded.

        The scope says which of the tenant's roles the reference has, and so which deployment serves it.
        """
        ...

    async def score(
        self, scope: TenantScope, reference: str, query: str, passages: Sequence[Passage], partial: bool = False
    ) -> Scored:
        """Raises `Unavailable`, `Overloaded`, `DeadlineExceeded`; a long pair is windowed, never cut, never refused.

        With `partial` a deadline that passes gives what was computed by then and NaN for the rest; it is raised only
        when that is nothing.
        """
        ...


class Answerer(Protocol):
    """Writes a cited answer from the evidence, or abstains."""

    def answer(
        self, scope: TenantScope, question: Question, evidence: Evidence, candidates: Candidates
    ) -> AsyncGenerator[AnswerEvent]:
        """Yields tokens and citations in reading order, last one `answer` event with the whole draft."""
        ...


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, for the audit: the request's id and the key that was used (never its secret)."""

    request_id: str
    key_id: str


@dataclass(frozen=True, slots=True)
class AuditText:
    """A text beside the chain: the chain holds its salted digest, so it can be erased or expire.

    `slot` names it in its record: query, answer, quote.1 …; `document_id` owns a quote, None = the caller's.
    """

    slot: str
    text: str
    document_id: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an experiment reads of a question, kept in one small row that is durable with the question's record.

    `experiment` and `arm` None = none was running on the unit; the row is its past then. `unit` is a digest.
    `values`: kind (search | answer), ms, rerank_ms, pairs, tokens, abstained, degraded, shown (chunk ids, best first);
    teams of the shown ones where the list was interleaved.
    """

    experiment: str | None
    arm: str | None
    unit: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One question's record. `facts` is JSON: ids, digests and figures, no text of a document or a question.

    `sources` are the documents whose text went into the answer: erasing one erases the answer's text.
    """

    query_id: str
    at_ms: int
    facts: Mapping[str, Any]
    texts: tuple[AuditText, ...] = ()
    sources: tuple[str, ...] = ()
    outcome: Outcome | None = None


class AuditLog(Protocol):
    """Keeps one record per question."""

    async def append(self, scope: TenantScope, record: AuditRecord) -> None:
        """Returns once the record is durable; raises `Unavailable` when it cannot be made so."""
        ...
