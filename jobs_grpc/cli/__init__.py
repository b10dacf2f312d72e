"""The command `jobs-grpc`; program.py lists its commands."""

import os
import signal
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the console script."""
    # The imports take up to a second. Until run() handles Ctrl-C, it ends the process at once,
    # without a traceback. Shells start background processes with SIGINT ignored; keep it ignored.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.stderr is None:
        # Notes would go to stdout, and other output to the next file that gets descriptor 2.
        while os.open(os.devnull, os.O_WRONLY) < 2:
            pass
        sys.stderr = os.fdopen(2, "w")
    from jobs_grpc.cli import program

    program.main()
