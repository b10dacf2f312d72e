"""Client certificates of devices that a gateway forwards in metadata: JOBS_DEVICE_GATEWAYS."""

from jobs_grpc.auth.metadata import Metadata

_KEY = "x-device-certificate-bin"

NOT_A_GATEWAY = "was forwarded by a client that JOBS_DEVICE_GATEWAYS does not list"
"""The problem of InvalidCertificate if the caller may not forward certificates."""


def has_forwarded_certificate(metadata: Metadata) -> bool:
    """Whether the call is one of a device, if the caller may forward certificates."""
    return any(key == _KEY for key, _ in metadata)


def forwarded_certificates(metadata: Metadata) -> list[bytes]:
    """Return the certificates in DER: of the device, and then those that it has sent with it."""
    # gRPC decodes the values of keys that end in -bin.
    return [value for key, value in metadata if key == _KEY and isinstance(value, bytes)]
