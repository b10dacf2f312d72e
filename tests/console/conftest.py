"""Fixtures: one browser per session, the console in front of the module's server."""

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser

from tests.console.browser import Console, open_console
from tests.gateway.browser import running_browser
from tests.gateway.conftest import gateway, gateway_binary
from tests.gateway.support import Gateway

__all__ = ["gateway", "gateway_binary"]


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """A headless Chromium."""
    async with running_browser() as browser:
        yield browser


@pytest.fixture
async def console(browser: Browser, gateway: Gateway, tenant: str) -> AsyncIterator[Console]:
    """A window in which the test's tenant and the user "ann" are chosen."""
    async with open_console(browser, gateway.url, tenant=tenant) as console:
        yield console
