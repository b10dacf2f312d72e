"""Reads the names in client certificates. Needs the extra `mtls`."""

from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

UNREADABLE = (
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What cryptography raises for certificates that it cannot read."""


class CertificateError(Exception):
    """The certificate cannot be read."""


@dataclass(frozen=True, slots=True)
class CertificateNames:
    """The names of a certificate as they are encoded, with NUL and other control characters."""

    uris: frozenset[str]
    dns_names: frozenset[str]
    common_name: str | None
    """None without a common name, with several, or if there are URIs or DNS names."""


def read_certificate(pem: bytes) -> x509.Certificate:
    """Return the first certificate of a PEM text. Raises CertificateError."""
    try:
        return x509.load_pem_x509_certificate(pem)
    except UNREADABLE as e:
        raise CertificateError(str(e)) from None


def read_certificates(pem: bytes) -> list[x509.Certificate]:
    """Return all certificates of a PEM text. Raises CertificateError."""
    try:
        return x509.load_pem_x509_certificates(pem)
    except UNREADABLE as e:
        raise CertificateError(str(e)) from None


def read_names(certificate: x509.Certificate) -> CertificateNames:
    """Return the names of a certificate that has been verified. Raises CertificateError."""
    try:
        uris, dns_names = _alternative_names(certificate)
        common_names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    except UNREADABLE as e:
        raise CertificateError(str(e)) from None
    common_name = None
    if len(common_names) == 1 and not uris and not dns_names:
        value = common_names[0].value
        common_name = value if isinstance(value, str) else None
    return CertificateNames(uris, dns_names, common_name)


def _alternative_names(certificate: x509.Certificate) -> tuple[frozenset[str], frozenset[str]]:
    """The URIs and the DNS names of the subject alternative name extension."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return frozenset(), frozenset()
    uris = extension.value.get_values_for_type(x509.UniformResourceIdentifier)
    dns_names = extension.value.get_values_for_type(x509.DNSName)
    return frozenset(uris), frozenset(dns_names)
