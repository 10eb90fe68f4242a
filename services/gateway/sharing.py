"""Bodies and replies of `/admin/v1/tenants/{tenant}/shares`: who may search a collection of whose corpus."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

from services.gateway.bodies import Body, Collection
from services.gateway.replies import Reply
from tenants.grant_rows import Grant


class ShareBody(Body):
    """`POST …/shares`."""

    collection: Collection
    subscriber: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]


class ShareReply(Reply):
    """`name` is what the subscriber writes into its `shared_collections`."""

    name: str
    owner: str
    collection: str
    subscriber: str
    created_at: str


class Shares(Reply):
    """What the tenant shares with others, and what others share with it."""

    given: list[ShareReply]
    received: list[ShareReply]


class ShareRevoked(Reply):
    """The subscriber's next question no longer reads the collection."""

    name: str
    subscriber: str
    revoked: bool


def shares_json(tenant: str, grants: list[Grant]) -> dict[str, list[dict[str, str]]]:
    """Both directions of one tenant's grants."""
    return {
        "given": [grant.to_json() for grant in grants if grant.owner == tenant],
        "received": [grant.to_json() for grant in grants if grant.subscriber == tenant],
    }
