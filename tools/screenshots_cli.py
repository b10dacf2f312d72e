"""Take the screenshots of docs/cli.md: `make screenshots` runs this.

Runs `jobs-grpc dev` with a new data folder, carries out part of a rollout, and shows commands on
terminals of two widths. Needs Chromium.
"""

import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from tools.screenshots import find_browser, take

TARGET = Path("docs/images")
ADDRESS = "127.0.0.1:18051"
WIDTHS = (80, 120)
PREPARE = (
    "create --type reboot --group north --job-id reboot-north",
    'create --type firmware --all --job-id fw-2.1 --params \'{"version": "2.1"}\''
    " --stage 10% --stage 30% --stage rest --pause-at 20%",
    "simulate --devices 1000 --latency 0.1:0.5 --stall-rate 0"
    " --bug 0.3:FLASH --bug-version 2.1 --poll 1 --for 40",
    "create --type reboot --device device-0007 --job-id reboot-7",
)
SHOWN = ("list", "get fw-2.1 --limit 5", "failures fw-2.1")
_COMMAND = str(Path(sys.executable).with_name("jobs-grpc"))
# The size of a character in Chromium, in pixels, with the styles of _PAGE.
_CHARACTER = (8.43, 19)
_PAGE = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 16px; background: {background}; }}
pre {{ margin: 0; font: 14px/19px "DejaVu Sans Mono", monospace; color: {foreground}; }}
{stylesheet}</style><pre>{code}</pre>"""


def main() -> int:
    """Write the screenshots; return the exit code."""
    browser = find_browser()
    TARGET.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, running_demo(folder) as environment:
        for width in WIDTHS:
            _take(browser, Path(folder), width, environment)
    return 0


@contextmanager
def running_demo(
    folder: str, *options: str, commands: Sequence[str] = PREPARE
) -> Iterator[dict[str, str]]:
    """Run `jobs-grpc dev` with options, then commands: a part of two jobs, by default.

    Yields the environment of commands that call it.
    """
    environment = os.environ | {
        "JOBS_DATA_DIR": f"{folder}/data",
        "JOBS_LISTEN": ADDRESS,
        "JOBS_METRICS_LISTEN": "",
        "JOBS_SERVER": ADDRESS,
        "JOBS_TENANT": "demo",
        "JOBS_USER": "olivia",
        "XDG_CONFIG_HOME": folder,
        "TERM": "xterm-256color",
    }
    Path(folder).chmod(0o711)
    with subprocess.Popen(  # noqa: S603
        [_COMMAND, "dev", *options], env=environment, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout  # noqa: S101
            for line in server.stdout:
                if line.startswith("Press Ctrl-C"):
                    break
            for command in commands:
                arguments = [_COMMAND, *shlex.split(command)]
                subprocess.run(arguments, env=environment, check=True)  # noqa: S603
            yield environment
        finally:
            server.send_signal(signal.SIGINT)


def _take(browser: str, folder: Path, width: int, environment: dict[str, str]) -> None:
    console = Console(record=True, width=width, file=(folder / "discarded").open("w"))
    for command in SHOWN:
        console.print(f"[bold]$ jobs-grpc {command}[/]", highlight=False)
        shown = _run_on_terminal(shlex.split(command), environment | {"COLUMNS": f"{width}"})
        console.print(Text.from_ansi(shown))
    page = folder / f"cli-{width}.html"
    lines = console.export_text(clear=False).count("\n")
    page.write_text(console.export_html(theme=MONOKAI, code_format=_PAGE))
    columns, rows = (
        round(n * size) + 32 for n, size in zip((width, lines), _CHARACTER, strict=True)
    )
    take(browser, page.as_uri(), TARGET / f"cli-{width}.png", f"{columns},{rows}")


def _run_on_terminal(arguments: list[str], environment: dict[str, str]) -> str:
    our_end, terminal = pty.openpty()
    with subprocess.Popen(  # noqa: S603
        [_COMMAND, *arguments], env=environment, stdout=terminal, stderr=terminal
    ):
        os.close(terminal)
        shown = b""
        while True:
            try:
                shown += os.read(our_end, 65536)
            except OSError:  # Linux raises EIO when the other end is closed.
                break
    os.close(our_end)
    # Without hyperlinks and other sequences that are not colors.
    return re.sub(r"\x1b\][^\x07\x1b]*(\x07|\x1b\\)", "", shown.decode()).replace("\r\n", "\n")


if __name__ == "__main__":
    sys.exit(main())
