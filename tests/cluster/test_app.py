"""The Serve application's options follow the settings."""

from __future__ import annotations

import pytest

from services.settings import Replicas, Settings


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Serve warns about itself when it is imported
def test_a_replica_drains_for_longer_than_any_request_may_take() -> None:
    from cluster.app import options

    settings = Settings(request_timeout_s=30, write_timeout_s=300)
    assert options("Gateway", Replicas(), settings)["graceful_shutdown_timeout_s"] > 300
