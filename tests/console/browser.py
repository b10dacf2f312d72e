"""A page of the console in a real Chromium, opened as a person would have it."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, Page, Route, expect

from tests.support.waiting import TIMEOUT

expect.set_options(timeout=TIMEOUT * 1000)

_AXE = Path(__file__).parents[2] / "console/node_modules/axe-core/axe.min.js"

# Reports what the Content-Security-Policy blocks.
_REPORT_VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (e) =>
  window.violations.push(`${e.violatedDirective} ${e.blockedURI}`));
"""

# Resolves when enough elements are painted: when the frame after the one that shows them begins.
_NOTE_PAINT = """
window.painted = new Promise((resolve) => {
  const [selector, count] = ARGUMENTS;
  const observer = new MutationObserver(() => {
    if (document.querySelectorAll(selector).length < count) return;
    observer.disconnect();
    requestAnimationFrame(() => requestAnimationFrame(resolve));
  });
  observer.observe(document, { childList: true, subtree: true });
});
"""

# Notes each control that gets the focus, and returns a function that lists what is wrong so far.
_WATCH_FOCUS = """
window.reached = new Map();
document.addEventListener("focusin", ({ target }) => {
  const { outlineStyle, outlineWidth } = getComputedStyle(target);
  window.reached.set(target, outlineStyle !== "none" && parseFloat(outlineWidth) >= 2);
});
"""
_UNREACHED = """
[...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex]")]
    .filter((e) => e.tabIndex >= 0 && !e.disabled)
    .filter((e) => e.checkVisibility({ visibilityProperty: true }))
    .filter((e) => !(e.type === "radio" && !e.checked) && !window.reached.get(e))
    .map((e) => `${window.reached.has(e) ? "no outline" : "not reached"}: ${e.outerHTML}`)
"""


@dataclass
class Console:
    """An open page of the console, and what went wrong in it."""

    page: Page
    url: str
    errors: list[str] = field(default_factory=list)
    """Exceptions of the scripts."""

    async def open(self, path: str = "") -> Page:
        """Open a page below /console, and return it."""
        await self.page.goto(f"{self.url}/console{path}")
        return self.page

    async def pause_and_leave(self) -> None:
        """Pause the job of the page, and close the dialog at once."""
        await self.page.get_by_role("button", name="Pause").click()
        dialog = self.page.get_by_role("dialog")
        await dialog.get_by_role("button", name="Pause").click()
        await dialog.get_by_role("button", name="Back").click()

    @asynccontextmanager
    async def held(self, url: str) -> AsyncIterator[asyncio.Event]:
        """Hold the requests to a URL, a glob pattern, until the event is set or the block ends."""
        released = asyncio.Event()

        async def wait(route: Route) -> None:
            await released.wait()
            await route.continue_()

        await self.page.route(url, wait)
        try:
            yield released
        finally:
            released.set()
            await self.page.unroute_all(behavior="wait")

    async def await_elements(self, selector: str, count: int) -> None:
        """Let the next page note when it has painted that many elements."""
        arguments = json.dumps([selector, count])
        await self.page.add_init_script(_NOTE_PAINT.replace("ARGUMENTS", arguments))

    async def painted_at(self) -> float:
        """Wait for the elements. Return when they were painted, in ms since the navigation."""
        at: float = await self.page.evaluate("window.painted")
        return at

    async def violations(self) -> list[str]:
        """What the policy of the page has blocked."""
        found: list[str] = await self.page.evaluate("window.violations")
        return found

    async def unreached(self) -> list[str]:
        """Press Tab, and return the controls that are not focused, or show no outline then."""
        await self.page.evaluate(_WATCH_FOCUS)
        for _ in range(30):
            for _ in range(10):
                await self.page.keyboard.press("Tab")
            left: list[str] = await self.page.evaluate(_UNREACHED)
            if not left:
                break
        return left

    async def findings(self, *rules: str) -> list[str]:
        """What axe finds on the page, with all its rules or these: the rule, and an element."""
        if not await self.page.evaluate("'axe' in window"):
            await self.page.evaluate(_AXE.read_text(encoding="utf-8"))
        options: dict[str, Any] = {"resultTypes": ["violations"]}
        if rules:
            options["runOnly"] = {"type": "rule", "values": rules}
        result: dict[str, Any] = await self.page.evaluate("(o) => axe.run(o)", options)
        return [
            f"{finding['id']}: {finding['nodes'][0]['html']}" for finding in result["violations"]
        ]


@asynccontextmanager
async def open_console(
    browser: Browser,
    url: str,
    *,
    tenant: str = "",
    user: str = "ann",
    width: int = 1280,
    headers: dict[str, str] | None = None,
) -> AsyncIterator[Console]:
    """Open a new window, in which the tenant and the user are chosen. Fails if a script failed."""
    context = await browser.new_context(
        viewport={"width": width, "height": 900},
        extra_http_headers=headers,
        reduced_motion="reduce",
    )
    try:
        await context.add_init_script(_REPORT_VIOLATIONS)
        if tenant:
            chosen = json.dumps(json.dumps({"tenant": tenant, "user": user}))
            await context.add_init_script(f"localStorage.setItem('caller', {chosen})")
        page = await context.new_page()
        console = Console(page, url)
        page.on("pageerror", lambda error: console.errors.append(str(error)))
        yield console
        assert console.errors == []
        assert await console.violations() == []
    finally:
        await context.close()


async def renderer_memory(browser: Browser) -> int:
    """Return the memory of the tab in bytes: the proportional set size of its process. Linux only.

    The process of the tab is the renderer that has used the most CPU time.
    """
    session = await browser.new_browser_cdp_session()
    processes = (await session.send("SystemInfo.getProcessInfo"))["processInfo"]
    await session.detach()
    renderers = [process for process in processes if process["type"] == "renderer"]
    tab = max(renderers, key=lambda process: float(process["cpuTime"]))
    lines = Path(f"/proc/{tab['id']}/smaps_rollup").read_text(encoding="ascii").splitlines()  # noqa: ASYNC240
    (kibibytes,) = [line.split()[1] for line in lines if line.startswith("Pss:")]
    return int(kibibytes) * 1024


async def retained_memory(browser: Browser, page: Page) -> tuple[int, int]:
    """Collect garbage, and return the memory of the tab in bytes and its number of DOM nodes."""
    session = await page.context.new_cdp_session(page)
    await session.send("HeapProfiler.collectGarbage")
    nodes = (await session.send("Memory.getDOMCounters"))["nodes"]
    await session.detach()
    return await renderer_memory(browser), nodes


async def texts(page: Page, selector: str) -> Sequence[str]:
    """Return the texts of the elements that match, in order."""
    return await page.locator(selector).all_inner_texts()
