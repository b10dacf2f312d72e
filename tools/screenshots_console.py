"""Take the screenshots of docs/console.md: `make screenshots` runs this.

Opens the page of a rollout of the simulated demo fleet when it has paused, after about four
minutes. Needs Go and Chromium.
"""

import os
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from tools.screenshots import find_browser, running_gateway
from tools.screenshots_cli import ADDRESS, running_demo

TARGET = Path("docs/images")
JOB = "firmware-2.1"
_PAUSE_TIMEOUT_MS = 600_000


def main() -> int:
    """Write the screenshots; return the exit code."""
    upstream = os.environ | {"JOBS_GATEWAY_UPSTREAM": ADDRESS}
    with (
        tempfile.TemporaryDirectory() as folder,
        running_demo(folder, "--simulate", commands=()),
        running_gateway(upstream) as url,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            page = browser.new_page(
                viewport={"width": 1200, "height": 1000},
                color_scheme="light" if scheme == "light" else "dark",
                reduced_motion="reduce",
            )
            page.goto(f"{url}/console/jobs/{JOB}")
            page.get_by_text("paused: ").first.wait_for(timeout=_PAUSE_TIMEOUT_MS)
            page.get_by_role("region", name="Devices of the job").locator("tbody").wait_for()
            page.get_by_role("region", name="Failures by code").locator("tbody tr").first.wait_for()
            path = TARGET / f"console-{scheme}.png"
            page.screenshot(path=path)
            print(f"{path} ({path.stat().st_size:,} bytes)")
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
