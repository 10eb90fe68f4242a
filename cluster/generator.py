"""`build(args)`: the Serve application of one vLLM generator, beside the platform's own and without a route.

In a Serve config file `args` are a generator's settings with its name; `fathom up` builds it from `generators`.
"""

from typing import Any

from ray.serve import Application

from cluster.app import replicas
from services.generation.deployment import generator
from services.settings import GeneratorModel, GeneratorName


class NamedGenerator(GeneratorModel):
    """A generator with its name, and where vLLM may keep what it compiled."""

    name: GeneratorName
    cache_dir: str = "/tmp/fathom-generator"  # noqa: S108 a cache; a config file names a better place


def build(args: NamedGenerator) -> Application:
    """The application; its one deployment answers the gateway's handles only."""
    return generator(args.name, args, serve_options(args), args.cache_dir)


def serve_options(model: GeneratorModel) -> dict[str, Any]:
    """Serve's options: replicas and bounded queues."""
    size = model.replicas
    return {"max_ongoing_requests": size.max_ongoing, "max_queued_requests": size.max_queued, **replicas(size)}
