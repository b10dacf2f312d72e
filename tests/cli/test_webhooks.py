"""`jobs-grpc webhooks`, at a scripted server."""

import argparse
import asyncio
import json
import re
import time
from collections.abc import AsyncIterator

import grpc
import pytest
from fleet.jobs.v1 import events_pb2 as pb
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from jobs_grpc.cli import webhooks
from jobs_grpc.cli.completers import complete_argument
from jobs_grpc.client.retry import Delays
from tests.support.cli import Shell, answer_on_terminal, cells, run_on_terminal
from tests.support.scripted_server import Answer, Refusal, ScriptedServer, running_scripted_server

ID = "wh_4f1c9a0b7d2e4c51"
URL = "https://hooks.example.com/jobs"
TIME = Timestamp(seconds=1_795_964_737)
WEBHOOK = pb.Webhook(
    webhook_id=ID,
    url=URL,
    types=["job.paused", "job.completed"],
    enabled=True,
    position=1_795_964_737_000_000,
    created_at=TIME,
    verified_at=TIME,
)
FAILING = pb.Webhook(
    webhook_id=ID,
    url=URL,
    description="status page",
    disabled_cause=pb.Webhook.RETRIES_EXHAUSTED,
    position=7,
    purged_position=7,
    created_at=TIME,
    last_success_at=TIME,
    last_attempt_at=TIME,
    last_http_status=503,
    last_error=pb.Webhook.HTTP_STATUS,
    failure_count=41,
)
SECRET = "whsec_" + "c2VjcmV0" * 5


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ScriptedServer]:
    """A server with one webhook."""
    answers: dict[str, Answer] = {
        "ListWebhooks": pb.ListWebhooksResponse(webhooks=[WEBHOOK, FAILING]),
        "GetWebhook": pb.GetWebhookResponse(webhook=FAILING),
        "CreateWebhook": pb.CreateWebhookResponse(webhook=WEBHOOK, secret=SECRET),
        "UpdateWebhook": pb.UpdateWebhookResponse(webhook=WEBHOOK),
        "RotateWebhookSecret": pb.RotateWebhookSecretResponse(webhook=WEBHOOK, secret=SECRET),
        "TestWebhook": pb.TestWebhookResponse(
            http_status=204, duration=Duration(nanos=120_000_000)
        ),
        "DeleteWebhook": pb.DeleteWebhookResponse(),
    }
    async with running_scripted_server(**answers) as server:
        yield server


