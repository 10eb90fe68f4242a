"""Whether a tenant's certificate still speaks of its corpus and its traffic. Pure."""

from __future__ import annotations

from datetime import datetime

from services.reranking.certificate import Certificate, broken, conditions_of, group_of
from services.reranking.profile import Profile
from tenants.scope import TenantScope


def stale(scope: TenantScope, at: datetime) -> str | None:
    """Why the calibration of what serves no longer holds; None when it does, or the tenant has none to renew.

    `scope` is pinned, its configuration the champion's. Another cross-encoder is calibrated when it is tried.
    """
    group = group_of(scope.config.rerank.criticality, scope.config.languages[0])
    profiles = [Profile.from_json(one) for one in (scope.calibration, *scope.earlier) if one is not None]
    held = (one.groups[group] for one in profiles if group in one.groups)
    certificate = next((one for one in held if _of(one, scope)), None)
    if certificate is None:
        return None
    if scope.alarms.get(group) == certificate.certificate_id:
        return "traffic lost more than was certified (drift alarm)"
    return broken(certificate, conditions_of(scope, certificate.conditions.models), at)


def _of(certificate: Certificate, scope: TenantScope) -> bool:
    """Whether it was made with the cross-encoders that the configuration names, in whatever revision."""
    named = scope.config.rerankers.model_dump()
    return all(model.startswith(f"{named[role]}@") for role, model in certificate.conditions.models.items())
