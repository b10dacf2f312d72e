"""The tenant and the device that a certificate names."""

import re
from urllib.parse import unquote_to_bytes

from jobs_grpc.auth.certificates import CertificateNames
from jobs_grpc.auth.principal import is_identifier, is_tenant_id
from jobs_grpc.contract.dot_segments import has_dot_segment
from jobs_grpc.errors import InvalidCertificate

# A segment has at least one character. What is encoded is decoded after the split, so an ID may
# contain a slash, and a "%" that begins no pair of hexadecimal digits is an error.
_SEGMENT = r"((?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})+)"
_SPIFFE_ID = re.compile(rf"spiffe://([a-z0-9._-]+)/tenant/{_SEGMENT}/device/{_SEGMENT}")


def read_spiffe_id(names: CertificateNames) -> tuple[str, str, str]:
    """Return the trust domain, the tenant and the device of the only URI.

    Raises InvalidCertificate.
    """
    if len(names.uris) != 1:
        raise InvalidCertificate("must have exactly one URI, which is a SPIFFE ID")
    (uri,) = names.uris
    match = _SPIFFE_ID.fullmatch(uri)
    if match is None:
        raise InvalidCertificate(
            "has a URI that is not spiffe://TRUST_DOMAIN/tenant/TENANT/device/DEVICE"
        )
    tenant_id = _decode(match[2])
    if not is_tenant_id(tenant_id):
        raise InvalidCertificate("names a tenant with an ID that is not allowed")
    return match[1], tenant_id, _check_device(_decode(match[3]))


def read_device(names: CertificateNames, tenant_id: str) -> str:
    """Return the device that a certificate of the tenant's own authority names.

    It is the only DNS name, or else the common name. A SPIFFE ID names the device as well, and
    must name the tenant. Raises InvalidCertificate.
    """
    devices = set(names.dns_names)
    if names.uris:
        _, tenant, device = read_spiffe_id(names)
        if tenant != tenant_id:
            raise InvalidCertificate("names another tenant than the one of its authority")
        devices.add(device)
    elif not devices and names.common_name is not None:
        devices.add(names.common_name)
    if len(devices) != 1:
        raise InvalidCertificate("must name one device, as its DNS name or its common name")
    return _check_device(devices.pop())


def _check_device(device_id: str) -> str:
    """Return the ID of a device. Raises InvalidCertificate if no device can have it."""
    if not is_identifier(device_id) or has_dot_segment(device_id):
        raise InvalidCertificate("names a device with an ID that is not allowed")
    return device_id


def _decode(segment: str) -> str:
    """Decode a segment. Returns "", which is no ID, if it is not UTF-8."""
    try:
        return unquote_to_bytes(segment).decode()
    except UnicodeDecodeError:
        return ""
