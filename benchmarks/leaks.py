"""Leak probe: questions that several tenants have in common, asked as every tenant, through every endpoint.

    python benchmarks/leaks.py --data DIR/medquad [--limit-docs 400]

Needs a running platform (`fathom up`). Nine tenants get the documents of their own site. The questions that
occur word for word in two or more sites are asked as all nine, on search (three modes), query and stream;
each answer, its audit record and every error is searched for ids of other tenants' documents. Then one
tenant's scores are asked for again after its neighbours' data changed: they must not differ by a bit.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from cluster.bench.platform import Platform, Tenant, running_platform


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a .jsonl.gz."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def shared_questions(data: Path) -> list[str]:
    """Questions that occur word for word in at least two tenants."""
    owners: dict[str, set[str]] = defaultdict(set)
    for row in read(data / "queries.jsonl.gz"):
        owners[row["text"]].add(row["tenant"])
    return sorted(text for text, sites in owners.items() if len(sites) > 1)


def sites(data: Path, limit: int) -> dict[str, list[dict[str, Any]]]:
    """Documents by site, at most `limit` each (0 = all), those that answer a shared question first."""
    wanted = set(shared_questions(data))
    queries = {row["_id"]: row["text"] for row in read(data / "queries.jsonl.gz")}
    gold = set()
    for split in (data / "qrels").glob("*.tsv"):
        for line in split.read_text(encoding="utf-8").splitlines()[1:]:
            query, document, _ = line.split("\t")
            if queries.get(query) in wanted:
                gold.add(document)
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in sorted(read(data / "corpus.jsonl.gz"), key=lambda row: row["_id"] not in gold):
        bucket = found[row["metadata"]["tenant"]]
        if not limit or len(bucket) < limit or row["_id"] in gold:
            bucket.append(row)
    return found


def leaks(text: str, own: set[str], pattern: re.Pattern[str]) -> list[str]:
    """Foreign document ids that occur in an answer's raw text."""
    return [name for name in set(pattern.findall(text)) if name not in own]


def probe(client: httpx.Client, tenant: Tenant, question: str) -> Iterator[tuple[str, httpx.Response]]:
    """Every way to ask `question` as `tenant`, with the audit record of each answer."""
    headers = {"Authorization": f"Bearer {tenant.key}"}
    bodies: list[tuple[str, Mapping[str, Any]]] = [
        *(("search", {"query": question, "mode": mode, "explain": True}) for mode in ("hybrid", "dense", "sparse")),
        ("query", {"query": question, "explain": True}),
        ("query", {"query": question, "stream": True}),
    ]
    for route, body in bodies:
        answer = client.post(f"{tenant.base}/{route}", json=body, headers=headers)
        yield route, answer
        if match := re.search(r'"query_id":\s*"(q_[^"]+)"', answer.text):
            yield "audit", client.get(f"{tenant.base}/queries/{match[1]}", headers=headers)


def foreign_reads(client: httpx.Client, tenant: Tenant, others: Sequence[Tenant], ids: Sequence[str]) -> Counter[str]:
    """Read other tenants' documents and paths with this tenant's key: all must be the same 404."""
    headers = {"Authorization": f"Bearer {tenant.key}"}
    seen: Counter[str] = Counter()
    for name in ids:
        answer = client.get(f"{tenant.base}/documents/{name}", headers=headers)
        seen["ok" if answer.status_code == 404 else f"documents {answer.status_code}"] += 1
    for other in others:
        answer = client.post(f"{other.base}/search", json={"query": "x"}, headers=headers)
        seen["ok" if answer.status_code == 404 else f"path {answer.status_code}"] += 1
    return seen


def scores(client: httpx.Client, tenant: Tenant, questions: Sequence[str]) -> str:
    """The ranked ids and every score of the questions' answers, as text."""
    headers = {"Authorization": f"Bearer {tenant.key}"}
    rows = []
    for question in questions:
        answer = client.post(f"{tenant.base}/search", json={"query": question, "rerank": "never"}, headers=headers)
        rows.append([(row["chunk_id"], row["score"], row["scores"]) for row in answer.json()["results"]])
    return json.dumps(rows)


def run(platform: Platform, data: Path, limit: int) -> dict[str, Any]:
    """Index, probe, change the neighbours, compare; returns the figures."""
    corpora, questions = sites(data, limit), shared_questions(data)
    owner = {row["_id"]: site for site, rows in corpora.items() for row in rows}
    pattern = re.compile("|".join(rf"{prefix}_[0-9][\w.-]*" for prefix in sorted({i.split("_")[0] for i in owner})))
    names = {site: f"leak-{site.lower()}" for site in sorted(corpora)}
    found: Counter[str] = Counter()
    with platform.tenants(list(names.values())) as made, httpx.Client(timeout=60) as client:
        for tenant, site in zip(made, names, strict=True):
            platform.index_documents(tenant.name, corpora[site])
        before = scores(client, made[0], questions[:50])
        for tenant, site in zip(made, names, strict=True):
            own = {row["_id"] for row in corpora[site]}
            for question in questions:
                for route, answer in probe(client, tenant, question):
                    found["probes"] += 1
                    found[f"{route} {answer.status_code}"] += 1
                    found["foreign"] += len(leaks(answer.text, own, pattern))
            strangers = [name for name, where in owner.items() if where != site][:: max(1, len(owner) // 200)]
            found.update(foreign_reads(client, tenant, [t for t in made if t is not tenant], strangers))
        for tenant in made[1:]:
            platform.index_documents(
                tenant.name, [{**row, "text": row["text"] + " changed"} for row in corpora[next(iter(names))][:100]]
            )
        after = scores(client, made[0], questions[:50])
    return {"questions": len(questions), "tenants": len(names), **found, "scores_bit_equal": before == after}


def main() -> None:
    """Parse the arguments and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of medquad")
    parser.add_argument("--limit-docs", type=int, default=0, help="documents per tenant, 0 = all")
    parser.add_argument(
        "--data-dir", default=None, help="the platform's data dir (default FATHOM_DATA_DIR or ./.fathom)"
    )
    arguments = parser.parse_args()
    print(json.dumps(run(running_platform(arguments.data_dir), arguments.data, arguments.limit_docs), indent=2))


if __name__ == "__main__":
    main()
