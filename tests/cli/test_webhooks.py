"""`jobs-grpc webhooks`, except what transcripts/webhooks.txt has."""

import grpc
import pytest
from fleet.jobs.v1 import events_pb2 as pb

from jobs_grpc.cli import webhooks
from jobs_grpc.client.retry import Delays
from tests.support.cli import Shell
from tests.support.scripted_server import Refusal, running_scripted_server


@pytest.mark.parametrize(
    ("option", "note"), [([], "waiting 10 s: scripted\n"), (["--json"], "")], ids=["text", "json"]
)
async def test_test_says_why_it_waits_when_it_is_repeated_too_soon(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, option: list[str], note: str
) -> None:
    monkeypatch.setattr(Delays, "after", lambda *_: 0.0)
    too_soon = Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "WEBHOOK_TEST_TOO_SOON", retry_after=10)
    delivered = pb.TestWebhookResponse(http_status=204)
    async with running_scripted_server(TestWebhook=[too_soon, delivered]) as server:
        result = await shell("webhooks", "test", "wh_1", "--server", server.address, *option)

    assert (result.code, result.err) == (0, note)


def test_each_error_and_cause_is_described() -> None:
    errors = pb.Webhook.DeliveryError.values()
    assert {*webhooks._ERRORS} | {pb.Webhook.HTTP_STATUS, 0} == {*errors}
    assert {*webhooks._CAUSES} | {0} == {*pb.Webhook.DisabledCause.values()}
