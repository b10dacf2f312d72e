"""Signing in with a real OpenID provider."""

import asyncio
import base64
import json
import os
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, Request, Response, Route, expect

from tests.console.browser import Console, open_console
from tests.gateway.support import running_gateway
from tests.support.database import Database
from tests.support.server import reserved_address, running_server
from tests.support.waiting import TIMEOUT

_PROVIDER = Path(__file__).parent / "provider"
# The console renews a token a minute before it expires.
RENEWED_AFTER = 3
LIFETIME = 60 + RENEWED_AFTER


@asynccontextmanager
async def running_provider(redirect_uri: str, tenant: str) -> AsyncIterator[str]:
    """Run the provider on a free port and yield its URL."""
    node = shutil.which("node")
    if node is None or not (_PROVIDER / "node_modules").exists():
        if os.environ.get("CI"):
            pytest.fail("`make test-console` installs the OpenID provider, which needs Node")
        pytest.skip("the OpenID provider is not installed: run `make test-console`")
    process = await asyncio.create_subprocess_exec(
        *(node, _PROVIDER / "main.js", redirect_uri, tenant, str(LIFETIME)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout
    try:
        async for line in process.stdout:
            if line.startswith(b"http"):
                yield line.decode().strip()
                break
        else:
            raise AssertionError("the provider ended")
    finally:
        process.kill()
        await process.communicate()


@pytest.fixture(scope="module")
async def site(gateway_binary: Path, database: Database) -> AsyncIterator[str]:
    """The URL of a console that signs in with a provider, in front of a server that trusts it.

    The users of the provider are in the tenant acme.
    """
    with reserved_address() as address:
        async with (
            running_provider(f"http://{address}/console/signed-in", "acme") as issuer,
            running_server(
                database.request_dsn,
                JOBS_AUTH="jwt",
                JOBS_JWT_KEYS=f"{issuer}/jwks",
                JOBS_JWT_ISSUER=issuer,
                JOBS_JWT_AUDIENCE="urn:jobs",
            ) as server,
            running_gateway(
                gateway_binary,
                server.address,
                LISTEN=address,
                REQUIRE_TOKEN="true",
                OIDC_ISSUER=issuer,
                OIDC_CLIENT_ID="console",
                OIDC_SCOPES="openid",
            ) as gateway,
        ):
            yield gateway.url


@pytest.fixture
async def console(browser: Browser, site: str) -> AsyncIterator[Console]:
    """A window before the sign-in."""
    async with open_console(browser, site) as console:
        yield console


async def sign_in(page: Page) -> None:
    """Sign in as olivia, from the page of the console to that of the provider and back."""
    await page.get_by_role("button", name="Sign in").click()
    await page.locator("input[name=login]").fill("olivia")
    await page.locator("input[name=password]").fill("any")
    await page.get_by_role("button", name="Sign-in").click()


async def test_sign_in_returns_to_the_url_and_keeps_tokens_in_memory(
    console: Console, database: Database
) -> None:
    await database.add_devices("acme", ["pump-1"])
    page = console.page
    tokens: list[str] = []
    grants: list[str] = []
    page.on("request", lambda r: tokens.append(r.headers.get("authorization", "")))
    page.on("request", lambda r: grants.append((r.post_data or "") if _is_token(r.url) else ""))
    cookies: list[str] = []

    def note_cookie(response: Response) -> None:
        if response.url.startswith(console.url) and "set-cookie" in response.headers:
            cookies.append(response.url)

    page.on("response", note_cookie)
    await console.open("/devices?id=pump")
    await sign_in(page)
    await expect(page.get_by_role("link", name="pump-1")).to_be_visible()
    assert page.url == f"{console.url}/console/devices?id=pump"
    who = "acme · olivia (admin)"
    await expect(page.locator(".who")).to_contain_text(who)
    typed = page.get_by_role("search").get_by_role("textbox").first
    (exchange,) = filter(None, grants)
    assert "grant_type=authorization_code" in exchange
    assert "code_verifier=" in exchange

    async with page.expect_request(lambda r: _is_token(r.url)) as renewal:
        pass
    assert "grant_type=refresh_token" in ((await renewal.value).post_data or "")
    first = next(filter(None, tokens))
    await typed.fill("pump-1 is typed")
    async with page.expect_response(
        lambda r: (
            r.url.endswith("/customer/caller")
            and r.request.headers.get("authorization", first) != first
        ),
        timeout=60_000,
    ) as answer:
        pass
    await (await answer.value).finished()
    await expect(typed).to_have_value("pump-1 is typed")
    await expect(page.get_by_role("link", name="pump-1")).to_be_visible()
    stored = await page.evaluate("JSON.stringify([localStorage, sessionStorage])")
    assert stored == "[{},{}]"
    assert cookies == []

    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    await expect(page.get_by_role("link", name="pump-1")).to_have_count(0)


async def test_stream_is_opened_again_when_only_its_token_has_ended(console: Console) -> None:
    ended = {"code": "UNAUTHENTICATED", "detail": "it has expired", "reason": "", "request_id": ""}
    page = console.page
    opened: list[str] = []
    renewed = asyncio.Event()

    async def end_first_stream(route: Route) -> None:
        opened.append(route.request.headers["authorization"])
        if len(opened) > 1:
            await route.continue_()
            return
        await renewed.wait()
        await route.fulfill(
            content_type="text/event-stream", body=f"event: failure\ndata: {json.dumps(ended)}\n\n"
        )

    def note_renewal(request: Request) -> None:
        if opened and request.headers.get("authorization", opened[0]) != opened[0]:
            renewed.set()

    page.on("request", note_renewal)
    await page.route("**/customer/events:watch*", end_first_stream)
    await console.open("/events")
    await sign_in(page)
    await expect(page.get_by_text("No events in the last day")).to_be_visible()
    first, second = opened
    assert first != second
    await expect(page.get_by_role("button", name="Sign out")).to_be_visible()


def _is_token(url: str) -> bool:
    return url.endswith("/token")


async def test_failed_sign_in_says_why(console: Console) -> None:
    await console.open("/signed-in?error=access_denied&error_description=no&state=x")
    await expect(console.page.get_by_role("status")).to_contain_text("The sign-in failed")
    await expect(console.page.get_by_role("button", name="Sign in")).to_be_visible()


async def test_console_says_that_the_provider_is_away(
    browser: Browser, gateway_binary: Path
) -> None:
    with reserved_address() as away:
        async with (
            running_gateway(
                gateway_binary,
                "127.0.0.1:1",
                REQUIRE_TOKEN="true",
                OIDC_ISSUER=f"http://{away}",
                OIDC_CLIENT_ID="console",
            ) as gateway,
            open_console(browser, gateway.url) as console,
        ):
            await console.open("/jobs")
            await console.page.get_by_role("button", name="Sign in").click()
            await expect(console.page.get_by_role("alert")).to_contain_text(
                f"{away} can't be reached"
            )


EVIL = "https://evil.example"


# Changes the issuer of the redirect before the console reads it: routes do not see redirects.
FORGE_REDIRECT = """
if (location.pathname === "/console/signed-in") {
  const url = new URL(location.href);
  url.searchParams.delete("iss");
  for (const issuer of %s) url.searchParams.append("iss", issuer);
  history.replaceState(null, "", url);
}
"""


async def forge_discovery(route: Route) -> None:
    """Change the issuer of the discovery document."""
    response = await route.fetch()
    await route.fulfill(response=response, json=await response.json() | {"issuer": EVIL})


async def forge_nonce(route: Route) -> None:
    """Let the provider issue an ID token for another sign-in."""
    await route.continue_(url=re.sub(r"\bnonce=[^&]+", "nonce=other", route.request.url))


async def forge_id_token(route: Route) -> None:
    """Change the issuer of the ID token."""
    response = await route.fetch()
    tokens = await response.json()
    head, payload, signature = tokens["id_token"].split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    forged = base64.urlsafe_b64encode(json.dumps(claims | {"iss": EVIL}).encode()).decode()
    tokens["id_token"] = ".".join((head, forged.rstrip("="), signature))
    await route.fulfill(response=response, json=tokens)


@pytest.mark.parametrize(
    ("url", "forge", "text"),
    [
        (r"/auth\?", forge_nonce, "nonce in id_token does not match"),
        (r"/token$", forge_id_token, f'The ID token has the issuer "{EVIL}"'),
    ],
    ids=["nonce", "ID token"],
)
async def test_sign_in_fails_when_the_id_token_is_of_another_sign_in_or_issuer(
    console: Console, url: str, forge: Callable[[Route], Awaitable[None]], text: str
) -> None:
    await console.page.route(re.compile(url), forge)
    await console.open("/devices")
    await sign_in(console.page)

    await expect(console.page.get_by_role("status")).to_contain_text(text)
    await expect(console.page.get_by_role("button", name="Sign in")).to_be_visible()


async def test_session_ends_when_the_id_token_of_a_renewal_is_of_another_issuer(
    console: Console,
) -> None:
    async def forge_renewal(route: Route) -> None:
        is_renewal = "grant_type=refresh_token" in (route.request.post_data or "")
        await (forge_id_token(route) if is_renewal else route.continue_())

    page = console.page
    await page.route(re.compile(r"/token$"), forge_renewal)
    await console.open("/devices")
    await sign_in(page)
    await expect(page.get_by_role("button", name="Sign out")).to_be_visible()

    await expect(page.get_by_role("button", name="Sign in")).to_be_visible(timeout=60_000)
    status = page.get_by_role("status")
    await expect(status).to_contain_text(f'The ID token has the issuer "{EVIL}"')
    await expect(status).to_contain_text("sign in again")


async def test_renewal_is_tried_again_after_a_network_error(console: Console) -> None:
    page = console.page
    renewals: list[str] = []

    async def fail_first_renewal(route: Route) -> None:
        if "grant_type=refresh_token" in (route.request.post_data or ""):
            renewals.append(route.request.url)
        await (route.abort() if len(renewals) == 1 else route.continue_())

    await page.route(re.compile(r"/token$"), fail_first_renewal)
    await console.open("/devices")
    await sign_in(page)
    await expect(page.get_by_role("button", name="Sign out")).to_be_visible()

    async with page.expect_response(lambda r: _is_token(r.url), timeout=60_000) as renewed:
        pass
    assert (await renewed.value).ok
    assert len(renewals) == 2
    await expect(page.get_by_role("button", name="Sign out")).to_be_visible()


async def test_renewal_that_ends_after_the_sign_out_is_revoked(console: Console) -> None:
    page = console.page
    answered, signed_out = asyncio.Event(), asyncio.Event()
    issued: dict[str, str] = {}

    async def hold_renewal(route: Route) -> None:
        response = await route.fetch()
        if "grant_type=refresh_token" in (route.request.post_data or ""):
            issued.update(await response.json())
            answered.set()
            await signed_out.wait()
        await route.fulfill(response=response)

    await page.route(re.compile(r"/token$"), hold_renewal)
    await console.open("/devices")
    await sign_in(page)
    await asyncio.wait_for(answered.wait(), TIMEOUT)
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    used: list[str] = []
    page.on("request", lambda r: used.append(r.headers.get("authorization", "")))

    async with page.expect_request(
        lambda r: f"token={issued['refresh_token']}" in (r.post_data or "")
    ):
        signed_out.set()
    await expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    assert f"Bearer {issued['access_token']}" not in used


@pytest.mark.parametrize(
    ("issuers", "text"),
    [
        ([EVIL], f'provider has the issuer "{EVIL}"'),
        ([], "The answer of the provider has no issuer"),
    ],
    ids=["another", "none"],
)
async def test_code_is_not_sent_when_the_redirect_is_not_of_the_provider(
    console: Console, issuers: list[str], text: str
) -> None:
    sent: list[str] = []
    console.page.on("request", lambda r: sent.append(r.url) if _is_token(r.url) else None)
    await console.page.add_init_script(FORGE_REDIRECT % json.dumps(issuers))
    await console.open("/devices")
    await sign_in(console.page)

    await expect(console.page.get_by_role("status")).to_contain_text(text)
    assert sent == []


async def test_sign_in_does_not_begin_when_the_discovery_document_is_of_another_issuer(
    console: Console,
) -> None:
    page = console.page
    await page.route("**/.well-known/openid-configuration", forge_discovery)
    await console.open("/devices")
    await page.get_by_role("button", name="Sign in").click()

    await expect(page.get_by_role("alert")).to_contain_text(f'has the issuer "{EVIL}"')
    assert page.url == f"{console.url}/console/devices"
