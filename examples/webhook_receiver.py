"""Receives events by a webhook: verifies each signature, and handles each event once and in order.

WEBHOOK_SECRET=whsec_... python examples/webhook_receiver.py 8000 position.txt

Put a TLS proxy in front of it. The receiver ignores events up to the stored position: remove the
file before you set an earlier position with UpdateWebhook.
"""

import base64
import hmac
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

try:
    SECRET = os.environ.get("WEBHOOK_SECRET", "").removeprefix("whsec_")
    KEY = base64.b64decode(SECRET, validate=True)
except ValueError:
    KEY = b""
if len(KEY) < 24:
    sys.exit("set WEBHOOK_SECRET to the secret of the webhook, such as whsec_…")
STORED = Path(sys.argv[2])


class Receiver(BaseHTTPRequestHandler):
    """Responds with 204 after the event was handled. After another status, it is sent again."""

    def do_POST(self) -> None:
        """Receive a delivery."""
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        sent_at = self.headers.get("webhook-timestamp", "0")
        content = f"{self.headers.get('webhook-id')}.{sent_at}.".encode() + body
        expected = b"v1," + base64.b64encode(hmac.digest(KEY, content, "sha256"))
        # During a rotation of the secret, there are two.
        signatures = self.headers.get("webhook-signature", "").encode().split()
        is_signed = any(hmac.compare_digest(signature, expected) for signature in signatures)
        is_valid = is_signed and abs(time.time() - int(sent_at)) < 300
        if is_valid:
            receive(json.loads(body))
        self.send_response(204 if is_valid else 401)
        self.end_headers()


def receive(event: dict[str, Any]) -> None:
    """Handle an event, unless it or a later one was handled before."""
    position = int(event["data"].get("position", 0))  # webhook.test has none
    if position > (int(STORED.read_text()) if STORED.exists() else 0):
        print(event["type"], event["data"]["job_id"], flush=True)  # your work
        STORED.write_text(str(position))  # better: in the transaction of your work


HTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver).serve_forever()
