"""The OpenAPI document and Swagger UI, which the gateway serves from its binary."""

import re

import httpx

from tests.gateway.support import GATEWAY


async def test_openapi_document_is_the_committed_file(http: httpx.AsyncClient) -> None:
    response = await http.get("/openapi.json")

    assert response.headers["content-type"] == "application/json"
    assert response.content == (GATEWAY / "gen" / "openapi.json").read_bytes()


async def test_docs_page_loads_only_files_of_the_gateway(http: httpx.AsyncClient) -> None:
    for path in ("/docs", "/docs/"):
        page = await http.get(path)
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/html")
        loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(loaded) >= 3
        for asset in loaded:
            assert asset.startswith("/docs/")
            assert (await http.get(asset)).status_code == 200
        assert '"/openapi.json"' in page.text
        # The content security policy makes the browser enforce it.
        assert "connect-src 'self'" in page.headers["content-security-policy"]
