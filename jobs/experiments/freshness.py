"""Whether a tenant's certificate still speaks of its corpus and its traffic. Pure."""

from __future__ import annotations

from datetime import datetime

from services.reranking.certificate import broken, conditions_of, group_of
from services.reranking.profile import Profile
from tenants.scope import TenantScope


def stale(scope: TenantScope, at: datetime) -> str | None:
    """Why the newest calibration of the tenant's own no longer holds; None when it does, or there is none to renew.

    `scope` is pinned. Models are not looked at: another cross-encoder is calibrated when it is tried or promoted.
    """
    if scope.calibration is None:
        return None
    group = group_of(scope.config.rerank.criticality, scope.config.languages[0])
    certificate = Profile.from_json(scope.calibration).groups.get(group)
    if certificate is None:
        return None
    if scope.alarms.get(group) == certificate.certificate_id:
        return "traffic lost more than was certified (drift alarm)"
    return broken(certificate, conditions_of(scope, certificate.conditions.models), at)
