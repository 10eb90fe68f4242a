"""Full reranks of labelled sets by both cross-encoders, once: `benchmarks/rerank.py` replays every policy from them.

    python -m benchmarks.rerank_collect --data FOLDER --cache FOLDER [--sets medquad …] [--queries 80] [--all]

A set is chunked, embedded, indexed and asked by the code that serves; every candidate down to depth 100 gets a logit
of each model. CACHE/log-SET.parquet (jobs/calibration/logs.py) grows by PART questions at a time and is resumed;
CACHE/models.json names the models: a log of other models is made anew. Vectors are cached too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.retrieval import embedded, parsed_table, published
from jobs.calibration.collecting import Collector
from jobs.calibration.logs import Logged, read_log, write_log
from jobs.calibration.questions import Asked
from jobs.evaluation.datasets import Dataset, load_dataset
from jobs.indexing.chunk import chunk_batch
from services.contracts import CrossEncoderFacts
from services.embedding.encoder import Encoder, load_encoder
from services.embedding.queries import QueryEncoder
from services.reranking.facts import ROLES, Role
from services.reranking.local import open_scorer
from services.retrieval.search import LocalRetriever
from services.settings import Settings, load_settings
from tenants.config import Rerankers, TenantConfig
from tenants.ids import TenantUid
from tenants.scope import TenantScope

Models = dict[Role, CrossEncoderFacts]

SETS = {
    "medquad": "dev", "vespa_docs": "dev", "cosqa": "dev", "pubmedqa": "dev", "cranfield": "test",
    "vaswani_npl": "test",
}  # fmt: skip
QUERIES = 80
DOCUMENTS = {"medquad": 6_000}  # the first so many of a large corpus, and the questions that they answer
PART = 10


@dataclass(frozen=True)
class Asking:
    """Which models are asked, and the platform's settings."""

    roles: tuple[Role, ...]
    settings: Settings


def sampled(folder: Path, split: str, limit: int | None) -> Dataset:
    """`limit` questions drawn by a fixed seed; all when None. Their judged documents are in the corpus."""
    data = load_dataset(folder / "queries.jsonl.gz", folder / "qrels" / f"{split}.tsv")
    held = set(parsed(folder)["document_id"].to_pylist())
    names = sorted(name for name in data.queries if data.judgements[name].keys() <= held)
    random.Random(0).shuffle(names)
    kept = names[:limit]
    return Dataset({name: data.queries[name] for name in kept}, {name: data.judgements[name] for name in kept}, "")


def parsed(folder: Path) -> pa.Table:
    """The set's corpus, its beginning where DOCUMENTS says so."""
    return parsed_table(folder / "corpus.jsonl.gz").slice(0, DOCUMENTS.get(folder.name))


@contextmanager
def indexed(folder: Path, cache: Path, encoder: Encoder, rerankers: Rerankers) -> Iterator[TenantScope]:
    """The set's corpus as a tenant's published index; gone afterwards, its vectors stay in the cache."""
    chunks = chunk_batch(
        parsed(folder), TenantConfig().chunking, encoder.tokenizer_json, TenantUid("t_bench"), "benchmark"
    )
    vectors = embedded(chunks["lexical"].to_pylist(), encoder, cache / folder.name)
    with tempfile.TemporaryDirectory(prefix="fathom-bench-") as root:
        yield replace(published(root, chunks, vectors), config=TenantConfig(rerankers=rerankers))


async def reranked(scope: TenantScope, encoder: Encoder, data: Dataset, path: Path, asking: Asking) -> Models:
    """Add what `path` lacks of the questions and of the roles."""
    known = {one.query_id: one for one in (read_log(path) if path.exists() else [])}  # noqa: ASYNC240
    asked = [Asked(name, text, data.judgements[name]) for name, text in data.queries.items()]
    retriever = LocalRetriever(QueryEncoder(lambda _: encoder))
    scorer = open_scorer(asking.settings, [], SilentMeter())
    collector = Collector(scope, retriever, scorer)
    try:
        for number, one in enumerate(asked, 1):
            await _complete(collector, one, known, asking.roles)
            if number % PART == 0 or number == len(asked):
                source = path.stem.removeprefix("log-")
                write_log(path, [replace(log, source=source) for log in known.values()])
                print(f"{path.stem}: {number} of {len(asked)} at {time.strftime('%H:%M:%S')}", flush=True)
        return {role: await scorer.facts(scope, _reference(scope, role)) for role in asking.roles}
    finally:
        await retriever.close()
        scorer.close()


async def _complete(collector: Collector, one: Asked, known: dict[str, Logged], roles: Sequence[Role]) -> None:
    """Both models' logits are of the same candidates, or the question is asked anew."""
    old = known.get(one.query_id)
    missing = tuple(role for role in roles if old is None or role not in old.logits)
    if not missing:
        return
    found = await collector.collect(one, missing)
    if found is not None and old is not None:
        if found.chunks == old.chunks:
            found = replace(old, logits={**old.logits, **found.logits})
        else:
            found = await collector.collect(one, tuple({*old.logits, *missing}))
    if found is not None:
        known[one.query_id] = found


def _reference(scope: TenantScope, role: Role) -> str:
    return scope.config.rerankers.large if role == "large" else scope.config.rerankers.small


class SilentMeter:
    """batching.Meter: nothing is served here."""

    def scored(self, tenant: str, model: str, pairs: int, cached: int) -> None:
        """Not kept."""

    def batch(self, model: str, pairs: int, fill: float) -> None:
        """Not kept."""

    def queued(self, model: str, pairs: int) -> None:
        """Not kept."""


def logs(cache: Path, names: Sequence[str]) -> dict[str, list[Logged]]:
    """What was collected, by set."""
    return {name: read_log(path) for name in names if (path := cache / f"log-{name}.parquet").exists()}


def models_of(cache: Path) -> Models:
    """The models of the logs."""
    stored = json.loads((cache / "models.json").read_text("utf-8"))
    return {role: _facts(stored[role]) for role in ROLES if role in stored}


def _facts(value: dict[str, Any]) -> CrossEncoderFacts:
    read: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in value.items()}
    return CrossEncoderFacts(**read)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--vectors", type=Path, default=Path("out/embeddings"))
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--queries", type=int, default=QUERIES)
    parser.add_argument("--all", action="store_true", help="every question of the splits")
    parser.add_argument("--small", default="builtin-small")
    parser.add_argument("--large", default="builtin-large")
    parser.add_argument("--roles", nargs="+", choices=ROLES, default=list(ROLES), help="add one model's logits later")
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    encoder = load_encoder("builtin", cache_dir=str(args.vectors / "graphs"))
    asking = Asking(tuple(args.roles), load_settings())
    for name in args.sets:
        data = sampled(args.data / name, SETS[name], None if args.all else args.queries)
        with indexed(args.data / name, args.vectors, encoder, Rerankers(small=args.small, large=args.large)) as scope:
            models = asyncio.run(reranked(scope, encoder, data, args.cache / f"log-{name}.parquet", asking))
        known = models_of(args.cache) if (args.cache / "models.json").exists() else {}
        text = json.dumps({role: asdict(one) for role, one in (known | models).items()}, indent=1)
        (args.cache / "models.json").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
