"""Take the screenshots of docs/reference/rest.md: `make screenshots` runs this.

Runs only the gateway, because its pages need no server. Needs Go and Chromium.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TARGET = Path("docs/reference/images")
# The name, the path, and the size of the window.
PAGES = (
    ("rest-index", "/", "900,520"),
    ("rest-docs", "/docs", "1100,1500"),
)
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
_TIMEOUT = 30.0


def main() -> int:
    """Write the screenshots; return the exit code."""
    browser = find_browser()
    TARGET.mkdir(exist_ok=True)
    with running_gateway(os.environ.copy()) as url:
        for name, path, size in PAGES:
            take(browser, f"{url}{path}", TARGET / f"{name}.png", size)
    return 0


@contextmanager
def running_gateway(environment: dict[str, str]) -> Iterator[str]:
    """Run the gateway and yield its URL."""
    address = "127.0.0.1:18080"
    environment = environment | {"JOBS_GATEWAY_LISTEN": address}
    gateway = subprocess.Popen([Path("gateway/bin/jobs-gateway")], env=environment)  # noqa: S603
    try:
        _wait_for(f"http://{address}/")
        yield f"http://{address}"
    finally:
        gateway.send_signal(signal.SIGTERM)
        gateway.wait()


def _wait_for(url: str) -> None:
    """Wait until the gateway answers."""
    deadline = time.monotonic() + _TIMEOUT
    while True:
        try:
            urllib.request.urlopen(url).close()  # noqa: S310 (a loopback address)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def find_browser() -> str:
    """Return the path of a Chromium, or exit."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit("screenshots: install Debian's chromium-headless-shell")
    return browser


def take(browser: str, url: str, target: Path, size: str) -> None:
    """Take a screenshot of a page; `size` is WIDTH,HEIGHT in pixels."""
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(  # noqa: S603
            [
                *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                # Swagger UI renders within this time, which passes as fast as the page is idle.
                *("--virtual-time-budget=10000", f"--window-size={size}"),
                *(f"--user-data-dir={profile}", f"--screenshot={target}", url),
            ],
            check=True,
            stderr=subprocess.DEVNULL,
        )
    print(f"{target} ({target.stat().st_size:,} bytes)")


if __name__ == "__main__":
    sys.exit(main())
