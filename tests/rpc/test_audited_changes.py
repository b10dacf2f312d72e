"""The audit log says what UpdateJob, UpdateWebhook and UpdateDevices have changed."""

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from fleet.jobs.v1 import events_pb2 as events_pb
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1.fleet_pb2 import Device
from google.protobuf.field_mask_pb2 import FieldMask

from jobs_grpc.observability import logs
from tests.support.callers import Operator
from tests.support.database import Database, job_lock_held
from tests.support.failures import expect_error
from tests.support.server import Server, running_server
from tests.support.webhooks import loopback_settings, write_keys


def _changes(lines: list[str]) -> list[Any]:
    fields = map(json.loads, lines)
    return [line.get("changes") for line in fields if line["message"].startswith("audit Update")]


async def test_update_of_a_job_has_the_old_and_new_values_of_its_mask(
    database: Database, operator: Operator, audit_lines: Any
) -> None:
    await database.add_devices(operator.tenant, ["d"])
    await operator.create(
        job_id="j", target_all=True, labels={"team": "a"}, in_progress_timeout_minutes=5
    )
    await operator.update(
        "j", "labels", "description", "in_progress_timeout_minutes", labels={}, description="new"
    )
    stages = [pb.Stage(remainder=True)]
    await operator.create(job_id="k", target_all=True, rollout=pb.Rollout(stages=stages))
    await operator.update("k", "rollout.max_in_progress", rollout=pb.Rollout(max_in_progress=7))

    assert _changes(audit_lines()) == [
        {
            "description": {"old": "", "new": "new"},
            "in_progress_timeout_minutes": {"old": 5, "new": None},
            "labels": {"old": {"team": "a"}, "new": None},
        },
        {"rollout.max_in_progress": {"old": None, "new": 7}},
    ]


async def test_old_value_is_the_one_that_the_call_has_replaced(
    database: Database, operator: Operator, audit_lines: Any
) -> None:
    """Two calls wait for the lock: the old value of the second is the new one of the first."""
    await database.add_devices(operator.tenant, ["d"])
    await operator.create(job_id="j", target_all=True, description="0")
    updates = []
    async with job_lock_held(database, operator.tenant, "j"):
        for number in (1, 2):
            call = operator.update("j", "description", description=str(number))
            updates.append(asyncio.create_task(call))
            await database.wait_for_blocked_sessions(number)
    await asyncio.gather(*updates)

    first, second = sorted(
        (c["description"] for c in _changes(audit_lines())), key=lambda c: c["old"]
    )
    assert (first["old"], second["old"]) == ("0", first["new"])
    assert {first["new"], second["new"]} == {"1", "2"}


async def test_refused_update_has_no_values(operator: Operator, audit_lines: Any) -> None:
    await expect_error("JOB_NOT_FOUND", operator.update("j", "description", description="new"))

    assert _changes(audit_lines()) == [None]


@pytest.mark.parametrize("text_format", [False, True])
async def test_changes_take_at_most_1_kb_as_written(
    database: Database, operator: Operator, caplog: pytest.LogCaptureFixture, *, text_format: bool
) -> None:
    caplog.set_level(logging.INFO, "jobs_grpc.audit")
    await database.add_devices(operator.tenant, ["d"])
    text = '"\U0001f600' * 250
    labels = {f"key-{number}": '"\u00e9' * 30 for number in range(10)}
    await operator.create(job_id="j", target_all=True, description=text, labels=labels)
    fields = ("description", "labels", "failure_criteria", "retry_policy", "expires_at")
    await operator.update(
        "j", *fields, description=text[::-1], labels=labels | {"key-1": "x"}, expires_at=None
    )

    record = next(r for r in caplog.records if r.getMessage() == "audit UpdateJob")
    changes = vars(record)["fields"]["changes"]
    assert changes.keys() == {*fields}
    written = json.dumps(json.dumps(changes)) if text_format else json.dumps(changes)
    format_ = logs.TextFormatter() if text_format else logs.JsonFormatter()
    assert written in format_.format(record)
    assert 300 < len(written) <= 1024


async def test_update_of_a_webhook_has_the_hosts_of_its_urls(
    database: Database, tenant: str, tmp_path: Path, audit_lines: Any
) -> None:
    variables = loopback_settings(write_keys(tmp_path / "keys", "k1"), 8443)
    async with running_server(database.request_dsn, **variables) as server:
        events = server.events(tenant)
        create = events_pb.CreateWebhookRequest(url="http://127.0.0.1:8443/hunter2")
        created = await events.stub.CreateWebhook(create, metadata=events.metadata)
        webhook = events_pb.Webhook(
            url="http://127.0.0.2:8443/?token=hunter2", types=["job.tripped"]
        )
        update = events_pb.UpdateWebhookRequest(
            webhook_id=created.webhook.webhook_id,
            webhook=webhook,
            update_mask=FieldMask(paths=["url", "enabled", "types"]),
        )
        await events.stub.UpdateWebhook(update, metadata=events.metadata)

    assert _changes(audit_lines()) == [
        {
            "enabled": {"old": True, "new": False},
            "types": {"old": None, "new": ["job.tripped"]},
            "url": {"old": "127.0.0.1", "new": "127.0.0.2"},
        }
    ]
    assert "hunter2" not in "".join(audit_lines())


async def test_update_of_devices_has_the_keys_of_labels_and_counts(
    server: Server, tenant: str, audit_lines: Any
) -> None:
    fleet = server.fleet(tenant)
    await fleet.update(Device(device_id="d1"), allow_missing=True)
    devices = [
        Device(device_id="d1", labels={"team": "hunter2", "site": "hunter2"}),
        Device(device_id="d2", labels={"team": "hunter2"}),
    ]
    mask = ["labels", "time_zone"]
    await fleet.update(*devices, mask=mask, remove_labels=["old"], allow_missing=True)

    assert _changes(audit_lines())[1] == {
        "registered": 1,
        "updated": 1,
        "label_count": 2,
        "labels": {"team": 2, "site": 1},
        "remove_labels": ["old"],
        "time_zone": 2,
    }
    assert "hunter2" not in audit_lines()[1]