@pytest.fixture
def shell(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Shell:
    monkeypatch.setenv("JOBS_SERVER", server.address)
    monkeypatch.setenv("JOBS_TENANT", "demo")
    return Shell(capsys)


async def test_list_shows_the_state_of_each_webhook(shell: Shell) -> None:
    shown = await shell("webhooks", "list", "--utc")
    as_json = await shell("webhooks", "list", "--json", "--columns", "webhook,state")

    rows = [cells(line) for line in shown.out.splitlines()]
    assert rows == [
        ["WEBHOOK", "STATE", "URL", "LAST_SUCCESS", "FAILURES", "TYPES"],
        [ID, "ENABLED", URL, "-", "0", "job.paused job.completed"],
        [ID, "DISABLED", URL, "2026-11-29 15:05:37Z", "41", "all"],
    ]
    assert json.loads(as_json.out)["webhooks"][1] == {"webhook_id": ID, "state": "DISABLED"}


async def test_webhook_whose_deliveries_no_server_begins_is_waiting(
    shell: Shell, server: ScriptedServer
) -> None:
    def answer(*, due_for: int, failure_count: int = 0) -> None:
        webhook = pb.Webhook(failure_count=failure_count)
        webhook.MergeFrom(WEBHOOK)
        webhook.due_since.FromSeconds(int(time.time()) - due_for)
        server.answers["GetWebhook"] = [pb.GetWebhookResponse(webhook=webhook)]
        server.answers["ListWebhooks"] = [pb.ListWebhooksResponse(webhooks=[webhook])]

    answer(due_for=90)
    shown = await shell("webhooks", "get", ID)
    listed = await shell("webhooks", "list")
    answer(due_for=0)
    soon = await shell("webhooks", "get", ID)
    answer(due_for=90, failure_count=1)
    retried = await shell("webhooks", "get", ID)

    assert "state        WAITING" in shown.out
    assert re.search(r"^due since    .* \(9\ds ago\)$", shown.out, re.MULTILINE)
    assert cells(listed.out.splitlines()[1])[1] == "WAITING"
    assert shown.err == listed.err
    assert "it needs JOBS_WEBHOOK_KEYS_FILE" in shown.err
    assert ("state        ENABLED" in soon.out, soon.err) == (True, "")
    assert ("state        RETRYING" in retried.out, retried.err) == (True, "")


async def test_list_says_what_the_receiver_of_an_unverified_webhook_must_answer(
    shell: Shell, server: ScriptedServer
) -> None:
    webhook = pb.Webhook(webhook_id=ID, url=URL, enabled=True, failure_count=2)
    server.answers["ListWebhooks"] = [pb.ListWebhooksResponse(webhooks=[webhook])]
    server.answers["GetWebhook"] = [pb.GetWebhookResponse(webhook=webhook)]

    listed = await shell("webhooks", "list")
    shown = await shell("webhooks", "get", ID)

    assert cells(listed.out.splitlines()[1])[1] == "UNVERIFIED"
    assert "state        UNVERIFIED" in shown.out
    assert listed.err == shown.err
    assert "must answer a signed event of the type webhook.test with a 2xx status" in listed.err


@pytest.mark.slow
async def test_list_fits_a_terminal_of_80_columns(server: ScriptedServer) -> None:
    code, shown = await run_on_terminal(
        "webhooks", "list", JOBS_SERVER=server.address, JOBS_TENANT="demo"
    )

    header, enabled, *_ = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
    assert code == 0
    assert header.split() == ["WEBHOOK", "STATE", "URL", "LAST_SUCCESS"]
    assert enabled.split() == [ID, "ENABLED", URL, "-"]


async def test_get_shows_why_a_webhook_is_disabled_and_what_is_lost(shell: Shell) -> None:
    shown = await shell("webhooks", "get", ID, "--utc")

    assert shown.out.splitlines() == [
        f"webhook      {ID}",
        f"url          {URL}",
        "description  status page",
        "types        all",
        "state        DISABLED after five days of failures",
        "position     7",
        "lost         events up to position 7 were purged before delivery",
        "created      2026-11-29 15:05:37Z",
        "verified     -",
        "delivered    2026-11-29 15:05:37Z",
        "failed       2026-11-29 15:05:37Z: the endpoint answered with status 503",
        "failures     41 since the last success",
    ]


async def test_create_and_rotate_print_the_secret_and_advice(
    shell: Shell, server: ScriptedServer
) -> None:
    created = await shell("webhooks", "create", URL, "--type", "paused", "--description", "page")
    as_json = await shell("webhooks", "create", URL, "--json")
    rotated = await shell("webhooks", "rotate-secret", ID)

    assert created.out.splitlines() == [f"created {ID}", f"secret: {SECRET}"]
    assert created.err.startswith("store the secret now: it is not shown again. ")
    assert json.loads(as_json.out)["secret"] == SECRET
    assert rotated.out == f"secret: {SECRET}\n"
    assert rotated.err.endswith("; for a day, the old secret verifies it as well\n")
    assert server.requests[0] == pb.CreateWebhookRequest(
        url=URL, types=["job.paused"], description="page"
    )


async def test_update_changes_only_the_given_fields(shell: Shell, server: ScriptedServer) -> None:
    updated = await shell("webhooks", "update", ID, "--enable", "--position", "0", "--all-types")
    nothing = await shell("webhooks", "update", ID)

    assert updated.out == f"updated {ID}: ENABLED at position {WEBHOOK.position}\n"
    assert server.requests == [
        pb.UpdateWebhookRequest(
            webhook_id=ID,
            update_mask=FieldMask(paths=["types", "enabled", "position"]),
            webhook=pb.Webhook(enabled=True),
        )
    ]
    assert nothing.code == 2
    assert nothing.err.startswith("jobs-grpc: nothing to change; ")


async def test_test_shows_the_result_of_the_delivery(shell: Shell, server: ScriptedServer) -> None:
    delivered = await shell("webhooks", "test", ID)
    server.answers["TestWebhook"] = [pb.TestWebhookResponse(error=pb.Webhook.ADDRESS_NOT_ALLOWED)]
    refused = await shell("webhooks", "test", ID)
    server.answers["TestWebhook"] = [
        pb.TestWebhookResponse(http_status=302, error=pb.Webhook.REDIRECT)
    ]
    redirected = await shell("webhooks", "test", ID, "--json")

    assert (delivered.code, delivered.out) == (0, "delivered in 0.12 s: status 204\n")
    assert (refused.code, refused.out) == (1, "")
    assert refused.err == (
        "jobs-grpc: not delivered: the server may not send to this address or port\n"
    )
    assert (redirected.code, json.loads(redirected.out)["error"]) == (1, "REDIRECT")
    assert json.loads(redirected.err)["error"]["message"] == (
        "not delivered: the endpoint answered with a redirect, which is not followed (status 302)"
    )


@pytest.mark.parametrize(
    ("option", "note"), [([], "waiting 10 s: scripted\n"), (["--json"], "")], ids=["text", "json"]
)
async def test_test_says_why_it_waits_when_it_is_repeated_too_soon(
    shell: Shell,
    server: ScriptedServer,
    monkeypatch: pytest.MonkeyPatch,
    option: list[str],
    note: str,
) -> None:
    monkeypatch.setattr(Delays, "after", lambda *_: 0.0)
    too_soon = Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "WEBHOOK_TEST_TOO_SOON", retry_after=10)
    server.answers["TestWebhook"].insert(0, too_soon)

    result = await shell("webhooks", "test", ID, *option)

    assert (result.code, result.err) == (0, note)


