"""vLLM as a Serve deployment: `ray.serve.llm`'s server with the few calls that the gateway makes.

Ray's own `chat` batches its output for 50 ms and wants vLLM's request class from the caller; `write` takes plain JSON,
so that the gateway's process never loads vLLM, and hands on whole lines as soon as they end: nothing shorter leaves
the house, and a message per token would cost more than the token. A dead engine fails the health
check, and Serve starts a new replica; the engine's own process dies with its replica, whatever killed that.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.llm import LLMConfig, build_llm_deployment
from ray.serve.llm.deployment import LLMServer

from services.generation.engine import Piece, Refused, adapter_name, piece_of
from services.handles import GENERATOR_DEPLOYMENT
from services.settings import GeneratorModel

HEALTH_PERIOD_S = 5.0
HEALTH_TIMEOUT_S = 30.0  # a busy engine answers late (ray-project/ray#54070)
GRACE_S = 60.0
CPU_CACHE_GIB = "1"
GPU_MEMORY = 0.9  # of what one engine has of a GPU


class GeneratorServer(LLMServer):  # type: ignore[misc]  # ray.serve.llm is not typed
    """One replica: one vLLM engine."""

    async def write(self, body: Mapping[str, Any]) -> AsyncGenerator[Piece]:
        """The answer line by line, last what it cost; closing it aborts the request in the engine.

        Raises `Refused` for what the engine does not take, `Unavailable` for what it breaks off.
        """
        from ray.serve.llm.openai_api_models import ChatCompletionRequest

        held = ""
        async with aclosing(self.engine.chat(ChatCompletionRequest(**body))) as stream:
            async for chunk in stream:
                if not isinstance(chunk, str):
                    raise Refused(f"the generator refused the request: {chunk.error.message}")
                for piece in _pieces(chunk):
                    whole, end, held = (held + piece.text).rpartition("\n")
                    if end or piece.prompt_tokens or piece.cut:
                        yield replace(piece, text=whole + end)
        yield Piece(held)

    async def tokens(self, texts: Sequence[str], timeout_s: float | None) -> list[int]:
        """Tokens of each text by the model's tokenizer, without special ones."""
        tokenizer = self.engine._engine_client.get_tokenizer()  # noqa: SLF001 Ray gives no other way to it
        return [len(tokenizer.encode(text, add_special_tokens=False)) for text in texts]

    async def facts(self, timeout_s: float | None) -> dict[str, Any]:
        """`EngineFacts` as a mapping; raises while the engine is dead."""
        await self.check_health()
        model = self.engine._engine_client.model_config  # noqa: SLF001 the same
        at_work = self.engine._engine_client.output_processor.get_num_unfinished_requests()  # noqa: SLF001 the same
        source = str(self._llm_config.model_loading_config.model_source)
        name = Path(source).name if Path(source).is_absolute() else source
        return {"model": name, "context_tokens": int(model.max_model_len), "at_work": int(at_work)}


def _pieces(chunk: str) -> Iterator[Piece]:
    """The server-sent events of one piece of vLLM's stream."""
    for line in chunk.split("\n"):
        data = line.removeprefix("data: ").strip()
        if line.startswith("data: ") and data != "[DONE]":
            yield piece_of(json.loads(data))


def generator(name: str, model: GeneratorModel, deployment: Mapping[str, Any], cache_dir: str) -> serve.Application:
    """The application of one generator. `deployment` are Serve's options: replicas, queues."""
    size = model.replicas
    on_cpu = size.gpus == 0
    engine = {"enable_prefix_caching": True, **_hardware(on_cpu, size.gpus), **_lora(model.adapters), **model.engine}
    config = LLMConfig(
        model_loading_config={"model_id": name, "model_source": model.model},
        engine_kwargs=engine,
        deployment_config={
            **deployment,
            "ray_actor_options": {"num_cpus": 0},  # what it computes with is the engine's, in its placement group
            "health_check_period_s": HEALTH_PERIOD_S,
            "health_check_timeout_s": HEALTH_TIMEOUT_S,
            "graceful_shutdown_timeout_s": GRACE_S,
        },
        runtime_env={"env_vars": _environment(on_cpu, size.gpus, cache_dir)},
        log_engine_metrics=False,
        **_placement(on_cpu, size.cpus, size.gpus, int(engine.get("tensor_parallel_size", 1))),
    )
    return build_llm_deployment(
        config,
        deployment_cls=GeneratorServer,
        name_prefix="",
        override_serve_options={"name": GENERATOR_DEPLOYMENT},
    )


def _lora(adapters: Mapping[str, str]) -> dict[str, Any]:
    """VLLM's own arguments for adapters that are loaded at the start; Ray's take only object stores."""
    if not adapters:
        return {}
    from vllm.entrypoints.openai.models.protocol import LoRAModulePath

    modules = [LoRAModulePath(name=adapter_name(tenant), path=path) for tenant, path in adapters.items()]
    return {"enable_lora": True, "max_loras": len(modules), "lora_modules": modules}


def _hardware(on_cpu: bool, gpus: float) -> dict[str, Any]:
    if not on_cpu:
        # vLLM's Ray executor fights with Serve's placement groups; a share of a GPU is a share of its memory.
        return {"distributed_executor_backend": "mp", "gpu_memory_utilization": GPU_MEMORY * min(1.0, gpus)}
    return {"dtype": "bfloat16", "enforce_eager": True}


def _placement(on_cpu: bool, cpus: float, gpus: float, parallel: int) -> dict[str, Any]:
    if on_cpu:
        return {"placement_group_config": {"bundles": [{"CPU": max(cpus, 0.1)}]}}
    return {"placement_group_config": {"bundles": [{"CPU": max(cpus, 0.1), "GPU": gpus}] * parallel}}


def _environment(on_cpu: bool, gpus: float, cache_dir: str) -> dict[str, str]:
    variables = {"VLLM_NO_USAGE_STATS": "1", "VLLM_CACHE_ROOT": str(Path(cache_dir) / "vllm")}
    if on_cpu:
        variables["VLLM_CPU_KVCACHE_SPACE"] = CPU_CACHE_GIB
    elif gpus < 1:
        variables["VLLM_RAY_PER_WORKER_GPUS"] = str(gpus)
    return variables
