"""Any page token is a position that PostgreSQL can compare with, or is refused."""

import base64
import json

from fleet.jobs.v1.device_jobs_pb2 import ListPendingExecutionsRequest

from tests.fuzz.engine import fuzz, instrumented

with instrumented():
    from jobs_grpc.errors import InvalidPageToken
    from jobs_grpc.services.page_tokens import page_token, parse_pending_token

_DEVICE = "d"
_REQUEST = ListPendingExecutionsRequest()


def _raw(token: str) -> bytes:
    return base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))


_RAW = _raw(page_token(_REQUEST, _DEVICE, "QUEUED", 0, 700_000_000_000_000, "j"))
_DIGEST = json.loads(_RAW)[0]
SEEDS = (
    _RAW,
    b"",
    b"[]",
    b"[[[[",
    json.dumps([_DIGEST, _DEVICE, "QUEUED", "1", "9" * 5000, "j"]).encode(),
    json.dumps([_DIGEST, _DEVICE, "QUEUED", "1_0", " 7 ", "\ud800"]).encode(),
    json.dumps([_DIGEST, _DEVICE, "IN_PROGRESS", "-1", "0", "\0"]).encode(),
    json.dumps([_DIGEST, "other", "QUEUED", "0", "0", "j"]).encode(),
)


def check(data: bytes) -> None:
    """Read the bytes as a token: as its text, and as what base64 encodes in it."""
    for token in (data.decode(errors="replace"), base64.urlsafe_b64encode(data).decode()):
        request = ListPendingExecutionsRequest(page_token=token)
        try:
            position = parse_pending_token(request, _DEVICE)
        except InvalidPageToken:
            continue
        if token:
            status, order, queued_at, job_id = position
            assert status in ("IN_PROGRESS", "QUEUED")
            assert abs(order) <= 1
            assert abs(queued_at) <= 2**56
            assert "\0" not in job_id
            job_id.encode()


if __name__ == "__main__":
    fuzz(check, SEEDS)