async def test_unknown_webhook_is_an_error_in_one_line(
    shell: Shell, server: ScriptedServer
) -> None:
    server.answers["GetWebhook"] = [Refusal(grpc.StatusCode.NOT_FOUND, "WEBHOOK_NOT_FOUND")]

    result = await shell("webhooks", "get", "wh_1")

    assert (result.code, result.err) == (3, "jobs-grpc: NOT_FOUND: scripted\n")


async def test_delete_asks_only_on_a_terminal(shell: Shell, server: ScriptedServer) -> None:
    deleted = await shell("webhooks", "delete", ID)
    assert (deleted.code, deleted.out) == (0, f"deleted {ID}\n")
    variables = {"JOBS_SERVER": server.address, "JOBS_TENANT": "demo"}

    code, shown = await answer_on_terminal("[y/N]", "n", "webhooks", "delete", ID, **variables)

    assert code == 1
    assert "nothing was changed; to delete without this question, add --yes" in shown
    assert server.calls["DeleteWebhook"] == 1


async def test_ids_are_completed(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBS_SERVER", server.address)
    monkeypatch.setenv("JOBS_TENANT", "demo")
    action = argparse.Action([], dest="webhook_id")
    parser = argparse.ArgumentParser(prog="jobs-grpc webhooks get")

    found = await asyncio.to_thread(
        complete_argument, "wh_", action, parser, argparse.Namespace(timeout=None)
    )

    assert [*found] == [ID]


def test_each_error_and_cause_is_described() -> None:
    errors = pb.Webhook.DeliveryError.values()
    assert {*webhooks._ERRORS} | {pb.Webhook.HTTP_STATUS, 0} == {*errors}
    assert {*webhooks._CAUSES} | {0} == {*pb.Webhook.DisabledCause.values()}


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        (
            ("create", URL),
            "if `webhooks list` shows the webhook, `webhooks rotate-secret` prints a secret for it",
        ),
        (
            ("rotate-secret", ID),
            "the secret may have changed: within a day, repeat the command and give the secret to"
            " the receiver at once",
        ),
    ],
)
async def test_error_says_what_to_do_when_a_secret_may_be_lost(
    shell: Shell, command: tuple[str, ...], advice: str
) -> None:
    lost = Refusal(grpc.StatusCode.INTERNAL, reason="INTERNAL")
    async with running_scripted_server(CreateWebhook=lost, RotateWebhookSecret=lost) as server:
        result = await shell("webhooks", *command, "--server", server.address)

    assert (result.code, result.err) == (1, f"jobs-grpc: INTERNAL: scripted; {advice}\n")
