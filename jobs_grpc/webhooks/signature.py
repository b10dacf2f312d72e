"""Signs deliveries according to Standard Webhooks 1.0: https://www.standardwebhooks.com."""

import base64
import hmac
from collections.abc import Sequence


def signed_headers(
    message_id: str, timestamp: int, body: bytes, secrets: Sequence[bytes]
) -> dict[str, str]:
    """Return the headers of a delivery, with a signature by each secret.

    `timestamp` is the time of the attempt, in Unix seconds. Receivers reject old ones.
    """
    content = f"{message_id}.{timestamp}.".encode() + body
    signatures = (base64.b64encode(hmac.digest(secret, content, "sha256")) for secret in secrets)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{signature.decode()}" for signature in signatures),
    }
