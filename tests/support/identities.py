"""Creates keys, certificates and tokens."""

import base64
import datetime
import ipaddress
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, hmac, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from joserfc import jwk, jws
from joserfc.jwk import Key

ISSUER = "https://login.example"
AUDIENCE = "jobs"

_PKCS8 = serialization.PrivateFormat.PKCS8
_PEM = serialization.Encoding.PEM


def new_key(algorithm: str = "RS256", key_id: str | None = "k1") -> Key:
    parameters: Any = {"kid": key_id} if key_id else {}
    match algorithm:
        case "RS256":
            return jwk.RSAKey.generate_key(2048, parameters)
        case "ES256":
            return jwk.ECKey.generate_key("P-256", parameters)
    return jwk.OKPKey.generate_key("Ed25519", parameters)


def jwks(*keys: Key) -> str:
    return json.dumps({"keys": [key.as_dict(private=False) for key in keys]})


def claims(tenant: str, *roles: str, **changes: Any) -> dict[str, Any]:
    """The claims of a valid token that expires in a minute.

    `changes` adds and replaces claims; a value of None removes one.
    """
    all_claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "exp": int(time.time()) + 60,
        "sub": "olivia",
        "tenant_id": tenant,
        "roles": list(roles),
    } | changes
    return {name: value for name, value in all_claims.items() if value is not None}


def token(key: Key, payload: dict[str, Any], algorithm: str = "RS256", **headers: Any) -> str:
    """A signed token. `headers` adds and replaces headers; they may be invalid."""
    key_id = {"kid": key.kid} if key.kid else {}
    header = {"alg": algorithm} | key_id | headers
    registry = _UncheckedRegistry(algorithms=[algorithm], strict_check_header=False)
    return jws.serialize_compact(header, json.dumps(payload), key, registry=registry)


class _UncheckedRegistry(jws.JWSRegistry):
    """Signs tokens with invalid headers as well."""

    def check_header(self, header: Any) -> None:
        """Accept any header."""

    def get_alg(self, name: str) -> Any:
        """The algorithm, without the warning that joserfc gives for the name EdDSA."""
        return self.algorithms[name]


def pem(key: Key) -> bytes:
    assert isinstance(key, (jwk.RSAKey, jwk.ECKey, jwk.OKPKey))
    return key.as_pem(private=False)


def private_pem(key: Key, password: str | None = None) -> bytes:
    assert isinstance(key, (jwk.RSAKey, jwk.ECKey, jwk.OKPKey))
    return key.as_pem(private=True, password=password)


def unsigned_token(payload: dict[str, Any]) -> str:
    return f"{_encode({'alg': 'none', 'kid': 'k1'})}.{_encode(payload)}."


def hs256_token(key: Key, payload: dict[str, Any]) -> str:
    """A token signed with HS256, with the PEM of the public key as the secret."""
    signed = f"{_encode({'alg': 'HS256', 'kid': 'k1'})}.{_encode(payload)}"
    mac = hmac.HMAC(pem(key), hashes.SHA256())
    mac.update(signed.encode())
    return f"{signed}.{_base64(mac.finalize())}"


def _encode(part: object) -> str:
    return _base64(json.dumps(part).encode())


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@dataclass(frozen=True)
class Pair:
    certificate: bytes
    key: bytes

    def write(self, folder: Path, name: str) -> tuple[str, str]:
        """Write NAME.crt and NAME.key, each atomically, and return their paths."""
        paths = folder / f"{name}.crt", folder / f"{name}.key"
        for path, content in zip(paths, (self.certificate, self.key), strict=True):
            replace_file(path, content)
        return str(paths[0]), str(paths[1])


def replace_file(path: Path, content: bytes) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.replace(path)


class Authority:
    """A certificate authority with a key of its own.

    Its certificate and those that it issues are valid from `begins` to `ends`, relative to now.
    """

    def __init__(
        self,
        begins: datetime.timedelta = datetime.timedelta(hours=-1),
        ends: datetime.timedelta = datetime.timedelta(hours=1),
        name: str = "authority",
    ) -> None:
        self._begins = begins
        self._ends = ends
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        self.certificate = self._sign(self._name, self._key.public_key(), [], ca=True)

    def client(
        self,
        common_name: str,
        *uris: str,
        dns: str | None = None,
        second_common_name: str | None = None,
    ) -> Pair:
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
        names += [x509.DNSName(dns)] if dns else []
        return self._pair(_name(common_name, second_common_name), names)

    def device(self, tenant: str, device: str, trust_domain: str = "acme.example") -> Pair:
        """The certificate of a device; the IDs may need percent-encoding."""
        return self.client("any", f"spiffe://{trust_domain}/tenant/{tenant}/device/{device}")

    def issue(
        self,
        common_name: str = "any",
        names: Sequence[x509.GeneralName] = (),
        *extensions: x509.ExtensionType,
        ca: bool = False,
        begins: datetime.timedelta | None = None,
        ends: datetime.timedelta | None = None,
        key: Any = None,
    ) -> Pair:
        """A certificate with more extensions, of another period, or with another kind of key."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(
            *(_name(common_name), key.public_key(), list(names), ca),
            *extensions,
            begins=begins,
            ends=ends,
        )
        return Pair(certificate, key.private_bytes(_PEM, _PKCS8, serialization.NoEncryption()))

    def intermediate(self, *extensions: x509.ExtensionType, ca: bool = True) -> "Authority":
        """An authority whose certificate this one has issued."""
        authority = Authority(self._begins, self._ends, name="intermediate")
        authority.certificate = self._sign(
            authority._name, authority._key.public_key(), [], ca, *extensions
        )
        return authority

    def server(self, common_name: str = "jobs") -> Pair:
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        return self._pair(_name(common_name), [address, x509.DNSName("localhost")])

    def _pair(self, subject: x509.Name, names: list[x509.GeneralName]) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(subject, key.public_key(), names)
        return Pair(certificate, key.private_bytes(_PEM, _PKCS8, serialization.NoEncryption()))

    def _sign(
        self,
        subject: x509.Name,
        key: Any,
        names: list[x509.GeneralName],
        ca: bool = False,
        *extensions: x509.ExtensionType,
        begins: datetime.timedelta | None = None,
        ends: datetime.timedelta | None = None,
    ) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + (self._begins if begins is None else begins))
            .not_valid_after(now + (self._ends if ends is None else ends))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(_PEM)


def mutual_tls(authority: Authority, folder: Path) -> dict[str, str]:
    """The settings of a server that requires client certificates of the authority."""
    certificate, key = authority.server().write(folder, "server")
    (folder / "ca.crt").write_bytes(authority.certificate)
    return {
        "JOBS_TLS_CERT": certificate,
        "JOBS_TLS_KEY": key,
        "JOBS_TLS_CLIENT_CA": str(folder / "ca.crt"),
    }


def _name(*common_names: str | None) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, name) for name in common_names if name]
    )


def channel_credentials(authority: Authority, client: Pair | None = None) -> Any:
    """Credentials of a client that trusts the authority and may present a certificate."""
    return grpc.ssl_channel_credentials(
        authority.certificate,
        client.key if client else None,
        client.certificate if client else None,
    )
