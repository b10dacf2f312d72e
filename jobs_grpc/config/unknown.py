"""Finds unknown JOBS_… environment variables, such as misspelled settings, to warn about them."""

import difflib
import re
from collections.abc import Iterator, Mapping

from jobs_grpc.config.reference import all_settings

OTHER_VARIABLES = (
    *(
        "JOBS_CONTEXT",
        "JOBS_DATA_DIR",
        "JOBS_SERVER",
        "JOBS_TENANT",
        "JOBS_USER",
        "JOBS_ROLES",
        "JOBS_TOKEN",
        "JOBS_TOKEN_FILE",
    ),
    *("JOBS_CA", "JOBS_CLIENT_CERT", "JOBS_CLIENT_KEY"),
)
"""Variables that only commands other than `serve` read."""

_PREFIX = "JOBS_"

# The gateway reads its own variables, and may share an environment file with the server.
_GATEWAY_PREFIX = "JOBS_GATEWAY_"

# Kubernetes sets such variables for each service of a namespace, and one can be named "jobs".
_SERVICE_LINK = re.compile(
    r"JOBS_(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)"
)
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://")


def unknown_variables(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each JOBS_… variable that nothing reads. It does not contain the value."""
    known = [*(setting.variable for setting in all_settings()), *OTHER_VARIABLES]
    for name, value in sorted(environ.items()):
        if name.startswith(_PREFIX) and name not in known and not _is_foreign(name, value):
            # Compared without the common prefix, which would make all names similar.
            nearest = difflib.get_close_matches(
                name.removeprefix(_PREFIX), [other.removeprefix(_PREFIX) for other in known], n=1
            )
            hint = f"; did you mean {_PREFIX}{nearest[0]}?" if nearest else ""
            yield f"the environment variable {name} is unknown and has no effect{hint}"


def _is_foreign(name: str, value: str) -> bool:
    if name.startswith(_GATEWAY_PREFIX):
        return True
    if not _SERVICE_LINK.fullmatch(name):
        return False
    return not name.endswith("_PORT") or bool(_SERVICE_ADDRESS.match(value)) or "_SERVICE_" in name
