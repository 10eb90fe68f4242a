"""The operator's experiments: start, watch, ramp, stop, promote, roll back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from services.gateway import bodies
from services.gateway.auth import OPERATOR, admin, platform_of
from services.gateway.experimenting import (
    ExperimentBody,
    ExperimentDeleted,
    ExperimentDetail,
    ExperimentReply,
    Experiments,
    PromoteBody,
    RampBody,
    StopBody,
)
from services.gateway.http import ADMIN_ERRORS, accepts, answers, repeatable, reply
from services.gateway.idempotency import once
from services.gateway.ports import Platform
from services.gateway.routes.admin import OWNER
from services.gateway.variants import switched

router = APIRouter(prefix="/admin/v1", tags=["admin"])

Operator = Annotated[Platform, Depends(admin)]
_ONE = answers(ExperimentReply, errors=ADMIN_ERRORS)


@router.get("/experiments", responses=answers(Experiments, errors=ADMIN_ERRORS))
async def list_experiments(platform: Operator) -> Response:
    """Every experiment, newest first."""
    return reply({"experiments": list(await asyncio.to_thread(platform.desk.experiments))})


@router.post(
    "/experiments",
    status_code=201,
    responses=answers(ExperimentReply, 201, errors=ADMIN_ERRORS),
    openapi_extra=accepts(ExperimentBody) | repeatable(),
)
async def create_experiment(request: Request, platform: Operator, dry_run: bool = False) -> Response:
    """Start an experiment; `dry_run=true` only checks it and says how many units it needs."""
    body = await bodies.read_body(request, ExperimentBody)
    make = partial(platform.desk.create, body.model_dump(mode="json"), OPERATOR, dry_run=dry_run)
    return await _changed(request, make, body.model_dump_json, 201)


@router.get("/tenants/{tenant}/experiments", responses=answers(Experiments, errors=ADMIN_ERRORS))
async def tenant_experiments(platform: Operator, tenant: str) -> Response:
    """Those that the tenant takes or took part in, newest first."""
    found = await asyncio.to_thread(platform.store.get_tenant, tenant)
    every = await asyncio.to_thread(platform.desk.experiments)
    return reply({"experiments": [one for one in every if found.name in one["tenants"]]})


@router.get("/experiments/{name}", responses=answers(ExperimentDetail, errors=ADMIN_ERRORS))
async def read_experiment(platform: Operator, name: str) -> Response:
    """One experiment with its figures as of now; they hold however often this is asked."""
    return reply(await asyncio.to_thread(platform.desk.show, name))


@router.patch("/experiments/{name}", responses=_ONE, openapi_extra=accepts(RampBody))
async def ramp_experiment(request: Request, platform: Operator, name: str) -> Response:
    """Let another share of units take part; nobody changes arms."""
    body = await bodies.read_body(request, RampBody)
    return reply(await asyncio.to_thread(platform.desk.set_ramp, name, body.ramp, OPERATOR))


@router.delete("/experiments/{name}", responses=answers(ExperimentDeleted, errors=ADMIN_ERRORS))
async def delete_experiment(platform: Operator, name: str) -> Response:
    """Forget an experiment that has ended; what was promoted stays, and so does what MLflow holds."""
    return reply(await asyncio.to_thread(platform.desk.delete, name))


@router.post("/experiments/{name}/stop", responses=_ONE, openapi_extra=accepts(StopBody) | repeatable())
async def stop_experiment(request: Request, platform: Operator, name: str) -> Response:
    """End it: from now on what served before answers everybody."""
    body = await bodies.read_body(request, StopBody)
    stop = partial(platform.desk.stop, name, OPERATOR, body.why)
    return await _changed(request, stop, body.model_dump_json)


@router.post("/experiments/{name}/promote", responses=_ONE, openapi_extra=accepts(PromoteBody) | repeatable())
async def promote(request: Request, platform: Operator, name: str) -> Response:
    """Serve an arm's variant to everybody, once its models are warm; ends the experiment."""
    body = await bodies.read_body(request, PromoteBody)
    return await _changed(request, partial(platform.desk.promote, name, OPERATOR, body.arm), body.model_dump_json)


@router.post("/experiments/{name}/rollback", responses=_ONE, openapi_extra=repeatable())
async def roll_back(request: Request, platform: Operator, name: str) -> Response:
    """Serve again what served before the promotion."""
    return await _changed(request, partial(platform.desk.rollback, name, OPERATOR), lambda: "{}")


async def _changed(
    request: Request, change: Callable[[], Mapping[str, Any]], body: Callable[[], str], status: int = 200
) -> Response:
    async def run() -> Response:
        told = await asyncio.to_thread(change)
        await switched(platform_of(request), told.get("tenants", ()))
        return reply(told, status)

    return await once(request, OWNER, run, body=body)
