"""/docs without internet: the page and everything that it loads come from the platform."""

from __future__ import annotations

import re
from urllib.parse import urljoin

import pytest


async def test_the_page_loads_only_what_the_platform_itself_serves(world) -> None:
    page = await world.client.get("/docs")
    assert page.status_code == 200
    assert not re.search(r"(?:https?:)?//", page.text)
    wanted = re.findall(r'(?:href|src)="([^"]+)"', page.text)
    assert len(wanted) == 3
    for address in wanted:
        found = await world.client.get(urljoin("/docs", address))
        assert found.status_code == 200, address
        assert len(found.content) > 1_000
        assert found.headers["content-type"].startswith(("text/css", "text/javascript", "image/png"))
    assert "url: 'openapi.json'" in page.text


@pytest.mark.parametrize("name", ["redoc.standalone.js", "..%2f__init__.py", "nothing"])
async def test_no_other_file_of_the_package_is_served(world, name: str) -> None:
    assert (await world.client.get(f"/docs/{name}")).status_code == 404
