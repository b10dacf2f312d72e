"""The authorities that issue certificates of devices. Needs the extra `mtls`."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import quote, unquote

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID

from jobs_grpc.auth.certificates import UNREADABLE, CertificateError, read_names
from jobs_grpc.auth.device_names import read_device, read_spiffe_id
from jobs_grpc.auth.principal import is_tenant_id
from jobs_grpc.errors import InvalidCertificate

# gRPC takes 80 ms to load 1,000 authorities, and almost a second for 3,000. Each of its listeners
# loads them again after a change. See docs/decisions/device-certificates.md.
MAX_AUTHORITIES = 500

# Certificates between a configured authority and a device. A client may send them in any order, so
# the verification may try them all.
_MAX_INTERMEDIATES = 3

_MIN_RSA_BITS = 2048

_SUFFIX = ".pem"


@dataclass(frozen=True, slots=True)
class DeviceIdentity:
    """A device that a certificate identifies."""

    tenant_id: str
    device_id: str
    authority: bytes
    """The SHA-256 fingerprint of the authority that the verification ended with."""


class DeviceAuthorities:
    """The authorities of each tenant, or of all tenants. Does not change."""

    def __init__(
        self,
        by_tenant: Mapping[str | None, Sequence[x509.Certificate]],
        trust_domain: str | None = None,
    ) -> None:
        """Raise ValueError if there are too many authorities, or tenants share the name of one.

        With `trust_domain`, the only key is None: authorities that issue for all tenants.
        """
        self._trust_domain = trust_domain
        authorities = [authority for some in by_tenant.values() for authority in some]
        if len(authorities) > MAX_AUTHORITIES:
            raise ValueError(f"there are {len(authorities)} authorities; at most {MAX_AUTHORITIES}")
        self.pem = b"".join(authority.public_bytes(Encoding.PEM) for authority in authorities)
        """All authorities, for the TLS handshake."""
        self.tenants = by_tenant.keys()
        """The tenants with authorities of their own, or None."""
        self._stores = {
            tenant: verification.Store(list(some)) for tenant, some in by_tenant.items()
        }
        self._fingerprints = {
            (tenant, _fingerprint(authority))
            for tenant, some in by_tenant.items()
            for authority in some
        }
        self._tenants_by_name = {
            authority.subject: tenant for tenant, some in by_tenant.items() for authority in some
        }
        _check_names(by_tenant)

    def trusts(self, identity: DeviceIdentity) -> bool:
        """Whether the authority of the identity is still one of its tenant."""
        tenant = None if self._trust_domain else identity.tenant_id
        return (tenant, identity.authority) in self._fingerprints

    def identify(
        self, leaf: x509.Certificate, intermediates: Sequence[x509.Certificate], now: datetime
    ) -> tuple[DeviceIdentity, datetime]:
        """Return the device of a certificate, and until when the certificate is valid.

        Raises InvalidCertificate.
        """
        if len(intermediates) > _MAX_INTERMEDIATES:
            raise InvalidCertificate(
                f"comes with {len(intermediates)} others; at most {_MAX_INTERMEDIATES} are allowed"
            )
        try:
            names = read_names(leaf)
            key = leaf.public_key()
        except (CertificateError, *UNREADABLE):
            raise InvalidCertificate("is malformed") from None
        # The verification checks only the keys of authorities.
        if not isinstance(key, ec.EllipticCurvePublicKey) and not (
            isinstance(key, rsa.RSAPublicKey) and key.key_size >= _MIN_RSA_BITS
        ):
            raise InvalidCertificate(
                f"has a key that is not RSA with {_MIN_RSA_BITS} bits or ECDSA"
            )
        if self._trust_domain:
            # Before the verification, which costs more.
            trust_domain, tenant_id, device_id = read_spiffe_id(names)
            if trust_domain != self._trust_domain:
                raise InvalidCertificate("has a SPIFFE ID of another trust domain")
            chain = self._verify(None, leaf, intermediates, now)
        else:
            tenant_id, chain = self._find_tenant(leaf, intermediates, now)
            device_id = read_device(names, tenant_id)
        expires_at = min(certificate.not_valid_after_utc for certificate in chain)
        if expires_at <= now:
            # The verification allows one more second.
            raise InvalidCertificate("has expired")
        return DeviceIdentity(tenant_id, device_id, _fingerprint(chain[-1])), expires_at

    def _find_tenant(
        self, leaf: x509.Certificate, intermediates: Sequence[x509.Certificate], now: datetime
    ) -> tuple[str, Sequence[x509.Certificate]]:
        """Return the only tenant whose authorities verify the certificate, and the chain."""
        issuers = {certificate.issuer for certificate in (leaf, *intermediates)}
        candidates = {self._tenants_by_name.get(issuer) for issuer in issuers}
        found = []
        problem = InvalidCertificate("was not issued by an authority of a tenant")
        for tenant in filter(None, candidates):
            try:
                found.append((tenant, self._verify(tenant, leaf, intermediates, now)))
            except InvalidCertificate as e:
                problem = e
        if len(found) > 1:
            raise InvalidCertificate("was issued by an authority of several tenants")
        if not found:
            raise problem
        return found[0]

    def _verify(
        self,
        tenant: str | None,
        leaf: x509.Certificate,
        intermediates: Sequence[x509.Certificate],
        now: datetime,
    ) -> Sequence[x509.Certificate]:
        """Return the chain from the certificate to an authority. Raises InvalidCertificate."""
        verifier = (
            verification.PolicyBuilder()
            .store(self._stores[tenant])
            .time(now)
            .max_chain_depth(_MAX_INTERMEDIATES)
            .extension_policies(ca_policy=_AUTHORITY_POLICY, ee_policy=_DEVICE_POLICY)
            .build_client_verifier()
        )
        try:
            return verifier.verify(leaf, list(intermediates)).chain
        except (verification.VerificationError, *UNREADABLE):
            raise InvalidCertificate(
                "has expired, is not valid yet, is not for clients, or was not issued by an"
                " authority that is trusted"
            ) from None


def read_authorities(
    ca: Path | None, ca_dir: Path | None, trust_domain: str | None
) -> DeviceAuthorities:
    """Read the files of JOBS_DEVICE_CA or JOBS_DEVICE_CA_DIR. Raises OSError or ValueError."""
    if ca is not None:
        return DeviceAuthorities({None: _read_file(ca)}, trust_domain)
    by_tenant: dict[str | None, Sequence[x509.Certificate]]
    by_tenant = {_tenant_of(path): _read_file(path) for path in find_files(ca, ca_dir)}
    if not by_tenant:
        raise ValueError(f"{ca_dir} has no file TENANT{_SUFFIX}")
    return DeviceAuthorities(by_tenant)


def find_files(ca: Path | None, ca_dir: Path | None) -> Sequence[Path]:
    """Return the files with authorities. Others in the folder are ignored. Raises OSError."""
    if ca is not None:
        return [ca]
    # A file without the suffix may be one that is being written.
    return sorted(
        path
        for path in (ca_dir or Path()).iterdir()
        if path.suffix == _SUFFIX and not path.name.startswith(".")
    )


def _tenant_of(path: Path) -> str:
    name = path.name.removesuffix(_SUFFIX)
    tenant = unquote(name, errors="strict")
    if not is_tenant_id(tenant):
        raise ValueError(f"{path}: the name of the file is not a percent-encoded tenant")
    if quote(tenant, safe="") != name:
        # Two files must not be for the same tenant.
        raise ValueError(f"{path} must be named {quote(tenant, safe='')}{_SUFFIX}")
    return tenant


def _read_file(path: Path) -> Sequence[x509.Certificate]:
    """Read the authorities of a file. Raises OSError or ValueError."""
    try:
        authorities = x509.load_pem_x509_certificates(path.read_bytes())
        others = [certificate for certificate in authorities if not _is_authority(certificate)]
    except UNREADABLE as e:
        raise ValueError(f"{path}: {e}") from None
    if others:
        subject = others[0].subject.rfc4514_string()
        raise ValueError(f"{path}: {subject} is not an authority (basic constraints CA:TRUE)")
    return authorities


def _check_names(by_tenant: Mapping[str | None, Sequence[x509.Certificate]]) -> None:
    """Raise ValueError if authorities of two tenants have the same name.

    In the handshake, gRPC may try only one of them, so devices of the other would be refused.
    """
    tenants: dict[str, str | None] = {}
    for tenant, authorities in by_tenant.items():
        for authority in authorities:
            name = authority.subject.rfc4514_string()
            # gRPC ignores case and the number of spaces.
            other = tenants.setdefault(" ".join(name.casefold().split()), tenant)
            if other != tenant:
                raise ValueError(
                    f"the tenants {other} and {tenant} have authorities with the name {name}"
                )


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except x509.ExtensionNotFound:
        return False
    return constraints.value.ca


def _fingerprint(certificate: x509.Certificate) -> bytes:
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest()


def _check_authority(
    _: verification.Policy, __: x509.Certificate, constraints: x509.BasicConstraints
) -> None:
    if not constraints.ca:
        raise ValueError("not an authority")


def _check_authority_usage(
    _: verification.Policy, __: x509.Certificate, usage: x509.KeyUsage | None
) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("must not issue certificates")


def _check_authority_purpose(
    _: verification.Policy, __: x509.Certificate, purposes: x509.ExtendedKeyUsage | None
) -> None:
    if purposes is not None and _PURPOSES.isdisjoint(purposes):
        raise ValueError("must not issue certificates of clients")


def _check_device(
    _: verification.Policy, __: x509.Certificate, constraints: x509.BasicConstraints | None
) -> None:
    if constraints is not None and constraints.ca:
        raise ValueError("an authority is not a device")


def _check_device_usage(
    _: verification.Policy, __: x509.Certificate, usage: x509.KeyUsage | None
) -> None:
    if usage is not None and (usage.key_cert_sign or not usage.digital_signature):
        raise ValueError("not for TLS")


def _check_device_purpose(
    _: verification.Policy, __: x509.Certificate, purposes: x509.ExtendedKeyUsage | None
) -> None:
    if purposes is not None and ExtendedKeyUsageOID.CLIENT_AUTH not in purposes:
        raise ValueError("not for clients")


_PURPOSES = {
    ExtendedKeyUsageOID.CLIENT_AUTH,
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
}
_ANY = verification.Criticality.AGNOSTIC

# Policies of the web, the default, require extensions that private authorities leave out, and a
# subject alternative name.
_AUTHORITY_POLICY = (
    verification.ExtensionPolicy.permit_all()
    .require_present(x509.BasicConstraints, _ANY, _check_authority)
    .may_be_present(x509.KeyUsage, _ANY, _check_authority_usage)
    .may_be_present(x509.ExtendedKeyUsage, _ANY, _check_authority_purpose)
)
_DEVICE_POLICY = (
    verification.ExtensionPolicy.permit_all()
    .may_be_present(x509.BasicConstraints, _ANY, _check_device)
    .may_be_present(x509.KeyUsage, _ANY, _check_device_usage)
    .may_be_present(x509.ExtendedKeyUsage, _ANY, _check_device_purpose)
)
