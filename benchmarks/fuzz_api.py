"""Schemathesis on a running platform's /openapi.json: no 5xx, no answer outside the schema.

    .venv/bin/python benchmarks/fuzz_api.py --url http://127.0.0.1:8000 --admin-key KEY [--cases 5000]

Makes a tenant of its own, asks every operation with valid and with invalid data as that tenant and as the operator,
and deletes the tenant. Prints one JSON document; exit code 1 when a check failed. 503 with Retry-After counts as a
refusal, not as a fault, and is reported beside the others.
"""

from __future__ import annotations

import argparse
import json
import platform
import secrets
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
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


@dataclass
class Report:
    """What was asked and what came back."""

    cases: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def fuzz(schema: Any, tenant: str, headers: dict[str, dict[str, str]], cases: int) -> Report:
    """Ask every operation about `cases` / operations times; `headers` by family: tenant, operator.

    Half of the cases break the schema on purpose. A path's tenant is mostly `tenant`, so that the routes are reached.
    """
    load_all_checks()
    report = Report()
    operations = [found.ok() for found in schema.get_all_operations()]
    each = max(1, cases // (2 * len(operations)))
    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            _operation(operation, mode, each, tenant, headers, report)
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
    options = parser.parse_args()
    operator = {"Authorization": f"Bearer {options.admin_key}"}
    name, began = f"fuzz-{secrets.token_hex(4)}", time.monotonic()
    with httpx.Client(base_url=options.url, headers=operator, timeout=60, trust_env=False) as client:
        made = client.post("/admin/v1/tenants", json={"name": name}).raise_for_status().json()
        # The operator's key is not counted against the tenant's rate, which would refuse most of the cases.
        schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
        schema.config.update(base_url=options.url)
        report = fuzz(schema, made["tenant"], {"tenant": operator, "operator": operator}, options.cases)
        client.delete(f"/admin/v1/tenants/{name}")
    result = {
        "cases": report.cases,
        "statuses": dict(sorted(report.statuses.items())),
        "faults": report.faults[:50],
        "seconds": round(time.monotonic() - began, 1),
        "machine": platform.processor() or platform.machine(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    print(json.dumps(result, indent=2))
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
