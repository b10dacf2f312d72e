"""Decides which addresses deliveries may connect to, where the socket is created.

Prevents SSRF: a tenant chooses the URL, so it could name a host that only this server can reach.
The server connects to the address that is checked here, so DNS rebinding does not help.
"""

import ipaddress
import socket
from collections.abc import Collection, Sequence
from typing import Any, TypeAlias

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
AddrInfo: TypeAlias = tuple[Any, Any, int, str, tuple[Any, ...]]
"""Family, type, protocol, canonical name and address, as in the result of getaddrinfo."""

_GLOBAL_UNICAST_V6 = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def _networks(*texts: str) -> tuple[IPNetwork, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


# The special-purpose registries of IANA, written out: is_global differs between versions of Python,
# and allows some of them.
_SPECIAL = _networks(
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",  # carrier-grade NAT
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.31.196.0/24",  # AS112
    "192.52.193.0/24",  # AMT
    "192.88.99.0/24",  # 6to4 relays
    "192.168.0.0/16",
    "192.175.48.0/24",  # AS112
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "2001::/23",  # Teredo, ORCHID, benchmarks and other protocols
    "2001:db8::/32",
    "2002::/16",  # 6to4 embeds an IPv4 address
    "2620:4f:8000::/48",  # AS112
    "3ffe::/16",
    "3fff::/20",
)

# JOBS_WEBHOOK_ALLOWED_NETWORKS does not allow these either: the unspecified address is this host,
# and a metadata service has credentials of the machine. AWS, Azure, Google, Oracle and Tencent use
# several link-local addresses, AWS also some in fd00:ec2::/32.
_NEVER = _networks(
    "0.0.0.0/32",
    "255.255.255.255/32",
    "224.0.0.0/4",
    "100.100.100.200/32",
    "168.63.129.16/32",  # Azure, a public address
    "169.254.0.0/16",
    "192.0.0.192/32",
    "::/128",
    "fe80::/10",
    "ff00::/8",
    "fd00:ec2::/32",
    "fd20:ce::254/128",
)


class AddressNotAllowed(OSError):
    """Deliveries may not connect to the address or the port."""

    def __init__(self) -> None:
        # The same text for all addresses: aiohttp keeps the type if all addresses of a host fail
        # with the same text.
        super().__init__("the address is not allowed")


class AllowedAddresses:
    """Allows public addresses, and others in `networks`.

    For IPv4 hosts behind NAT64, `networks` can contain 64:ff9b::/96. The embedded IPv4 address is
    checked too.
    """

    def __init__(self, networks: Sequence[IPNetwork] = ()) -> None:
        self._networks = tuple(networks)

    def allows(self, address: IPAddress) -> bool:
        """Return whether deliveries may connect to the address."""
        if isinstance(address, ipaddress.IPv6Address):
            if address.scope_id is not None:
                return False
            if address.ipv4_mapped is not None:
                return self.allows(address.ipv4_mapped)
            if address in _NAT64 and not self.allows(ipaddress.IPv4Address(address.packed[12:])):
                return False
        if _is_in(address, _NEVER):
            return False
        return _is_in(address, self._networks) or _is_public(address)


class SocketFactory:
    """Creates sockets for connections to allowed addresses and ports."""

    def __init__(self, addresses: AllowedAddresses, ports: Collection[int]) -> None:
        self._addresses = addresses
        self._ports = frozenset(ports)

    def __call__(self, addr_info: AddrInfo) -> socket.socket:
        """Create a socket for a connection to the address. Raises AddressNotAllowed."""
        family, kind, protocol, _, (host, port, *_) = addr_info
        try:
            # Rejects all notations of IPv4 addresses except four decimal numbers.
            address = ipaddress.ip_address(host)
        except ValueError:
            raise AddressNotAllowed from None
        if port not in self._ports or not self._addresses.allows(address):
            raise AddressNotAllowed
        return socket.socket(family, kind, protocol)


def _is_public(address: IPAddress) -> bool:
    is_unicast = address.version == 4 or address in _GLOBAL_UNICAST_V6
    return is_unicast and address.is_global and not _is_in(address, _SPECIAL)


def _is_in(address: IPAddress, networks: Sequence[IPNetwork]) -> bool:
    return any(address in network for network in networks)
