"""Reserves the port of a server, and checks that a unix: path is free."""

import errno
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import unquote


class ListenError(Exception):
    """The address of a setting is in use, or the server cannot listen on it."""

    def __init__(self, address: str, setting: str = "JOBS_LISTEN") -> None:
        super().__init__(address, setting)

    def __str__(self) -> str:
        address, setting = self.args
        usable = (
            "a path where a socket can be created"
            if is_unix_path(address)
            else "an address of this machine"
        )
        return f"can't listen on {address} ({setting}): it is in use or not {usable}"


def is_unix_path(address: str) -> bool:
    """Whether the address is a socket in the file system, not a port."""
    return address.startswith("unix:")


def check_unix_path_is_free(address: str) -> None:
    """Raise ListenError if a server listens on a unix: path.

    gRPC would replace the socket file of that server. A file that a stopped server has left
    behind counts as free. The path is percent-encoded, as in gRPC.
    """
    with socket.socket(socket.AF_UNIX) as client:
        # Do not wait for a server that hangs and has a full queue: it still listens.
        client.setblocking(False)
        try:
            client.connect(unquote(address.removeprefix("unix:").removeprefix("//")))
        except (FileNotFoundError, ConnectionRefusedError):
            return
        except OSError:
            raise ListenError(address) from None
    raise ListenError(address)


def can_share_port(address: str) -> bool:
    """Whether several sockets can listen on the address and the kernel spreads connections."""
    return sys.platform == "linux" and not is_unix_path(address)


@contextmanager
def reserve_port(address: str, setting: str = "JOBS_LISTEN") -> Iterator[str]:
    """Reserve HOST:PORT for this process and its children within the block.

    Yields the address with the assigned port. The reserving socket is bound exclusively, so a
    port in use is an error, and allows sharing only afterwards. It never listens, so connections
    go to the sockets that do. Raises ListenError, which names the `setting`.
    """
    host, _, port = address.rpartition(":")
    with ExitStack() as sockets:
        try:
            resolved = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
            bound_port = 0
            # Like gRPC, bind every address of this machine to which the name resolves.
            for family, *_, address_info in resolved:
                with _skip_missing_address(optional=len(resolved) > 1):
                    reservation = sockets.enter_context(socket.socket(family))
                    if family == socket.AF_INET6 and len(resolved) > 1:
                        reservation.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    reservation.bind(
                        (address_info[0], bound_port or address_info[1], *address_info[2:])
                    )
                    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
                    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                    bound_port = reservation.getsockname()[1]
        except (OSError, UnicodeError):
            raise ListenError(address, setting) from None
        if not bound_port:
            raise ListenError(address, setting)
        yield f"{host}:{bound_port}"


@contextmanager
def _skip_missing_address(*, optional: bool) -> Iterator[None]:
    """Skip an address that this machine does not have, if `optional`; otherwise raise OSError."""
    try:
        yield
    except OSError as e:
        if not optional or e.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            raise
