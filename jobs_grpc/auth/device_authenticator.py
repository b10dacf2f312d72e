"""Authenticates devices by client certificates: JOBS_DEVICE_LISTEN. Needs the extra `mtls`.

gRPC has verified the certificate in the TLS handshake, with the authorities of all tenants that it
knew at that time. It does not say which one, and a connection outlives changes of the authorities.
A gateway may have verified nothing but that the device has the key. So the certificate is verified
again, with the authorities as they are now. Metadata does not identify a device: x-roles and
x-user-id are ignored, and x-tenant-id and x-device-id must agree with the certificate.
"""

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from weakref import WeakValueDictionary

from jobs_grpc.auth.certificates import CertificateError, read_certificate, read_certificates
from jobs_grpc.auth.device_authorities import DeviceAuthorities, DeviceIdentity
from jobs_grpc.auth.metadata import Metadata, read_device, read_tenant
from jobs_grpc.auth.principal import Principal
from jobs_grpc.auth.registered_devices import MAX_AGE, RegisteredDevices
from jobs_grpc.auth.reloading_files import ReloadingFiles
from jobs_grpc.auth.revocation import Revocation
from jobs_grpc.auth.roles import Role
from jobs_grpc.errors import (
    DeviceNotRegistered,
    InvalidCertificate,
    InvalidToken,
    MetadataMismatch,
)

logger = logging.getLogger(__name__)

_ROLES = frozenset({Role.DEVICE})

_AUTHORITY_REMOVED = "was issued by an authority that was removed"

_MAX_CACHED = 10_000

# A rejected certificate can become valid, so the rejection is kept only against repeated calls.
_REJECTION_SECONDS = 1.0

# Of all intermediate certificates together.
_MAX_INTERMEDIATE_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class _Verified:
    """The result of the verification of a certificate."""

    result: DeviceIdentity | str
    """The identity, or the message of InvalidCertificate."""
    until: float
    """In seconds since 1970."""


class DeviceAuthenticator:
    """Identifies devices by their certificates, and refuses those that are not registered."""

    def __init__(
        self,
        authorities: ReloadingFiles[DeviceAuthorities],
        devices: RegisteredDevices,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` returns seconds since 1970."""
        self._files = authorities
        self._authorities = authorities.read()
        self._devices = devices
        self._clock = clock
        self._verified: OrderedDict[bytes, _Verified] = OrderedDict()
        # One for each device with calls in flight, whose principals keep it alive.
        self._open: WeakValueDictionary[DeviceIdentity, Revocation] = WeakValueDictionary()

    async def authenticate(
        self, leaf: bytes, intermediates: bytes, metadata: Metadata
    ) -> Principal:
        """Return the device that calls, by its certificate and those it has sent with it, as PEM.

        Raises InvalidCertificate, DeviceNotRegistered, InvalidToken, MetadataMismatch, what
        reading the metadata raises, and the errors of the database.
        """
        identity, expires_at = self._identify(leaf, intermediates)
        _check_metadata(metadata, identity)
        revocation = self._open.get(identity)
        if revocation is None:
            revocation = self._open[identity] = Revocation()
        if not await self._devices.is_registered((identity.tenant_id, identity.device_id)):
            raise DeviceNotRegistered(identity.device_id)
        return Principal(
            identity.tenant_id,
            _ROLES,
            device_id=identity.device_id,
            expires_at=expires_at,
            revocation=revocation,
            has_certificate=True,
        )

    @property
    def authorities(self) -> DeviceAuthorities:
        """The authorities that certificates are verified with now."""
        return self._authorities

    async def run(self) -> None:
        """Read changed files, and end the streams of devices that were removed. Never returns."""
        while True:
            await asyncio.sleep(MAX_AGE)
            try:
                self._read_authorities()
                await self._revoke_removed_devices()
            except Exception:
                # Without this loop, removed devices would keep their streams.
                logger.exception("could not check the devices with open calls")

    def _read_authorities(self) -> None:
        """Read the files if they have changed; revoke devices whose authority was removed."""
        authorities = self._files.read()
        if authorities is self._authorities:
            return
        self._authorities = authorities
        self._verified.clear()
        for identity, revocation in list(self._open.items()):
            if not authorities.trusts(identity):
                del self._open[identity]
                revocation.revoke(partial(InvalidCertificate, _AUTHORITY_REMOVED))

    async def _revoke_removed_devices(self) -> None:
        open_devices = {(identity.tenant_id, identity.device_id) for identity in self._open}
        removed = await self._devices.find_unregistered(open_devices)
        if not removed:
            return
        for identity, revocation in list(self._open.items()):
            if (identity.tenant_id, identity.device_id) in removed:
                del self._open[identity]
                revocation.revoke(partial(DeviceNotRegistered, identity.device_id))

    def _identify(self, leaf: bytes, intermediates: bytes) -> tuple[DeviceIdentity, float]:
        """Return the device of the certificate, and when the certificate expires."""
        key = hashlib.sha256(leaf + b"\0" + intermediates).digest()
        now = self._clock()
        verified = self._verified.get(key)
        if verified is None or verified.until <= now:
            verified = self._verify(leaf, intermediates, now)
            self._verified[key] = verified
            if len(self._verified) > _MAX_CACHED:
                self._verified.popitem(last=False)
        self._verified.move_to_end(key)
        if isinstance(verified.result, str):
            raise InvalidCertificate(verified.result)
        return verified.result, verified.until

    def _verify(self, leaf: bytes, intermediates: bytes, now: float) -> _Verified:
        try:
            if len(intermediates) > _MAX_INTERMEDIATE_BYTES:
                raise InvalidCertificate("comes with too many others")
            identity, expires_at = self._authorities.identify(
                read_certificate(leaf),
                read_certificates(intermediates) if intermediates else (),
                datetime.fromtimestamp(now, UTC),
            )
        except CertificateError:
            return _Verified("is malformed", now + _REJECTION_SECONDS)
        except InvalidCertificate as e:
            return _Verified(e.problem, now + _REJECTION_SECONDS)
        return _Verified(identity, expires_at.timestamp())


def _check_metadata(metadata: Metadata, identity: DeviceIdentity) -> None:
    """Raise an error if metadata contradicts the certificate."""
    if any(key == "authorization" for key, _ in metadata):
        raise InvalidToken(
            "is not accepted with a client certificate, which identifies the device; send no"
            " authorization"
        )
    expected = {
        "x-tenant-id": (read_tenant(metadata), identity.tenant_id),
        "x-device-id": (read_device(metadata), identity.device_id),
    }
    for key, (sent, known) in expected.items():
        if sent not in (None, known):
            raise MetadataMismatch(key, "certificate")
