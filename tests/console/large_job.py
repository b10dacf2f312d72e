"""Open the page of a large job and read its devices page by page, as a person would."""

from playwright.async_api import Page

from tests.console.browser import Console

ROWS = 100
"""Rows of a page of devices."""

_ROWS = "[aria-label='Devices of the job'] tbody tr"

_RESPONSE_END = """
performance.getEntriesByType("resource").find((e) => e.name.includes("/executions")).responseEnd
"""

# One call per page: locators that look for roles would leave more garbage than the page itself.
_READ_PAGE = f"""
new Promise((resolve) => {{
  const rows = () => [...document.querySelectorAll("{_ROWS}")];
  const names = () => rows().map((row) => row.querySelector("a").textContent);
  const shown = names();
  rows().at(-1).scrollIntoView();
  const observer = new MutationObserver(() => {{
    const [first] = names();
    if (!first || first === shown[0]) return;
    observer.disconnect();
    requestAnimationFrame(() => requestAnimationFrame(() => resolve(shown)));
  }});
  observer.observe(document.body, {{ childList: true, characterData: true, subtree: true }});
  const buttons = [...document.querySelectorAll(".pages button")];
  buttons.find((button) => button.textContent === "Next page").click();
}})
"""


async def open_job(console: Console, job_id: str) -> tuple[float, float]:
    """Open the page of a job with at least ROWS devices.

    Returns when the browser had the response with the first devices and when it had painted them,
    in ms since the navigation.
    """
    await console.await_elements(_ROWS, ROWS)
    await console.open(f"/jobs/{job_id}")
    painted = await console.painted_at()
    response: float = await console.page.evaluate(_RESPONSE_END)
    return response, painted


async def read_pages(page: Page, count: int) -> set[str]:
    """Scroll through pages of devices and return their names; no device is on two pages."""
    seen: set[str] = set()
    for _ in range(count):
        names: list[str] = await page.evaluate(_READ_PAGE)
        assert len(names) == ROWS
        assert seen.isdisjoint(names)
        seen |= set(names)
    return seen
