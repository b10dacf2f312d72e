"""The signature, verified by the reference implementation of Standard Webhooks."""

import time

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from jobs_grpc.webhooks.secrets import encoded
from jobs_grpc.webhooks.signature import signed_headers

SECRET, OTHER = b"s" * 32, b"o" * 32
BODY = '{"type":"job.paused","data":{"reason":"Überhitzung"}}'.encode()


def test_reference_implementation_accepts_each_signature() -> None:
    headers = signed_headers("evt_0_1", int(time.time()), BODY, [SECRET, OTHER])

    for secret in (SECRET, OTHER):
        Webhook(encoded(secret)).verify(BODY, headers)


@pytest.mark.parametrize("changed", ["webhook-id", "webhook-timestamp", "body", "secret"])
def test_reference_implementation_rejects_what_was_changed(changed: str) -> None:
    now = int(time.time())
    headers = signed_headers("evt_0_1", now, BODY, [SECRET])
    body = BODY + b" " if changed == "body" else BODY
    if changed in headers:
        headers[changed] = {"webhook-id": "evt_0_2", "webhook-timestamp": str(now - 1)}[changed]

    with pytest.raises(WebhookVerificationError):
        Webhook(encoded(OTHER if changed == "secret" else SECRET)).verify(body, headers)


def test_signature_does_not_change() -> None:
    headers = signed_headers("evt_0_1", 1614265330, b"{}", [SECRET, OTHER])

    assert headers == {
        "webhook-id": "evt_0_1",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,ddqHCVtzR+B+2JDYOqG01zreiwAMxdHYiMS9ReBxe3Q="
        " v1,jtS36hWBwiPrRXlWYf+UuLAZdmCM7/MVOy6AzkrYp34=",
    }
