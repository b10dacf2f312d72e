"""The OpenAPI document and Swagger UI, which the gateway serves from its binary."""

import re

import httpx
import pytest

from tests.gateway.support import GATEWAY


async def test_openapi_document_is_the_committed_file(http: httpx.AsyncClient) -> None:
    response = await http.get("/openapi.json")

    assert response.headers["content-type"] == "application/json"
    assert response.content == (GATEWAY / "gen" / "openapi.json").read_bytes()


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_page_loads_only_files_of_the_gateway_and_runs_nothing_inline(
    http: httpx.AsyncClient, path: str
) -> None:
    page = await http.get(path)

    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    loaded = re.findall(r'<(?:script|link)[^>]* (?:src|href)="([^"]+)"', page.text)
    assert loaded
    for asset in loaded:
        assert asset.startswith("/docs/")
        assert (await http.get(asset)).status_code == 200
    assert not re.search(r"<style| style=|<script>| on[a-z]+=", page.text)
    # The browser enforces it.
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy


async def test_first_page_links_the_console_the_documentation_and_the_health(
    http: httpx.AsyncClient,
) -> None:
    page = await http.get("/")

    links = re.findall(r'<a href="([^"]+)"', page.text)
    assert links == ["/console", "/docs", "/openapi.json", "/healthz"]
    for link in links:
        assert (await http.get(link)).status_code == 200
    assert f"curl {str(http.base_url).rstrip('/')}/customer/jobs" in page.text
    assert '<a href="/console">' in (await http.get("/docs")).text
