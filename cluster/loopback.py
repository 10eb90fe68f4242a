"""Holds a Serve replica's own gRPC server to loopback on a platform that listens on loopback.

Serve 2.60 binds the server for calls between deployments to `[::]` and has no setting for it
(ray/serve/_private/replica.py). Ray's token guards it; on a laptop it should not be reachable at all. Ray's own
seam for this is a worker's set-up hook, which runs before the replica is made. Remove this when Serve can be told.
"""

from __future__ import annotations

from typing import Any

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
HOOK = "cluster.loopback.hold"


def worker_environment(host: str) -> dict[str, Any]:
    """The `runtime_env` of a replica: the hook when the platform listens on loopback, else nothing."""
    return {"worker_process_setup_hook": HOOK} if host in LOOPBACK_HOSTS else {}


def hold() -> None:
    """Make `[::]:port` mean `127.0.0.1:port` where the replica opens its server."""
    from ray.serve._private import replica

    opened = replica.add_port_to_grpc_server

    def on_loopback(server: Any, address: str) -> Any:
        return opened(server, address.replace("[::]", "127.0.0.1"))

    replica.add_port_to_grpc_server = on_loopback
