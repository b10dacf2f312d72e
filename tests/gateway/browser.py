"""A real headless Chromium."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import Browser, async_playwright

from tests.support.processes import skip_without

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


def find_browser() -> str | None:
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


@asynccontextmanager
async def running_browser() -> AsyncIterator[Browser]:
    """Run a Chromium. Without it, skip the test, or fail it in CI."""
    path = find_browser()
    if not path:
        skip_without("Chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        await browser.close()
