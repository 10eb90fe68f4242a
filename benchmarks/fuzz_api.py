"""Schemathesis on a running platform's /openapi.json: no 5xx, no answer outside the schema.

    .venv/bin/python benchmarks/fuzz_api.py --url http://127.0.0.1:8000 --admin-key KEY [--cases 5000]
        [--state FILE --minutes 4]

Makes a tenant of its own, asks every operation with valid and with invalid data as that tenant and as the operator,
and deletes the tenant. Prints one JSON document; exit code 1 when a check failed. 503 with Retry-After counts as a
refusal, not as a fault, and is reported beside the others. With `--state` a call ends after `--minutes`, and the next
one goes on with the operations that are left and sums up; it ends with exit code 3 when some are left.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import schemathesis
from hypothesis import HealthCheck, Phase
from schemathesis.checks import load_all_checks
from schemathesis.core.failures import FailureGroup
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = (
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
)
REFUSED = 503
SERVER_ERROR = 500
NOT_DONE = 3


@dataclass
class Report:
    """What was asked and what came back; `done` are the operations that had all of their cases."""

    cases: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    left: int = 0
    seconds: float = 0.0

    @classmethod
    def load(cls, path: Path | None) -> Report:
        """As `save` left it; a new one where there is none."""
        value = json.loads(path.read_text("utf-8")) if path and path.exists() else {}
        statuses = Counter({int(code): number for code, number in value.get("statuses", {}).items()})
        return cls(**{**value, "statuses": statuses})

    def save(self, path: Path | None) -> None:
        """Keep it for the next call."""
        if path:
            path.write_text(json.dumps(vars(self)), "utf-8")


def fuzz(
    schema: Any,
    tenant: str,
    headers: dict[str, dict[str, str]],
    cases: int,
    report: Report | None = None,
    seconds: float = float("inf"),
) -> Report:
    """Ask every operation about `cases` / operations times; `headers` by family: tenant, operator.

    Half of the cases break the schema on purpose. A path's tenant is mostly `tenant`, so that the routes are reached.
    Operations that `report` has done are left out, and no other is begun after `seconds`.
    """
    load_all_checks()
    report = report or Report()
    began = time.monotonic()
    operations = [found.ok() for found in schema.get_all_operations()]
    each = max(1, -(-cases // (2 * len(operations))))
    for operation in operations:
        if operation.label in report.done or time.monotonic() - began > seconds:
            continue
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            _operation(operation, mode, each, tenant, headers, report)
        report.done.append(operation.label)
    report.left = len(operations) - len(report.done)
    report.seconds += time.monotonic() - began
    return report


def _operation(
    operation: Any, mode: GenerationMode, examples: int, tenant: str, headers: dict[str, dict[str, str]], report: Report
) -> None:
    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        family = "operator" if operation.path.startswith("/admin") else "tenant"
        if family == "tenant" and case.path_parameters and report.cases % 8:
            case.path_parameters["tenant"] = tenant
        answer = case.call(headers=headers[family])
        report.cases += 1
        report.statuses[answer.status_code] += 1
        if answer.status_code >= SERVER_ERROR and answer.status_code != REFUSED:
            report.faults.append(f"{operation.label}: {answer.status_code}")
        try:
            case.validate_response(answer, checks=CHECKS)
        except FailureGroup as group:
            report.faults += [f"{operation.label}: {str(fault)[:300]}" for fault in group.exceptions]

    try:
        ask()
    except hypothesis.errors.Unsatisfiable:
        return  # nothing can break an operation without parameters


def main() -> int:
    """Print the report as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--admin-key", required=True)
    parser.add_argument("--cases", type=int, default=5_000)
    parser.add_argument("--state", type=Path, help="keeps the sum between calls")
    parser.add_argument("--minutes", type=float, default=600.0, help="after which a call ends")
    options = parser.parse_args()
    report = _fuzz_platform(options)
    report.save(options.state)
    result = {
        "cases": report.cases,
        "operations": len(report.done),
        "operations_left": report.left,
        "statuses": dict(sorted(report.statuses.items())),
        "faults": report.faults[:50],
        "seconds": round(report.seconds, 1),
        "cores": os.cpu_count(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    print(json.dumps(result, indent=2))
    return 1 if report.faults else NOT_DONE if report.left else 0


def _fuzz_platform(options: argparse.Namespace) -> Report:
    operator = {"Authorization": f"Bearer {options.admin_key}"}
    name = f"fuzz-{secrets.token_hex(4)}"
    with httpx.Client(base_url=options.url, headers=operator, timeout=60, trust_env=False) as client:
        made = client.post("/admin/v1/tenants", json={"name": name}).raise_for_status().json()
        # The operator's key is not counted against the tenant's rate, which would refuse most of the cases.
        headers = {"tenant": operator, "operator": operator}
        schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
        schema.config.update(base_url=options.url)
        try:
            known = Report.load(options.state)
            return fuzz(schema, made["tenant"], headers, options.cases, known, 60 * options.minutes)
        finally:
            client.delete(f"/admin/v1/tenants/{name}")


if __name__ == "__main__":
    sys.exit(main())
