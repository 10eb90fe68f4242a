"""`build(settings)`: the Serve application of one platform; the only `.bind()`.

    single  Gateway (retrieves and reranks in its own process) → Indexer
    split   Gateway → Retriever, RerankerSmall, RerankerLarge, Indexer

Sizes come from the settings: replicas, autoscaling, CPU and GPU shares per deployment. In a Serve config file the
builder's argument is the same settings as a mapping (`args:` of cluster/serve.yaml).
"""

from collections.abc import Iterator
from typing import Any

from ray.serve import Application
from ray.serve.config import AutoscalingConfig, BackpressureConfig

from cluster.ray_jobs import RayJobs
from jobs.experiments.desk import open_desk
from jobs.indexing.deployment import Indexer
from services.gateway.deployment import Gateway
from services.reranking.deployment import RerankerDeployment
from services.retrieval.deployment import RetrieverDeployment
from services.settings import Replicas, Settings

GRACE_S = 5.0  # on top of the longest request: a stream or a write ends before its replica does
HEALTH_PERIOD_S = 5.0
HEALTH_TIMEOUT_S = 15.0


def build(args: Settings) -> Application:
    """The application; its ingress is the Gateway."""
    indexer = sized(Indexer, "Indexer", args.indexer, args).bind(args)
    gateway = sized(Gateway, "Gateway", args.gateway, args)
    if args.topology == "single":
        return gateway.bind(args, indexer, RayJobs, open_desk)
    retriever = sized(RetrieverDeployment, "Retriever", args.retriever, args).bind(args)
    return gateway.bind(args, indexer, RayJobs, open_desk, retriever, *rerankers(args))


def rerankers(args: Settings) -> Iterator[Application]:
    """One deployment per role, small before large: each has its own model, replicas and share of a GPU."""
    for name, size, builtin in (
        ("RerankerSmall", args.reranker_small, "builtin-small"),
        ("RerankerLarge", args.reranker_large, "builtin-large"),
    ):
        yield sized(RerankerDeployment, name, size, args).bind(args, builtin)


def sized(deployment: Any, name: str, size: Replicas, settings: Settings) -> Any:
    """The deployment with its name and size; Serve's decorators leave no types behind."""
    return deployment.options(**options(name, size, settings))


def options(name: str, size: Replicas, settings: Settings) -> dict[str, Any]:
    """Serve's options of one deployment. New replicas start before old ones stop; queues are bounded."""
    return {
        "name": name,
        "ray_actor_options": {"num_cpus": size.cpus, "num_gpus": size.gpus},
        "max_ongoing_requests": size.max_ongoing,
        "max_queued_requests": size.max_queued,
        "backpressure_config": BackpressureConfig(status_code=503, retry_after_s=1),
        "graceful_shutdown_timeout_s": max(settings.request_timeout_s, settings.write_timeout_s) + GRACE_S,
        "health_check_period_s": HEALTH_PERIOD_S,
        "health_check_timeout_s": HEALTH_TIMEOUT_S,
        "max_surge_percent": 100,
        **replicas(size),
    }


def replicas(size: Replicas) -> dict[str, Any]:
    """A fixed number, or autoscaling on ongoing requests between `min` and `max`."""
    if size.min == size.max:
        return {"num_replicas": size.max}
    scaling = AutoscalingConfig(
        min_replicas=size.min,
        max_replicas=size.max,
        target_ongoing_requests=size.target_ongoing,
        upscale_delay_s=2,
        downscale_delay_s=30,
        metrics_interval_s=1,
        look_back_period_s=4,
    )
    return {"autoscaling_config": scaling, "num_replicas": None}
