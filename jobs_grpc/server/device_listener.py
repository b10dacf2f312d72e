"""Serves devices that client certificates identify: JOBS_DEVICE_LISTEN, JOBS_DEVICE_GATEWAYS."""

import ssl
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpc.aio import Server

from jobs_grpc.auth import policy
from jobs_grpc.auth.forwarded_certificates import NOT_A_GATEWAY, forwarded_certificates
from jobs_grpc.auth.peers import TrustedPeers
from jobs_grpc.auth.principal import Principal
from jobs_grpc.auth.registered_devices import FindUnregistered, RegisteredDevices
from jobs_grpc.auth.reloading_files import ReloadingFiles
from jobs_grpc.auth.roles import Role
from jobs_grpc.config import Config, ConfigError, DevicesConfig
from jobs_grpc.errors import InvalidCertificate, PeerNotTrusted
from jobs_grpc.rpc.method_table import MethodTable
from jobs_grpc.rpc.pipeline import Context, Metadata, Pipeline
from jobs_grpc.server import grpc_server, tls

if TYPE_CHECKING:
    from jobs_grpc.auth.device_authenticator import DeviceAuthenticator
    from jobs_grpc.auth.device_authorities import DeviceAuthorities


@dataclass(frozen=True, slots=True)
class Devices:
    """What identifies the devices that call, and the server that they call."""

    registered: RegisteredDevices
    authenticator: "DeviceAuthenticator"
    gateways: TrustedPeers | None
    """The peers that forward certificates; None: no peer does."""

    async def authenticate_forwarded(self, context: Context, metadata: Metadata) -> Principal:
        """Return the device whose certificates a gateway has forwarded.

        Raises InvalidCertificate for other peers, and what `authenticate` of the authenticator
        raises.
        """
        auth_context: Any = context.auth_context()
        try:
            if self.gateways is None:
                raise PeerNotTrusted
            self.gateways.check(auth_context)
        except PeerNotTrusted:
            raise InvalidCertificate(NOT_A_GATEWAY) from None
        leaf, *intermediates = (
            ssl.DER_cert_to_PEM_cert(certificate).encode()
            for certificate in forwarded_certificates(metadata)
        )
        return await self.authenticator.authenticate(leaf, b"".join(intermediates), metadata)

    def method_table(self, pipeline: Pipeline) -> MethodTable:
        """Return a table of the methods that devices may call, for generated code."""

        def authenticate(context: Context, metadata: Metadata) -> Awaitable[Principal]:
            auth_context: Any = context.auth_context()
            leaf = b"".join(auth_context.get("x509_pem_cert", ()))
            intermediates = b"".join(auth_context.get("x509_pem_cert_chain", ()))
            return self.authenticator.authenticate(leaf, intermediates, metadata)

        return MethodTable(
            partial(pipeline.wrap, authenticate=authenticate), partial(policy.may_call, Role.DEVICE)
        )

    @contextmanager
    def bind(
        self,
        methods: MethodTable,
        config: Config,
        options: grpc_server.Options,
        *,
        reserve: bool,
    ) -> Iterator[tuple[Server, str]]:
        """Bind a server of the methods; yields it, and its address with the assigned port.

        See `grpc_server.bind`. Raises ListenError, and ConfigError if the certificate of the
        server is not usable.
        """
        make_credentials = tls.device_credentials(
            config.devices.cert or config.tls.cert or "",
            config.devices.key or config.tls.key or "",
            lambda: self.authenticator.authorities.pem,
        )
        address = config.devices.listen or ""
        server = grpc_server.make_server(methods, config.limits, address, options)
        with grpc_server.bind(
            server, address, make_credentials, reserve=reserve, setting="JOBS_DEVICE_LISTEN"
        ) as bound:
            yield server, bound


def open_devices(config: DevicesConfig, find_unregistered: FindUnregistered) -> Devices | None:
    """Return None without JOBS_DEVICE_LISTEN.

    Raises ConfigError if the extra `mtls` is not installed or the authorities are not usable.
    """
    if config.listen is None:
        return None
    authorities = read_device_authorities(config)
    # Imported here because only this setting needs the packages of the extra.
    from jobs_grpc.auth.device_authenticator import DeviceAuthenticator

    registered = RegisteredDevices(find_unregistered)
    gateways = TrustedPeers(config.gateways) if config.gateways else None
    return Devices(registered, DeviceAuthenticator(authorities, registered), gateways)


def read_device_authorities(config: DevicesConfig) -> "ReloadingFiles[DeviceAuthorities]":
    """Read JOBS_DEVICE_CA or JOBS_DEVICE_CA_DIR. Raises ConfigError."""
    try:
        from jobs_grpc.auth.device_authorities import find_files, read_authorities
    except ImportError as e:
        package = (e.name or "").partition(".")[0]
        raise ConfigError(
            f"JOBS_DEVICE_LISTEN needs the extra mtls ({package} can't be imported): "
            'pip install "jobs-grpc[mtls]"'
        ) from None
    ca = Path(config.ca) if config.ca else None
    ca_dir = Path(config.ca_dir) if config.ca_dir else None
    try:
        return ReloadingFiles(
            "authorities of devices",
            lambda: find_files(ca, ca_dir),
            lambda: read_authorities(ca, ca_dir, config.trust_domain),
        )
    except (OSError, ValueError) as e:
        variable = "JOBS_DEVICE_CA" if ca else "JOBS_DEVICE_CA_DIR"
        raise ConfigError(f"{variable} is not usable: {e}") from None
