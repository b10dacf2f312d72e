"""Raises the limit on open files, of which each connection needs one."""

import logging
import resource

logger = logging.getLogger(__name__)

# Below this, the server logs a warning.
ENOUGH = 4096


def hard_limit() -> int | None:
    """Return how many files this process may open at most; None: no limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if hard == resource.RLIM_INFINITY else hard


def raise_open_file_limit() -> None:
    """Raise the soft limit to the hard limit; log a warning if that is low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < ENOUGH:
        logger.warning(
            "at most %d files can be open, and each connection needs one: new connections wait"
            " when there are too many; raise the limit (ulimit -n, LimitNOFILE of systemd)",
            hard,
        )
