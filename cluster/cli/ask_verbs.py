"""`fathom search` and `fathom ask`: one question over HTTP."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.cli.options import DataDir, Json, Mode, ModeChoice, Rerank, RerankChoice, Tenant, read_settings
from cluster.cli.output import Output
from tenants.errors import Unavailable

Text = Annotated[str, typer.Argument(help="The question, in quotes.")]
TopK = Annotated[int, typer.Option("--top-k", help="How many passages.", min=1, max=100)]
Explain = Annotated[bool, typer.Option("--explain", help="Also every score, rank and stage time.")]
QUOTE_CHARS = 160


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command()(search)
    app.command()(ask)


def search(
    tenant: Tenant,
    text: Text,
    top_k: TopK = 10,
    rerank: Rerank = RerankChoice.auto,
    mode: Mode = ModeChoice.hybrid,
    explain: Explain = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Rank a tenant's passages for a question.

    Example: `fathom search acme "how do I rotate a key" --top-k 5`
    """
    body = {"query": text, "top_k": top_k, "rerank": rerank, "mode": mode, "explain": explain}
    found = _post(data_dir, tenant, "search", body)
    lines = [_hit_line(hit, explain=explain) for hit in found["results"]] or ["nothing found"]
    Output(json).result(found, *lines, *decision_lines(found, explain=explain))


def ask(
    tenant: Tenant,
    text: Text,
    stream: Annotated[bool, typer.Option("--stream", help="Print the answer as it is written.")] = False,
    top_k: TopK = 10,
    rerank: Rerank = RerankChoice.auto,
    mode: Mode = ModeChoice.hybrid,
    explain: Explain = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Answer a question from a tenant's documents, with citations.

    Example: `fathom ask acme "how do I rotate a key" --stream`
    """
    body = {"query": text, "top_k": top_k, "rerank": rerank, "mode": mode, "explain": explain}
    output = Output(json)
    if stream and not json:
        answer = _stream(data_dir, tenant, {**body, "stream": True})
        output.result(answer, "", *citation_lines(answer), *decision_lines(answer, explain=explain))
        return
    answer = _post(data_dir, tenant, "query", body)
    output.result(answer, *answer_lines(answer), *decision_lines(answer, explain=explain))


def answer_lines(answer: Mapping[str, Any]) -> list[str]:
    """The answer and its citations, for people."""
    return [answer["answer"], "", *citation_lines(answer)]


def citation_lines(answer: Mapping[str, Any]) -> list[str]:
    """One line a citation: marker, document, place, quote."""
    return [
        f"  [{one['marker']}] {one['document_id']}{_place(one)}  “{_short(one['quote'])}”"
        for one in answer["citations"]
    ]


def decision_lines(found: Mapping[str, Any], *, explain: bool) -> list[str]:
    """What was decided and what it cost."""
    rerank, times = found["rerank"], found["timings_ms"]
    spent = ", ".join(f"{name} {value:.0f}" for name, value in times.items() if name != "total")
    lines = [
        f"  rerank: {rerank['decision']}, {rerank['pairs']} of {rerank['candidates']} pairs scored. {rerank['reason']}",
        f"  cost:   {times['total']:.0f} ms ({spent}); {_by(found)}; {found['query_id']}",
    ]
    if found["degraded"]:
        lines.append(f"  degraded: {', '.join(found['degraded'])}")
    if explain and found.get("explain"):
        told = dict(found["explain"])
        lines += candidate_lines(told.pop("candidates"))
        lines.append("  " + "; ".join(f"{name}: {_flat(value)}" for name, value in told.items()))
    return lines


def candidate_lines(columns: Mapping[str, Sequence[Any]]) -> list[str]:
    """One line a candidate, best first: what became of it, and why."""
    lines = [""]
    for place, (document, reason) in enumerate(zip(columns["document_id"], columns["reason"], strict=True)):
        why = [reason]
        if "decision" in columns:
            large, small = columns["large"][place], columns["small"][place]
            logit = large if large is not None else small
            said = "" if logit is None else f" logit {logit:+.2f}"
            why.append(f"{columns['decision'][place]}{said} opinion {columns['expected'][place]:.2f}")
            why += [columns["flags"][place]] if columns["flags"][place] else []
        lines.append(f"  {place + 1:>3}. {document}  first stage {columns['fused_rank'][place]}  {'; '.join(why)}")
    return lines


def _post(data_dir: Path | None, tenant: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    from cluster.cli.client import connect

    return dict(connect(read_settings(data_dir)).tenant(tenant, "POST", path, body))


def _stream(data_dir: Path | None, tenant: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Print tokens as they come; returns the whole answer. Raises `Unavailable` when the stream ends early."""
    from cluster.cli.client import connect

    with connect(read_settings(data_dir)).events(tenant, "query", body) as events:
        for name, data in events:
            if name == "token":
                sys.stdout.write(data["text"] if isinstance(data, Mapping) else str(data))
                sys.stdout.flush()
            elif name == "answer":
                sys.stdout.write("\n")
                return dict(data)
            elif name == "error":
                raise Unavailable(str(data.get("detail", "the stream failed; ask again")))
    raise Unavailable("the stream ended before the answer was complete; ask again")


def _hit_line(hit: Mapping[str, Any], *, explain: bool) -> str:
    head = f"{hit['rank']:>3}. {hit['score']:.3f}  {hit['document_id']}{_span(hit['span'])}  {_short(hit['text'])}"
    return head + (f"\n       scores {_values(hit['scores'])}  ranks {_values(hit['ranks'])}" if explain else "")


def _flat(value: Any) -> str:
    """A short value as it is, a long one by its length: `--json` has all of it."""
    text = str(value)
    return text if len(text) <= QUOTE_CHARS else f"{len(value)} entries"


def _values(numbers: Mapping[str, float | None]) -> str:
    known: Sequence[str] = [f"{name}={value:.4g}" for name, value in numbers.items() if value is not None]
    return " ".join(known)


def _span(span: Mapping[str, Any]) -> str:
    return f" p. {span['page']}" if span.get("page") else ""


def _place(citation: Mapping[str, Any]) -> str:
    return f" p. {citation['page']}" if citation.get("page") else f" ({citation['char_start']}–{citation['char_end']})"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= QUOTE_CHARS else line[: QUOTE_CHARS - 1] + "…"


def _by(found: Mapping[str, Any]) -> str:
    """The version that answered, and which variant, where there are several."""
    version = f"index version {found['index_version']}"
    return f"{version}; variant {found['variant']}" if found["variant"] else version
