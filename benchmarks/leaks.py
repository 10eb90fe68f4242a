"""Leak probe: questions that several tenants have in common, asked as every tenant, through every endpoint.

    python benchmarks/leaks.py --data DIR/medquad [--limit-docs 400] [--in-turn] [--state FILE --minutes 4]

Needs a running platform (`fathom up`). Nine tenants get the documents of their own site. The questions that
occur word for word in two or more sites are asked as all nine, on search (three modes), query and stream; each
answer, its audit record and its errors are searched for ids of other tenants' documents; `--in-turn` asks each
question on the hybrid search and one of the other ways, by turns. Every tenant reads, deletes,
filters for and judges what is others': that must be answered exactly like what does not exist. Then one tenant's
scores are asked for again after its neighbours' data changed: they must not differ by a bit. With `--state` a call
ends after `--minutes` and the next one goes on; exit code 3 when questions are left, 1 when something leaked.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import secrets
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from cluster.bench.platform import Platform, Tenant, running_platform

Corpora = Mapping[str, Sequence[Mapping[str, Any]]]  # the documents of each site
SCORED = 50  # questions whose scores are compared
STRANGERS = 40  # documents of others that each tenant asks for by id
AT_ONCE = 4
NOT_DONE = 3


@dataclass
class State:
    """What earlier calls did: keys by site, sites indexed, the number of questions asked, and what was seen."""

    keys: dict[str, str] = field(default_factory=dict)
    indexed: list[str] = field(default_factory=list)
    asked: int = 0
    before: str = ""
    seen: Counter[str] = field(default_factory=Counter)
    leaked: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @classmethod
    def load(cls, path: Path | None) -> State:
        """As `save` left it; a new one where there is none."""
        value = json.loads(path.read_text("utf-8")) if path and path.exists() else {}
        return cls(**{**value, "seen": Counter(value.get("seen", {}))})

    def save(self, path: Path | None) -> None:
        """Keep it for the next call."""
        if path:
            path.write_text(json.dumps(vars(self)), "utf-8")


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


def sites(data: Path, limit: int) -> Corpora:
    """Documents by site, about `limit` each (0 = all), those that answer a shared question first and always."""
    wanted = set(shared_questions(data))
    queries = {row["_id"]: row["text"] for row in read(data / "queries.jsonl.gz")}
    gold = set()
    for split in (data / "qrels").glob("*.tsv"):
        for line in split.read_text(encoding="utf-8").splitlines()[1:]:
            query, document, _ = line.split("\t")
            if queries.get(query) in wanted:
                gold.add(document)
    found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in sorted(read(data / "corpus.jsonl.gz"), key=lambda row: row["_id"] not in gold):
        bucket = found[row["metadata"]["tenant"]]
        if not limit or len(bucket) < limit or row["_id"] in gold:
            # Without metadata.doc, which looks like an id and is none.
            about = {"tenant": row["metadata"]["tenant"]}
            bucket.append({"id": row["_id"], "title": row["title"], "text": row["text"], "metadata": about})
    return dict(sorted(found.items()))


@dataclass
class Probe:
    """One tenant's view: `own` are the ids of its documents, `query_id` that of its latest answer."""

    client: httpx.Client
    tenant: Tenant
    own: set[str]
    pattern: re.Pattern[str]
    seen: Counter[str] = field(default_factory=Counter)
    leaked: list[str] = field(default_factory=list)
    query_id: str = ""

    def call(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """Ask with this tenant's key; `path` below its own address, or a whole address."""
        address = path if path.startswith("http") else f"{self.tenant.base}/{path}"
        return self.client.request(method, address, headers={"Authorization": f"Bearer {self.tenant.key}"}, json=body)

    def ask(self, question: str, turn: int | None = None) -> None:
        """Every way to ask `question`, with the audit record of each answer; with a `turn` two of the ways."""
        ways: list[tuple[str, Mapping[str, Any]]] = [
            *(("search", {"query": question, "mode": mode, "explain": True}) for mode in ("hybrid", "dense", "sparse")),
            ("query", {"query": question, "explain": True}),
            ("query", {"query": question, "stream": True}),
        ]
        hybrid, *others = ways
        for route, body in (hybrid, *(others if turn is None else [others[turn % len(others)]])):
            answer = self._looked_through(route, self.call("POST", route, body))
            if match := re.search(r'"query_id":\s*"(q_[^"]+)"', answer.text):
                self.query_id = match[1]
                self._looked_through("audit", self.call("GET", f"queries/{match[1]}"))

    def browse(self) -> None:
        """Everything that lists."""
        more = ""
        while True:
            page = self._looked_through("documents", self.call("GET", f"documents?limit=100{more}"))
            if not (cursor := page.json()["next_cursor"]):
                break
            more = f"&cursor={cursor}"
        for route in ("versions", "jobs", "models"):
            self._looked_through(route, self.call("GET", route))

    def reach_for(self, ids: Sequence[str], others: Sequence[Probe]) -> None:
        """Ask for what is others': the answers must be those to names that nobody has."""
        nobody, no_query = f"Nobody_{secrets.token_hex(4)}", f"q_{secrets.token_hex(16)}"
        for name in ids:
            for method in ("GET", "DELETE"):
                self._as_nobody(method, (f"documents/{name}", None, name), (f"documents/{nobody}", None, nobody))
            found = self.call("POST", "search", {"query": name, "filter": _only(name)})
            self._compare("filter", found.json()["results"], [])
        for other in others:
            theirs, none = other.query_id, no_query
            self._as_nobody("GET", (f"queries/{theirs}", None, theirs), (f"queries/{none}", None, none))
            self._as_nobody("POST", ("feedback", _rated(theirs), theirs), ("feedback", _rated(none), none))
            there, nowhere = other.tenant.name, f"{other.tenant.name}-no"
            for route in ("search", "query", "documents", "erase", "rollback", "jobs"):
                address = f"{other.tenant.base}/{route}"
                strange = address.replace(f"/{there}/", f"/{nowhere}/")
                self._as_nobody("POST", (address, {"query": "x"}, there), (strange, {"query": "x"}, nowhere))

    def _as_nobody(self, method: str, theirs: tuple[str, Any, str], nobodys: tuple[str, Any, str]) -> None:
        """Both requests as (path, body, name): the answers may differ only where they repeat the name."""
        found, expected = (
            (answer.status_code, re.sub(r'"request_id":\s*"[^"]*"', "", answer.text).replace(name, "NAME"))
            for path, body, name in (theirs, nobodys)
            for answer in [self.call(method, path, body)]
        )
        self._compare(f"{method} {found[0]}", found, expected)

    def _compare(self, what: str, found: Any, expected: Any) -> None:
        self.seen[f"reached for: {what}"] += 1
        if found != expected:
            self.leaked.append(f"{self.tenant.name} {what}: {found} instead of {expected}"[:500])

    def _looked_through(self, route: str, answer: httpx.Response) -> httpx.Response:
        self.seen[f"{route} {answer.status_code}"] += 1
        foreign = {name for name in self.pattern.findall(answer.text) if name not in self.own}
        self.leaked += [f"{self.tenant.name} {route}: {name}" for name in sorted(foreign)]
        return answer


def _only(name: str) -> dict[str, str]:
    return {"field": "document_id", "op": "eq", "value": name}


def _rated(query_id: str) -> dict[str, Any]:
    return {"query_id": query_id, "rating": 1}


def scores(probe: Probe, questions: Sequence[str]) -> str:
    """The ranked ids and every score of the questions' answers, as text."""
    rows = []
    for question in questions:
        answer = probe.call("POST", "search", {"query": question, "rerank": "never"})
        rows.append([(row["chunk_id"], row["score"], row["scores"]) for row in answer.json()["results"]])
    return json.dumps(rows)


def prepare(platform: Platform, corpora: Corpora, state: State, until: float) -> bool:
    """Make and index the tenants that are not yet, as far as the time goes; whether all are."""
    for site, rows in corpora.items():
        if time.monotonic() > until:
            return False
        if site not in state.keys:
            platform.delete(_name(site))
            state.keys[site] = platform.create(_name(site)).key
        if site not in state.indexed:
            platform.index_documents(_name(site), rows)
            state.indexed.append(site)
    return True


def ask_all(probes: Mapping[str, Probe], questions: Sequence[str], state: State, until: float, *, turns: bool) -> bool:
    """Go on asking, all tenants the same question at once; whether all were asked."""
    state.before = state.before or scores(_largest(probes), questions[:SCORED])
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for number, question in enumerate(questions):
            if number < state.asked:
                continue
            if time.monotonic() > until:
                return False
            asking = [
                threads.submit(probe.ask, question, number + place if turns else None)
                for place, probe in enumerate(probes.values())
            ]
            for done in asking:
                done.result()
            state.asked = number + 1
    return True


def reach(probes: Mapping[str, Probe], questions: Sequence[str]) -> None:
    """As every tenant: list everything, and ask for what is others'."""
    for probe in probes.values():
        probe.browse()
        probe.ask(questions[0])
    for probe in probes.values():
        others = [one for one in probes.values() if one is not probe]
        foreign = sorted(name for one in others for name in one.own)
        probe.reach_for(foreign[:: max(1, len(foreign) // STRANGERS)], others)


def change_neighbours(platform: Platform, probes: Mapping[str, Probe], corpora: Corpora) -> None:
    """Everybody but the largest tenant gets some of its documents, changed."""
    largest = _largest(probes)
    rows = next(corpora[site] for site, probe in probes.items() if probe is largest)
    changed = [{**row, "text": row["text"] + " changed"} for row in rows[:100]]
    for probe in probes.values():
        if probe is not largest:
            platform.index_documents(probe.tenant.name, changed)


def _largest(probes: Mapping[str, Probe]) -> Probe:
    return max(probes.values(), key=lambda probe: len(probe.own))


def _name(site: str) -> str:
    return f"leak-{site.lower()}"


def run(platform: Platform, options: argparse.Namespace, state: State) -> dict[str, Any]:
    """Index, ask, reach, change the neighbours, compare; gives the figures, those of earlier calls included."""
    until = time.monotonic() + 60 * options.minutes
    corpora, questions = sites(options.data, options.limit_docs), shared_questions(options.data)
    prefixes = sorted({row["id"].split("_")[0] for rows in corpora.values() for row in rows})
    pattern = re.compile("|".join(rf"{prefix}_[0-9][\w.-]*" for prefix in prefixes))
    about = {"questions": len(questions), "tenants": len(corpora), "documents": sum(map(len, corpora.values()))}
    equal = None
    if prepare(platform, corpora, state, until):
        with httpx.Client(timeout=300) as client:
            probes = {
                site: Probe(client, _tenant(platform, site, state), {row["id"] for row in rows}, pattern)
                for site, rows in corpora.items()
            }
            if ask_all(probes, questions, state, until, turns=options.in_turn):
                reach(probes, questions)
                change_neighbours(platform, probes, corpora)
                equal = scores(_largest(probes), questions[:SCORED]) == state.before
                for probe in probes.values():
                    platform.delete(probe.tenant.name)
            for probe in probes.values():
                state.seen.update(probe.seen)
                state.leaked += probe.leaked
    seen = dict(sorted(state.seen.items()))
    return {**about, "asked": state.asked, **seen, "leaked": state.leaked[:50], "scores_bit_equal": equal}


def _tenant(platform: Platform, site: str, state: State) -> Tenant:
    return Tenant(_name(site), state.keys[site], f"{platform.url}/t/{_name(site)}/v1")


def main() -> int:
    """Parse the arguments and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of medquad")
    parser.add_argument("--limit-docs", type=int, default=0, help="documents per tenant, 0 = all")
    parser.add_argument("--in-turn", action="store_true", help="two of the ways to ask for each question")
    parser.add_argument("--state", type=Path, help="keeps what was done between calls")
    parser.add_argument("--minutes", type=float, default=600.0, help="after which a call ends")
    parser.add_argument(
        "--data-dir", default=None, help="the platform's data dir (default FATHOM_DATA_DIR or ./.fathom)"
    )
    options = parser.parse_args()
    state, began = State.load(options.state), time.monotonic()
    figures = run(running_platform(options.data_dir), options, state)
    state.seconds += time.monotonic() - began
    state.save(options.state)
    about = {"seconds": round(state.seconds), "cores": os.cpu_count(), "date": datetime.now(UTC).date().isoformat()}
    print(json.dumps({**figures, **about}, indent=2))
    if state.leaked or figures["scores_bit_equal"] is False:
        return 1
    return NOT_DONE if figures["scores_bit_equal"] is None else 0


if __name__ == "__main__":
    sys.exit(main())
