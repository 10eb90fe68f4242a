"""The root of Fathom's error tree. Every error a caller can meet is drawn here.

    FathomError                     code                     status  retryable
    ├── InvalidInput                invalid_field            422     no      names the field
    │   ├── Malformed               malformed                400     no
    │   └── TooLarge                too_large                413     no
    ├── Unauthenticated             unauthenticated          401     no
    ├── Forbidden                   forbidden                403     no      the key's scope is too small
    ├── NotFound                    not_found                404     no      unknown and foreign look alike
    ├── Conflict                    conflict                 409     no
    │   ├── InFlight                in_flight                409     yes     the same work is running
    │   └── NeedsConfirmation       needs_confirmation       409     no      repeat with `yes`
    ├── LeaseLost                   lease_lost               409     yes     another writer took over
    ├── QuotaExceeded               quota_exceeded           429     yes     yours; carries retry_after_s
    ├── Unavailable                 unavailable              503     yes     ours; carries retry_after_s
    │   ├── Overloaded              overloaded               503     yes
    │   └── DeadlineExceeded        deadline_exceeded        503     yes
    ├── IntegrityError              integrity                500     no      stored data contradicts itself
    └── Cancelled                   cancelled                499     no

An error is one sentence: what is wrong, then the mend. It never carries a document's text or a key.
Foreign exceptions are translated into these at the I/O boundary where they arise. A degradation that
still leaves an honest answer is no error: it is a word in the answer's `degraded`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class FieldError:
    """One bad field. `pointer` is an RFC 6901 JSON pointer into the body, such as `/top_k`."""

    pointer: str
    detail: str


class FathomError(Exception):
    """Base class; `code`, `status` (HTTP) and `retryable` are fixed per class."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, detail: str, *, retry_after_s: float | None = None, errors: tuple[FieldError, ...] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.errors = errors

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by parts: errors cross Ray's process boundary, and keyword-only arguments do not survive it."""
        return (_rebuild, (type(self), self.detail, self.retry_after_s, self.errors))


def _rebuild(
    kind: type[FathomError], detail: str, retry_after_s: float | None, errors: tuple[FieldError, ...]
) -> FathomError:
    return kind(detail, retry_after_s=retry_after_s, errors=errors)


class InvalidInput(FathomError):
    """A field's value is not acceptable; `errors` names each one."""

    code, status = "invalid_field", 422

    @classmethod
    def field(cls, pointer: str, detail: str) -> InvalidInput:
        """The common case: one bad field."""
        return cls(f"{pointer.lstrip('/') or 'body'}: {detail}", errors=(FieldError(pointer, detail),))


class Malformed(InvalidInput):
    """The body or file cannot be read at all."""

    code, status = "malformed", 400


class TooLarge(InvalidInput):
    """A limit of CONTRACT section 6 is exceeded."""

    code, status = "too_large", 413


class Unauthenticated(FathomError):
    """No key, or one that is unknown, revoked or expired."""

    code, status = "unauthenticated", 401


class Forbidden(FathomError):
    """The key is genuine, its scope or its tenant's state does not allow this."""

    code, status = "forbidden", 403


class NotFound(FathomError):
    """Nothing here that this caller may know of."""

    code, status = "not_found", 404


class Conflict(FathomError):
    """The state does not allow this change."""

    code, status = "conflict", 409


class InFlight(Conflict):
    """The same idempotency key, or the same tenant's writer, is at work."""

    code, retryable = "in_flight", True


class NeedsConfirmation(Conflict):
    """The change is large or final; it runs only with `yes`."""

    code = "needs_confirmation"


class LeaseLost(Conflict):
    """Another writer holds a newer fencing token; nothing was published by this one."""

    code, retryable = "lease_lost", True


class QuotaExceeded(FathomError):
    """The tenant's own quota is used up."""

    code, status, retryable = "quota_exceeded", 429, True


class Unavailable(FathomError):
    """The platform cannot serve this now."""

    code, status, retryable = "unavailable", 503, True


class Overloaded(Unavailable):
    """Every queue is full."""

    code = "overloaded"


class DeadlineExceeded(Unavailable):
    """The time that the caller or the platform allows has passed."""

    code = "deadline_exceeded"


class IntegrityError(FathomError):
    """Stored data contradicts itself: counts, digests or a chain do not match."""

    code = "integrity"


class Cancelled(FathomError):
    """The caller asked to stop."""

    code, status = "cancelled", 499
