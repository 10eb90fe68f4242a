"""The HTTP side of the CLI: one client on a running platform, problems translated back into Fathom's errors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import httpx

from cluster.status import running_platform
from services.control_plane import ADMIN_KEY_FILE
from services.settings import Settings, setting_sources
from tenants import errors
from tenants.errors import FathomError, FieldError, Unauthenticated, Unavailable

TIMEOUT_S = 120.0


class Client:
    """Speaks to the platform at `url` with the operator's or a tenant's key."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {key}"}, timeout=TIMEOUT_S, trust_env=False
        )

    def call(self, method: str, path: str, body: Any = None, **params: Any) -> Any:
        """One request; the decoded answer, None without a body. Raises the error that the problem names."""
        try:
            answer = self._http.request(method, path, json=body, params=_given(params))
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        _raise_for(answer)
        return answer.json() if answer.content else None

    def tenant(self, tenant: str, method: str, path: str, body: Any = None, **params: Any) -> Any:
        """One request below `/t/{tenant}/v1`."""
        return self.call(method, f"/t/{quote(tenant, safe='')}/v1/{path}", body, **params)

    @contextmanager
    def events(self, tenant: str, path: str, body: Any) -> Iterator[Iterator[tuple[str, Any]]]:
        """Server-sent events of one POST as (name, decoded data)."""
        url = f"/t/{quote(tenant, safe='')}/v1/{path}"
        try:
            with self._http.stream("POST", url, json=body) as answer:
                if answer.is_error:
                    answer.read()
                    _raise_for(answer)
                yield _parse_events(answer.iter_lines())
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: httpx.HTTPError) -> Unavailable:
        reason = str(error) or type(error).__name__
        return Unavailable(f"{self.url} does not answer ({reason}); see `fathom status`, or set FATHOM_URL")


def connect(settings: Settings) -> Client:
    """The platform that FATHOM_URL names, or the one that runs on the data dir.

    Raises `Unavailable` when there is neither, `Unauthenticated` without any key.
    """
    client = try_connect(settings)
    if client is None:
        raise Unavailable(f"no platform runs on {settings.data_dir}; start it with `fathom up`, or set FATHOM_URL")
    return client


def try_connect(settings: Settings) -> Client | None:
    """Like `connect`, but None when nothing runs here and no URL was given."""
    if setting_sources()["url"] != "default":
        return Client(settings.url, _key(settings))
    info = running_platform(settings.data_dir)
    return Client(info.url, _key(settings)) if info else None


def _key(settings: Settings) -> str:
    key = settings.api_key or settings.admin_key
    if key:
        return key
    try:
        return (settings.secrets_dir / ADMIN_KEY_FILE).read_text(encoding="utf-8").strip()
    except OSError:
        raise Unauthenticated("there is no key here; set FATHOM_API_KEY, or name the data dir with one") from None


def _raise_for(answer: httpx.Response) -> None:
    if not answer.is_error:
        return
    try:
        problem = dict(answer.json())
    except ValueError:
        problem = {}
    known = _by_code().get(str(problem.get("code")), Unavailable if answer.status_code >= 500 else FathomError)
    detail = str(problem.get("detail") or f"the platform answered {answer.status_code}")
    raise known(
        detail,
        retry_after_s=_seconds(answer.headers.get("Retry-After")),
        errors=tuple(FieldError(str(item["pointer"]), str(item["detail"])) for item in problem.get("errors") or ()),
    )


def _by_code() -> Mapping[str, type[FathomError]]:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FathomError)]
    return {kind.code: kind for kind in kinds}


def _seconds(text: str | None) -> float | None:
    return float(text) if text and text.replace(".", "", 1).isdigit() else None


def _given(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}


def _parse_events(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """WHATWG server-sent events: fields until a blank line; comments start with a colon."""
    name, data = "message", []
    for line in lines:
        if line.startswith("event:"):
            name = line[6:].strip()
        elif line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            yield name, json.loads("\n".join(data))
            name, data = "message", []
