"""The API's pages for people: Swagger UI over /openapi.json, every byte from this machine.

FastAPI's own page loads its scripts from a public network, which the machines this runs on may not reach. The files
are Swagger UI's, as the package `fastapi-offline` carries them; none of its code runs.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse

from tenants.errors import NotFound

_PACKAGE = "fastapi_offline"
_MEDIA = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "favicon.png": "image/png"}

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def page() -> HTMLResponse:
    """Swagger UI; addresses are relative, so that it also works behind a path of a proxy."""
    return get_swagger_ui_html(
        openapi_url="openapi.json",
        title="Fathom",
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="docs/favicon.png",
    )


@router.get("/docs/{name}")
async def asset(name: str) -> FileResponse:
    """One of the page's files."""
    if name not in _MEDIA:
        raise NotFound("nothing is here; /docs lists every path")
    return FileResponse(_folder() / name, media_type=_MEDIA[name], headers={"Cache-Control": "public, max-age=86400"})


@lru_cache(maxsize=1)
def _folder() -> Path:
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{_PACKAGE} is not installed; run `make setup`")
    return Path(spec.origin).parent / "static"
