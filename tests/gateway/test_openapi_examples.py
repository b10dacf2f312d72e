"""The examples of the OpenAPI document are requests and responses of the service.

`UPDATE_EXAMPLES=1 make test ARGS=tests/gateway/test_openapi_examples.py` records them again.
Then run `make generate-gateway`.
"""

import json
import os
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.support import GATEWAY, RestClient
from tests.support.database import Database
from tests.support.server import Server
from tests.support.webhooks import RecordingSender, running_webhook_server

FOLDER = GATEWAY.parent / "tools" / "openapi"
EXAMPLES = FOLDER / "examples.json"
DEVICE = "device-0001"
JOB = "/customer/jobs/reboot-1"
DEVICE_JOB = "/device/v1/jobs/reboot-1"

ROLLOUT = {
    "stages": [
        {"display_name": "canary", "device_count": 1, "gate": {"require_approval": True}},
        {"remainder": True},
    ]
}
CREATE = {
    "job_id": "reboot-1",
    "document_type": "reboot",
    "document_params": {"delay_seconds": 5},
    "target_group_id": "north",
    "expires_in_hours": 24,
}
UPDATE = {
    "update_mask": "expires_at,in_progress_timeout_minutes",
    "expires_at": (datetime.now(UTC) + timedelta(days=3)).isoformat(),
    "in_progress_timeout_minutes": 30,
}
FAILED = {"status": "FAILED", "failure_code": "no-power", "status_details": {"volts": 3.1}}

ACKNOWLEDGED = {"executions": [{"job_id": "reboot-1", "execution_number": 1}]}

UPDATE_DEVICES = {
    "devices": [{"device_id": DEVICE, "labels": {"model": "x200"}, "time_zone": "Europe/Berlin"}],
    "update_mask": "labels,time_zone",
    "remove_labels": ["quarantined"],
}

PREVIEW = {"target_selector": "group=north", "rollout": {"stages": [{"remainder": True}]}}

# The calls in order: the operation, the method, the path and the body.
CALLS: list[tuple[str, str, str, Any]] = [
    ("CreateJob", "POST", "/customer/jobs", CREATE),
    ("ListPendingExecutions", "GET", "/device/v1/jobs", None),
    ("StartNextExecution", "POST", "/device/v1/jobs:startNext", {}),
    ("StartNextExecutions", "POST", "/device/v1/devices:startNext", {"device_ids": [DEVICE]}),
    ("StartExecution", "POST", f"{DEVICE_JOB}:start", {"status_details": {"step": "download"}}),
    ("UpdateExecution", "PATCH", DEVICE_JOB, FAILED),
    ("GetExecution", "GET", DEVICE_JOB, None),
    ("AcknowledgeExecutions", "POST", "/device/v1/jobs:acknowledge", ACKNOWLEDGED),
    ("UpdateFacts", "PATCH", "/device/v1/facts", {"facts": {"version": "2.1"}}),
    ("GetFailureSummary", "GET", f"{JOB}/failures", None),
    ("RetryExecutions", "POST", f"{JOB}:retry", {"statuses": ["FAILED", "TIMED_OUT"]}),
    ("ListExecutionAttempts", "GET", f"{JOB}/executions/{DEVICE}/attempts", None),
    ("ListJobExecutions", "GET", f"{JOB}/executions", None),
    ("ListDeviceExecutions", "GET", f"/customer/devices/{DEVICE}/executions", None),
    ("PauseJob", "POST", f"{JOB}:pause", {"reason": "too many failures"}),
    ("ExplainExecution", "GET", f"{JOB}/executions/{DEVICE}/explanation", None),
    ("ResumeJob", "POST", f"{JOB}:resume", {}),
    ("ListJobEvents", "GET", f"{JOB}/events?newest_first=true&limit=2", None),
    ("ListEvents", "GET", "/customer/events?types=job.paused", None),
    ("UpdateJob", "PATCH", JOB, UPDATE),
    ("GetJob", "GET", f"{JOB}?executions_limit=1", None),
    ("ListJobs", "GET", "/customer/jobs", None),
    ("GetCaller", "GET", "/customer/caller", None),
    ("ListDevices", "GET", "/customer/fleet/devices?selector=group%3Dnorth&limit=1", None),
    ("UpdateDevices", "POST", "/customer/fleet/devices:update", UPDATE_DEVICES),
    ("GetDevice", "GET", f"/customer/fleet/devices/{DEVICE}", None),
    ("ListGroups", "GET", "/customer/fleet/groups", None),
    ("ListLabels", "GET", "/customer/fleet/labels", None),
    ("GetFleetSummary", "GET", "/customer/fleet/summary", None),
    ("PreviewTarget", "POST", "/customer/fleet:previewTarget", PREVIEW),
    ("CancelExecution", "DELETE", f"{JOB}/executions/{DEVICE}", {"reason": "replaced"}),
    ("GetJobTimeline", "GET", f"{JOB}/timeline", None),
    ("CancelJob", "DELETE", JOB, {"reason": "wrong group"}),
    ("DeleteJob", "POST", f"{JOB}:delete", {}),
]
STAGED = {"job_id": "install-1", "document_type": "install", "rollout": ROLLOUT, "target_all": True}
STAGED_CALLS: list[tuple[str, str, str, Any]] = [
    ("", "POST", "/customer/jobs", STAGED),
    (
        "ApproveStage",
        "POST",
        "/customer/jobs/install-1/stages/0:approve",
        {"comment": "looks good"},
    ),
    ("AdvanceJob", "POST", "/customer/jobs/install-1:advance", {"stage": 1}),
    ("DeleteDevices", "POST", "/customer/fleet/devices:delete", {"device_ids": ["device-0002"]}),
]

