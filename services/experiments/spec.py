"""What an experiment compares, on whom, by which measure, and what stops it by itself. Frozen, checked at the door.

    name: cheaper-reranks
    tenants: [acme, globex]
    metric: clicked
    arms:
      - {name: control}                                   # the first arm is what is served today
      - {name: cheaper, overrides: {rerank: {price: 0.4}}}
    guardrails: [{metric: answer_ms, tolerance: 0.1}]

An arm's `overrides` are laid over each tenant's own configuration (RFC 7396), so one variant spans many tenants.
Pure: no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, ValidationError, model_validator

from services.experiments.metrics import METRICS
from tenants.config import TenantConfig, merged
from tenants.errors import FieldError, InvalidInput

Kind = Literal["ab", "interleaving", "shadow"]
Unit = Literal["user", "session", "tenant", "request"]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,46}[a-z0-9])?$")]
TENANT = r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$"
MAX_ARMS = 8
# What a variant may change: how a question is answered. Not who may ask, how much, or what is kept of it.
OVERRIDABLE = frozenset({"fusion", "rerankers", "rerank", "generator", "answer", "sources"})
RANKING = frozenset({"fusion", "rerankers", "rerank"})  # all that two rankings of one list of candidates may differ in


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Arm(_Frozen):
    """`share` is relative to the other arms'."""

    name: Name
    share: float = Field(default=1.0, gt=0, le=1_000)
    overrides: dict[str, JsonValue] = Field(default_factory=dict)


class Guardrail(_Frozen):
    """An arm stops once it is certain to be worse than the control by more than `tolerance` of the control's mean."""

    metric: str
    tolerance: float = Field(default=0.0, ge=0, le=10)


class Spec(_Frozen):
    """See the module.

    unit              what keeps its arm: the question's `user` (else its `session`, else the question itself), …
    ramp              share of units that take part; raising it moves nobody between arms
    holdout           share of units that never take part, whatever the ramp
    window_s          a unit's outcomes are collected for so long after its first exposure; then it counts, once
    minimum_effect    the smallest relative difference worth finding; planning uses it
    alpha             P(a wrong claim at any look); power is that of the planned size
    planned           units over all arms to decide by; None = computed from what is seen first
    """

    name: Name
    kind: Kind = "ab"
    tenants: tuple[Annotated[str, StringConstraints(pattern=TENANT)], ...] = Field(min_length=1, max_length=1_000)
    arms: tuple[Arm, ...] = Field(min_length=2, max_length=MAX_ARMS)
    unit: Unit = "user"
    ramp: float = Field(default=1.0, ge=0, le=1)
    holdout: float = Field(default=0.0, ge=0, lt=1)
    metric: str = "clicked"
    guardrails: tuple[Guardrail, ...] = Field(default=(), max_length=20)
    window_s: float = Field(default=1_800.0, ge=0, le=31 * 86_400)
    minimum_effect: float = Field(default=0.03, ge=1e-4, le=10)
    alpha: float = Field(default=0.05, ge=1e-6, lt=0.5)
    power: float = Field(default=0.8, ge=0.01, le=0.999)
    planned: int | None = Field(default=None, ge=2, le=1_000_000_000)
    note: str = Field(default="", max_length=2_000)

    @model_validator(mode="after")
    def _consistent(self) -> Spec:
        names = [arm.name for arm in self.arms]
        if len(set(names)) != len(names):
            raise ValueError("two arms have the same name")
        if len(set(self.tenants)) != len(self.tenants):
            raise ValueError("a tenant is named twice")
        if self.kind != "ab" and len(self.arms) != 2:
            raise ValueError(f"{self.kind} compares two arms")
        others = [key for arm in self.arms for key in arm.overrides if key not in RANKING]
        if self.kind == "interleaving" and others:
            raise ValueError(f"interleaving compares rankings: {', '.join(sorted(RANKING))}, not {others[0]}")
        if self.kind != "ab" and self.guardrails:
            raise ValueError(f"{self.kind} has no guardrails: the control's users are nobody's risk; leave them out")
        unknown = [one for one in (self.metric, *(rail.metric for rail in self.guardrails)) if one not in METRICS]
        if unknown:
            raise ValueError(f"there is no metric {unknown[0]}; there are {', '.join(METRICS)}")
        return self

    @property
    def control(self) -> Arm:
        """The first arm."""
        return self.arms[0]

    def arm(self, name: str) -> Arm:
        """Raises `InvalidInput` naming the arms that there are."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        known = ", ".join(arm.name for arm in self.arms)
        raise InvalidInput.field("/arm", f"{self.name} has no arm {name}; it has {known}")

    def variant(self, arm: str) -> str:
        """How answers and the audit name an arm."""
        return f"{self.name}/{arm}"


def parse_guardrail(text: str) -> tuple[str, float]:
    """(metric, tolerance) of `METRIC=TOLERANCE`, as commands take it. Raises `InvalidInput`."""
    metric, _, tolerance = text.partition("=")
    try:
        return metric, float(tolerance or 0)
    except ValueError:
        raise InvalidInput.field("/guardrail", f"{text} is no METRIC=TOLERANCE, such as answer_ms=0.1") from None


def parse_spec(raw: object) -> Spec:
    """Check a decoded mapping; raises `InvalidInput` naming every bad field."""
    if not isinstance(raw, Mapping):
        raise InvalidInput.field("/", f"an experiment is a mapping, this is {type(raw).__name__}")
    try:
        spec = Spec.model_validate(raw)
    except ValidationError as error:
        faults = tuple(
            FieldError("/" + "/".join(str(part) for part in item["loc"]), item["msg"].removeprefix("Value error, "))
            for item in error.errors(include_url=False, include_input=False)
        )
        raise InvalidInput("; ".join(f"{fault.pointer}: {fault.detail}" for fault in faults), errors=faults) from None
    for number, arm in enumerate(spec.arms):
        overridden(TenantConfig(), arm.overrides, f"/arms/{number}/overrides")
    return spec


def laid_over(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Two sets of overrides as one: `changes` win, section by section; a null stays, it restores a default."""
    result = dict(base)
    for key, value in changes.items():
        held = result.get(key)
        result[key] = laid_over(held, value) if isinstance(held, Mapping) and isinstance(value, Mapping) else value
    return result


def overridden(config: TenantConfig, overrides: Mapping[str, Any], pointer: str = "/overrides") -> TenantConfig:
    """The configuration of a variant. Raises `InvalidInput` for a key that no variant may change, or a bad value."""
    for key in overrides:
        if key not in OVERRIDABLE:
            allowed = ", ".join(sorted(OVERRIDABLE))
            raise InvalidInput.field(f"{pointer}/{key}", f"a variant cannot change {key}; it can change {allowed}")
    try:
        return merged(config, overrides)
    except InvalidInput as error:
        faults = tuple(FieldError(f"{pointer}{fault.pointer.rstrip('/')}", fault.detail) for fault in error.errors)
        raise InvalidInput(error.detail, errors=faults) from None
