"""What operators send to and get from the routes of experiments. Pure."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StringConstraints

from services.experiments.spec import Name, Spec
from services.gateway.bodies import Body, Sized
from services.gateway.replies import Reply


class ExperimentBody(Spec, Sized):
    """`POST /admin/v1/experiments`: what is compared, on whom, by which measure."""


class RampBody(Body):
    """`PATCH /admin/v1/experiments/{name}`: the share of units that takes part from now on."""

    ramp: float = Field(ge=0, le=1, strict=False)


class StopBody(Body):
    """`POST …/stop`; `why` is kept with the outcome."""

    why: Annotated[str, StringConstraints(max_length=2_000)] = ""


class PromoteBody(Body):
    """`POST …/promote`; without `arm` the one that the verdict calls better, or the only one beside the control."""

    arm: Name | None = None


class ExperimentReply(Reply):
    """An experiment. `outcome` is why it ended and what became of it, null while it runs; `run_id` is MLflow's."""

    name: str
    state: str
    spec: dict[str, Any]
    ramp: float = 1.0
    tenants: list[str] = Field(default_factory=list)
    outcome: dict[str, Any] | None = None
    created_at: str | None = None
    stopped_at: str | None = None
    run_id: str | None = None
    model: str | None = None
    plan: dict[str, Any] | None = None


class ExperimentDetail(ExperimentReply):
    """With its figures as of now: verdict, effects with always-valid intervals, sample ratio."""

    analysis: dict[str, Any]


class Experiments(Reply):
    """Newest first, without figures."""

    experiments: list[ExperimentReply]


class ExperimentDeleted(Reply):
    """What was promoted stays."""

    name: str
    deleted: bool
