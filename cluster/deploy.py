"""`python -m cluster.deploy SETTINGS_FILE`: attach to Ray and run the Serve application of those settings.

A process of its own, so that `fathom up` never loads Ray and Ray's variables stand before it is imported.
Serve's actors are detached: they outlive this process.
"""

from __future__ import annotations

import sys
from pathlib import Path

import ray
from ray import serve

from cluster.app import build
from cluster.generator import NamedGenerator
from cluster.generator import build as build_generator
from services.handles import generator_application
from services.settings import Settings, load_settings

APPLICATION = "fathom"


def deploy(settings: Settings) -> None:
    """Returns once every replica is healthy; raises what Serve raises."""
    ray.init(address=settings.ray_address, namespace=APPLICATION, log_to_driver=False)
    serve.start(
        proxy_location="HeadOnly",  # one door: several nodes on one machine would bind its port more than once
        http_options={"host": settings.host, "port": settings.port, "request_timeout_s": None},
    )
    serve.run(build(settings), name=APPLICATION, route_prefix="/")
    for name, model in settings.generators.items():
        if model.base_url is None:
            named = NamedGenerator(name=name, cache_dir=settings.model_cache, **model.model_dump())
            serve.run(build_generator(named), name=generator_application(name), route_prefix=None)
    ray.shutdown()


if __name__ == "__main__":
    deploy(load_settings(Path(sys.argv[1])))
