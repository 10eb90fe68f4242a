"""Free loopback ports for one platform. Chosen together, so that no two parts get the same one."""

from __future__ import annotations

import dataclasses
import random
import socket
from contextlib import ExitStack

from cluster.platform import Ports
from tenants.errors import Conflict

LOOPBACK = "127.0.0.1"
# Below the kernel's range for outgoing connections, any of which could take a port before its server opens it.
CHOICE = range(20_000, 32_768)
ATTEMPTS = 200


def choose_ports(http: int, *, asked: bool) -> Ports:
    """`http` when it is free, else any free one, unless it was `asked` for; the others are any free ones.

    Raises `Conflict` when an asked-for port is taken.
    """
    names = [part.name for part in dataclasses.fields(Ports) if part.name != "http"]
    with ExitStack() as stack:
        first = _hold(stack, http, fallback=not asked)
        return Ports(http=first, **{name: _any(stack) for name in names})


def is_free(port: int) -> bool:
    """Whether nothing on this machine listens on `port`, on any interface."""
    try:
        with ExitStack() as stack:
            _bind(stack, port)
    except OSError:
        return False
    return True


def _hold(stack: ExitStack, port: int, *, fallback: bool) -> int:
    if not port:
        return _any(stack)
    try:
        return _bind(stack, port)
    except OSError:
        if fallback:
            return _any(stack)
        raise Conflict(f"port {port} is in use; free it or choose another with --port") from None


def _any(stack: ExitStack) -> int:
    for port in random.sample(CHOICE, ATTEMPTS):
        try:
            return _bind(stack, port)
        except OSError:
            continue
    raise Conflict(f"of {ATTEMPTS} ports from {CHOICE.start} to {CHOICE.stop - 1} none is free; end what holds them")


def _bind(stack: ExitStack, port: int) -> int:
    """SO_REUSEADDR passes over what a closed connection left in TIME_WAIT, never over a listener."""
    holder = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind((LOOPBACK, port))
    return int(holder.getsockname()[1])
