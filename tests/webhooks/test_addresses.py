"""Which addresses deliveries connect to: each is refused where the socket is created."""

import ipaddress
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from jobs_grpc.webhooks.addresses import AddressNotAllowed, AllowedAddresses, SocketFactory

PUBLIC = [
    *("1.1.1.1", "8.8.8.8", "93.184.215.14", "100.63.255.255", "100.128.0.0", "172.15.255.255"),
    *("172.32.0.1", "192.0.1.1", "198.17.255.255", "198.20.0.1", "223.255.255.254"),
    *("2400:cb00::1", "2606:4700:4700::1111", "2a00:1450:4001:830::200e", "2003::1"),
    "::ffff:8.8.8.8",
]


# The last 32 bits are an IPv4 address.
EMBEDDED = [
    f"{prefix}{address}"
    for prefix in ("::ffff:", "::", "64:ff9b::", "64:ff9b:1::", "::ffff:0:")
    for address in (
        *("0.0.0.0", "10.0.0.1", "100.64.0.1", "127.0.0.1", "169.254.169.254"),  # noqa: S104
        *("172.16.0.1", "192.168.0.1", "224.0.0.1", "255.255.255.255"),
    )
]


LISTED = [
    address
    for line in Path(__file__).with_name("forbidden_addresses.txt").read_text().splitlines()
    if not line.startswith("#")
    for address in line.split()
]

FORBIDDEN = [*LISTED, *EMBEDDED]


def _create(host: str, port: int = 443, networks: Sequence[str] = ()) -> None:
    addresses = AllowedAddresses([ipaddress.ip_network(network) for network in networks])
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    address = (host, port, 0, 0) if ":" in host else (host, port)
    SocketFactory(addresses, {443})((family, socket.SOCK_STREAM, 6, "", address)).close()


def test_table_has_at_least_200_different_forms() -> None:
    assert len(set(FORBIDDEN)) == len(FORBIDDEN) >= 200


@pytest.mark.parametrize("host", FORBIDDEN)
def test_socket_is_not_created_for_address(host: str) -> None:
    with pytest.raises(AddressNotAllowed):
        _create(host)


@pytest.mark.parametrize("host", PUBLIC)
def test_socket_is_created_for_public_address(host: str) -> None:
    _create(host)


@pytest.mark.parametrize("port", [0, 22, 80, 444, 5432, 8443, 50051])
def test_socket_is_not_created_for_other_port(port: int) -> None:
    with pytest.raises(AddressNotAllowed):
        _create("1.1.1.1", port)


@pytest.mark.parametrize(
    ("network", "host"),
    [
        ("10.0.0.0/8", "10.1.2.3"),
        ("10.0.0.0/8", "::ffff:10.1.2.3"),
        ("127.0.0.0/8", "127.0.0.1"),
        ("100.64.0.0/10", "100.64.0.1"),
        ("fd00::/8", "fd12:3456::1"),
        ("::1/128", "::1"),
        ("64:ff9b::/96", "64:ff9b::8.8.8.8"),
    ],
)
def test_setting_allows_addresses_that_are_not_public(network: str, host: str) -> None:
    _create(host, networks=[network])


@pytest.mark.parametrize(
    "host",
    [
        *("0.0.0.0", "255.255.255.255", "224.0.0.1", "239.255.255.250", "::", "ff02::1"),  # noqa: S104
        *("169.254.169.254", "169.254.170.2", "169.254.170.23", "169.254.0.23", "169.254.42.42"),
        *("100.100.100.200", "168.63.129.16", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254"),
        *("::ffff:169.254.169.254", "64:ff9b::169.254.169.254", "::ffff:0.0.0.0", "fe80::1%1"),
        "fe80::a9fe:a9fe",
    ],
)
def test_setting_never_allows_unspecified_multicast_and_metadata_addresses(host: str) -> None:
    with pytest.raises(AddressNotAllowed):
        _create(host, networks=["0.0.0.0/0", "::/0"])


def test_setting_allows_nothing_else() -> None:
    for host in ("127.0.0.1", "10.0.1.1", "::ffff:10.0.1.1", "64:ff9b::10.0.0.1"):
        with pytest.raises(AddressNotAllowed):
            _create(host, networks=["10.0.0.0/24", "64:ff9b:1::/48"])


def test_nat64_is_allowed_only_for_allowed_ipv4_addresses() -> None:
    with pytest.raises(AddressNotAllowed):
        _create("64:ff9b::10.0.0.1", networks=["64:ff9b::/96"])
    _create("64:ff9b::10.0.0.1", networks=["64:ff9b::/96", "10.0.0.0/8"])