# The server chooses the ID.
WEBHOOK = "/customer/webhooks/{webhook_id}"
CREATE_WEBHOOK = {
    "url": "https://hooks.example.com/jobs",
    "types": ["job.paused", "job.completed"],
    "description": "status page",
}
UPDATE_WEBHOOK = {"update_mask": "types,enabled", "webhook": {"types": [], "enabled": True}}
WEBHOOK_CALLS: list[tuple[str, str, str, Any]] = [
    ("CreateWebhook", "POST", "/customer/webhooks", CREATE_WEBHOOK),
    ("ListWebhooks", "GET", "/customer/webhooks", None),
    ("GetWebhook", "GET", WEBHOOK, None),
    ("UpdateWebhook", "PATCH", WEBHOOK, UPDATE_WEBHOOK),
    ("RotateWebhookSecret", "POST", f"{WEBHOOK}:rotateSecret", {}),
    ("TestWebhook", "POST", f"{WEBHOOK}:test", {}),
    ("DeleteWebhook", "DELETE", WEBHOOK, None),
]


@pytest.fixture(scope="module")
async def server(database: Database, webhook_keys: Path) -> AsyncIterator[Server]:
    async with running_webhook_server(database, webhook_keys, RecordingSender()) as running:
        yield running


def stable(text: str, tenant: str) -> str:
    """Replace what differs in every run: times, tags, tokens, and the tenant of the test."""
    text = text.replace(tenant, "demo")
    text = re.sub(r'"\d{4}-\d\d-\d\dT[^"]*"', '"2026-11-24T15:05:36.757135+00:00"', text)
    text = re.sub(r'("target_digest": )"[^"]+"', r'\1"2-50a3f5ac1d0e37b2-1f4c02be91d3a7f0"', text)
    text = re.sub(r'("etag": )"[^"]+"', r'\1"2.1"', text)
    text = re.sub(r'("position": )"[1-9]\d+"', r'\1"1795964737123456"', text)
    text = re.sub(r'("webhook_id": )"[^"]+"', r'\1"wh_4f1c9a0b7d2e4c51"', text)
    secret = "whsec_7Fg0sVYQxX1cV0m3d8rZ0h2bC9kqO1tJv5yPpWnLw3E="
    text = re.sub(r'("secret": )"[^"]+"', rf'\1"{secret}"', text)
    return re.sub(r'("next_\w*page_token": )"[^"]+"', r'\1"WyJkZXZpY2UtMDAwMSJd"', text)


async def test_examples_are_those_of_the_document(database: Database, rest: RestClient) -> None:
    await database.add_devices(rest.tenant, [DEVICE, "device-0002"], group="north")
    recorded: dict[str, Any] = {}
    webhook_id = ""
    for operation, method, path, body in CALLS + STAGED_CALLS + WEBHOOK_CALLS:
        # Another user must approve than the one who created the job.
        user = "amir" if operation == "ApproveStage" else "olivia"
        headers = {"X-Tenant-Id": rest.tenant, "X-User-Id": user}
        if path.startswith("/device/"):
            headers["X-Device-Id"] = DEVICE
        path = path.format(webhook_id=webhook_id)
        response = await rest.http.request(method, path, json=body, headers=headers)
        assert response.is_success, (operation, response.text)
        if operation == "CreateWebhook":
            webhook_id = response.json()["webhook"]["webhook_id"]
        if operation:
            example = {"response": response.json()} | ({"request": body} if body else {})
            recorded[operation] = dict(sorted(example.items()))
    text = json.dumps(dict(sorted(recorded.items())), indent=2, ensure_ascii=False) + "\n"
    text = stable(text, rest.tenant)
    if os.environ.get("UPDATE_EXAMPLES"):
        EXAMPLES.write_text(text, encoding="utf-8")

    assert text == EXAMPLES.read_text(encoding="utf-8")


def test_every_operation_has_examples_and_a_summary_of_its_own() -> None:
    document = json.loads((GATEWAY / "gen" / "openapi.json").read_text(encoding="utf-8"))
    operations = [op for item in document["paths"].values() for op in item.values()]
    assert len({operation["summary"] for operation in operations}) == len(operations)
    for operation in operations:
        for status, response in operation["responses"].items():
            if "$ref" in response:
                name = response["$ref"].rpartition("/")[2]
                response = document["components"]["responses"][name]
            if status == "204":
                continue
            (content,) = response["content"].values()
            assert "example" in content or content.get("examples"), (
                operation["operationId"],
                status,
            )
