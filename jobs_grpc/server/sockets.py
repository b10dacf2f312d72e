"""An address of one's own: a port, although several sockets listen on it, or a path."""

import errno
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import unquote


class CannotListen(Exception):
    """The address is taken or not ours."""

    def __init__(self, address: str) -> None:
        what = "one where a socket can be made" if is_path(address) else "an address here"
        super().__init__(f"can't listen on {address}: it is in use or not {what}")


def is_path(address: str) -> bool:
    """Whether it is no port, but a socket in the file system."""
    return address.startswith("unix:")


def check_is_free(path: str) -> None:
    """Raise CannotListen if somebody listens on a unix: path, who would go on unheard.

    What a server that is gone has left there does no harm. Percent-encoded, as gRPC takes it.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        # One that hangs may have no room for us: it is there all the same.
        probe.setblocking(False)
        try:
            probe.connect(unquote(path.removeprefix("unix:").removeprefix("//")))
        except (FileNotFoundError, ConnectionRefusedError):
            return
        except OSError:
            raise CannotListen(path) from None
    raise CannotListen(path)


def can_be_shared(address: str) -> bool:
    """Whether several sockets can listen there, and the system spreads connections over them."""
    return sys.platform == "linux" and not is_path(address)


@contextmanager
def reserved(address: str) -> Iterator[str]:
    """Keep others off HOST:PORT for the time of the block; answers it with its port.

    Bound alone, so that a port that somebody has is an error, and shared only afterwards.
    Never listened on, so that connections go to those that do. Raises CannotListen.
    """
    host, _, port = address.rpartition(":")
    with ExitStack() as closing:
        try:
            found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
            bound = 0
            for family, *_, at in found:
                # As gRPC does, all that a name stands for, and that this machine has.
                with _unless_missing(among=len(found)):
                    reservation = closing.enter_context(socket.socket(family))
                    if family == socket.AF_INET6 and len(found) > 1:
                        reservation.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    reservation.bind((at[0], bound or at[1], *at[2:]))
                    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
                    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                    bound = reservation.getsockname()[1]
        except (OSError, UnicodeError):
            raise CannotListen(address) from None
        if not bound:
            raise CannotListen(address)
        yield f"{host}:{bound}"


@contextmanager
def _unless_missing(among: int) -> Iterator[None]:
    """Pass over one of several addresses that are not all of this machine's."""
    try:
        yield
    except OSError as e:
        if among == 1 or e.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            raise
