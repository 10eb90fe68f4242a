"""Ports of one platform: all different, all free, an asked-for one is taken or refused, never replaced."""

import dataclasses
import socket

import pytest

from cluster.ports import choose_ports, is_free
from tenants.errors import Conflict


@pytest.fixture
def taken():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_all_ports_differ():
    ports = dataclasses.astuple(choose_ports(0, asked=False))
    assert len(set(ports)) == len(ports)
    assert all(is_free(port) for port in ports)


def test_a_taken_port_that_nobody_asked_for_is_replaced(taken):
    assert choose_ports(taken, asked=False).http != taken


def test_a_taken_port_that_was_asked_for_is_an_error_with_the_mend(taken):
    with pytest.raises(Conflict, match=f"port {taken} is in use; free it or choose another with --port"):
        choose_ports(taken, asked=True)


def test_a_listener_is_seen(taken):
    assert not is_free(taken)
