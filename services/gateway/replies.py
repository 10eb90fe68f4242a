"""What callers get, as schemas for /openapi.json. The routes send plain JSON; a fuzz test holds them to these.

Bodies are not run through these models on the way out: a validated copy of ten passages costs more than the
search. `tests/services/gateway` and `benchmarks/fuzz_api.py` check every answer against the schema instead.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Reply(BaseModel):
    """Unknown members may be added later, as in every HTTP API."""

    model_config = ConfigDict(extra="allow")


class FieldProblem(Reply):
    """One bad field; `pointer` is an RFC 6901 JSON pointer."""

    pointer: str
    detail: str


class Problem(Reply):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    retryable: bool
    errors: list[FieldProblem] | None = None


class OpenAIErrorBody(Reply):
    """OpenAI's error."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAIError(Reply):
    """OpenAI's envelope."""

    error: OpenAIErrorBody


class SpanReply(Reply):
    """Half-open character offsets into the parsed document; `page` from 1."""

    char_start: int
    char_end: int
    page: int | None
    t_start_s: float | None


class Hit(Reply):
    """One chunk; higher scores are better, ranks start at 1, null = that list does not hold it."""

    rank: int = Field(ge=1)
    chunk_id: str
    document_id: str
    collection: str
    title: str
    text: str
    span: SpanReply
    score: float
    scores: dict[str, float | None]
    ranks: dict[str, int | None]
    metadata: dict[str, Any]


class Rerank(Reply):
    """What was decided about reranking, why, and what it cost."""

    decision: Literal["skipped", "partial", "full", "cached", "unavailable"]
    reason: str
    uncertainty: float | None
    pairs: int
    pairs_cached: int
    candidates: int
    model: str | None
    certificate: str | None


class SearchResult(Reply):
    """`POST …/search`."""

    query_id: str
    index_version: int
    results: list[Hit]
    rerank: Rerank
    degraded: list[
        Literal[
            "reranker_unavailable",
            "reranker_timeout",
            "generator_unavailable",
            "generator_timeout",
            "index_stale",
            "partial_candidates",
        ]
    ]
    variant: str | None
    timings_ms: dict[str, float]


class Citation(Reply):
    """`quote` is verbatim text of the stored chunk."""

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


class Conflict(Reply):
    """Two shown chunks that disagree."""

    between: list[str]
    about: str
    preferred: str | None
    why: Literal["newer", "more authoritative", "undecided"]


class Usage(Reply):
    """Tokens that a generator read and wrote; 0 for the extractive answerer."""

    prompt_tokens: int
    completion_tokens: int


class Answer(SearchResult):
    """`POST …/query`; `results` are the passages that the answerer was shown."""

    answer: str
    grounded: Literal["full", "partial", "abstained"]
    generator: str
    citations: list[Citation]
    conflicts: list[Conflict]
    usage: Usage
    finish_reason: Literal["stop", "length"]


class DocumentReply(Reply):
    """One document of the published version."""

    id: str
    title: str
    collection: str
    chunks: int
    digest: str
    updated_at: str | None
    url: str | None
    metadata: dict[str, Any]


class DocumentPage(Reply):
    """`next_cursor` is null on the last page."""

    documents: list[DocumentReply]
    next_cursor: str | None


class FailedDocument(Reply):
    """A document that was not taken in, and why."""

    document_id: str
    code: str
    message: str


class Indexed(Reply):
    """`POST …/documents`."""

    indexed: int
    unchanged: int
    failed: list[FailedDocument]
    index_version: int


class IndexVersion(Reply):
    """The version that is now published."""

    index_version: int


class Erased(IndexVersion):
    """`POST …/erase`."""

    erased: int


class Version(Reply):
    """A published index version."""

    index_version: int
    published_at: str
    documents: int
    chunks: int
    tokens: int
    fingerprint: str
    embedder: str
    current: bool


class Versions(Reply):
    """Newest first."""

    versions: list[Version]


class JobAccepted(Reply):
    """202: the job is queued."""

    job_id: str


class JobCounts(Reply):
    """Documents by what the plan and the parser made of them."""

    new: int
    changed: int
    unchanged: int
    deleted: int
    failed: int


class JobReply(Reply):
    """One job; `rate` (chunks/s) and `eta_s` are null until it reports them; `plan` is a dry run's figures."""

    job_id: str
    state: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    stage: str
    documents: JobCounts
    chunks: int
    tokens: int
    rate: float | None
    eta_s: float | None
    index_version: int | None
    plan: dict[str, float] | None
    mlflow_run_id: str | None
    error: str | None
    created_at: str
    started_at: str | None
    finished_at: str | None


class JobErrorReply(FailedDocument):
    """One row of a job's error table."""

    source: str


class JobDetail(JobReply):
    """One job with a page of its errors."""

    errors: list[JobErrorReply]
    next_error_cursor: str | None


class JobPage(Reply):
    """Newest first."""

    jobs: list[JobReply]
    next_cursor: str | None


class AuditReply(Reply):
    """What was asked, found, decided and answered; text only while it is kept."""

    query_id: str


class TenantReply(Reply):
    """A tenant; `config` holds every key with its value."""

    tenant: str
    uid: str
    state: Literal["active", "suspended", "deleting"]
    created_at: str
    config: dict[str, Any]


class TenantDetail(TenantReply):
    """`calibration`: the newest one's certificate and each group's drift; null while there is neither."""

    calibration: dict[str, Any] | None


class TenantCreated(TenantReply):
    """`api_key` is shown once."""

    api_key: str


class Tenants(Reply):
    """Every tenant, by name."""

    tenants: list[TenantReply]


class TenantDeleted(Reply):
    """Nothing of the tenant is left."""

    tenant: str
    deleted: bool


class KeyReply(Reply):
    """A key without its secret."""

    key_id: str
    scope: Literal["query", "index", "admin"]
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    last_used_at: str | None


class KeyCreated(KeyReply):
    """`api_key` is shown once."""

    api_key: str


class Keys(Reply):
    """Every key of a tenant, oldest first."""

    keys: list[KeyReply]


class ComponentReply(Reply):
    """One line of /readyz."""

    name: str
    version: str
    ready: bool
    detail: str
    optional: bool


class Readiness(Reply):
    """`ready` when every component is that is not optional."""

    ready: bool
    components: list[ComponentReply]


class Liveness(Reply):
    """The process answers."""

    status: Literal["ok"]
    version: str
