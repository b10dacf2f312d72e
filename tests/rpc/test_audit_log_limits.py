"""What callers can make the audit log write is bounded."""

import json
import logging
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from fleet.jobs.v1.fleet_pb2 import DeleteDevicesRequest, Device, UpdateDevicesRequest
from google.protobuf.field_mask_pb2 import FieldMask
from grpc import StatusCode

from jobs_grpc.auth.principal import Principal
from jobs_grpc.errors import (
    DatabaseUnavailable,
    DevicesNotFound,
    Internal,
    JobsError,
    QueryTimeout,
    RoleRequired,
    ServerStopping,
)
from jobs_grpc.observability import logs
from jobs_grpc.rpc.audit_log import AuditLog
from tests.support.database import Database, rows_locked
from tests.support.failures import expect_error, expect_failure
from tests.support.server import Server
from tests.support.waiting import TIMEOUT
from tests.support.world import World

METHOD = "/fleet.jobs.v1.FleetService/DeleteDevices"
OTHER_METHOD = "/fleet.jobs.v1.FleetService/UpdateDevices"
PEER = SimpleNamespace(peer=lambda: "ipv4:127.0.0.1:1")
ROLE_REQUIRED = RoleRequired(["admin"])


@pytest.fixture
def log() -> Iterator[AuditLog]:
    """A log that writes no count after the test, when another one reads the log."""
    log = AuditLog()
    yield log
    log.flush()


def _refuse(
    log: AuditLog,
    times: int = 1,
    *,
    tenant: str = "a",
    subject: str = "s",
    method: str = METHOD,
    error: JobsError = ROLE_REQUIRED,
    authorized: bool = False,
) -> None:
    caller = Principal(tenant, frozenset(), subject)
    request = DeleteDevicesRequest(device_ids=["d"])
    for _ in range(times):
        log.write(
            *(method, PEER, caller, request, None, error, time.perf_counter()),
            canceled=False,
            authorized=authorized,
        )


async def test_refusals_have_the_number_of_devices_instead_of_their_ids(
    server: Server, tenant: str, audit_lines: Any
) -> None:
    # The longest valid IDs, and ones that are too long.
    longest = [f"{number:03}" + "\U0001f600" * 253 for number in range(100)]
    too_long = [device_id * 2 for device_id in longest]
    stub = server.fleet(tenant).stub
    user = (("x-tenant-id", tenant), ("x-user-id", "thief"))
    device = (*user, ("x-roles", "device"), ("x-device-id", "d"))
    for metadata, device_ids, code, reason in (
        (device, longest, StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"),
        (user, longest, StatusCode.NOT_FOUND, "DEVICE_NOT_FOUND"),
        (user, too_long, StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
    ):
        with expect_failure(code, reason):
            devices = [Device(device_id=device_id) for device_id in device_ids]
            request = UpdateDevicesRequest(devices=devices, update_mask=FieldMask(paths=["labels"]))
            await stub.UpdateDevices(request, metadata=metadata, timeout=TIMEOUT)

    for line in audit_lines():
        fields = json.loads(line)
        assert (fields["device_count"], fields["subject"]) == (100, "thief")
        assert fields["peer"].startswith("ipv4:127.0.0.1:")
        assert "device_ids" not in fields
        assert len(line) < 500
    assert len(audit_lines()) == 3


async def test_failure_that_may_have_taken_effect_has_the_ids_of_devices(
    server: Server, database: Database, tenant: str, audit_log: Any
) -> None:
    await database.add_devices(tenant, ["d1", "d2"])
    async with rows_locked(database, "device_state", tenant_id=tenant, device_id="d2"):
        deleting = await database.blocked(server.fleet(tenant).delete("d1", "d2"))
        await database.terminate_blocked_sessions()
        await expect_error("DATABASE_UNAVAILABLE", deleting)

    [line] = audit_log()
    assert (line["code"], line["device_ids"]) == ("UNAVAILABLE", ["d1", "d2"])


@pytest.mark.parametrize(
    "error", [DatabaseUnavailable(), QueryTimeout(1), ServerStopping(), Internal()]
)
async def test_failures_that_may_have_taken_effect_are_counted_after_20_lines_a_second(
    log: AuditLog, audit_log: Any, error: JobsError
) -> None:
    _refuse(log, 30, error=error, authorized=True)
    _refuse(log, error=error, subject="other")
    log.flush()

    *named, unauthorized, others = audit_log()
    assert [line["device_ids"] for line in named] == [["d"]] * 20
    assert "device_ids" not in unauthorized
    assert others["others"] == 10


async def test_job_id_of_a_refusal_is_short_as_written(world: World, audit_lines: Any) -> None:
    await expect_error("INVALID_FIELD", world.operator.cancel("j" + "\U0001f600" * 1000))

    [line] = audit_lines()
    job_id = json.loads(line)["job_id"]
    assert job_id.startswith("j\U0001f600")
    assert len(json.dumps(job_id)) < 260


@pytest.mark.parametrize("log_format", [logs.JsonFormatter(), logs.TextFormatter()])
async def test_ids_of_accepted_calls_take_at_most_4_kb_as_written(
    world: World, caplog: pytest.LogCaptureFixture, log_format: logging.Formatter
) -> None:
    caplog.set_level(logging.INFO, "jobs_grpc.audit")
    device_ids = [f"{number:03}" + '"\u00e9\U0001f600' * 20 for number in range(300)]
    devices = [Device(device_id=device_id, labels={"k": "v"}) for device_id in device_ids]
    fleet = world.fleet
    await fleet.update(*devices, mask=["labels"], allow_missing=True)

    [record] = [r for r in caplog.records if r.name == "jobs_grpc.audit"]
    fields = vars(record)["fields"]
    assert fields["device_count"] == 300
    written = log_format.format(record)
    without_ids = log_format.format(_without(record, "device_ids"))
    assert 2000 < len(written) - len(without_ids) <= 4096 + len(', "device_ids": []')
    assert fields["device_ids"] == device_ids[: len(fields["device_ids"])]


def _without(record: logging.LogRecord, field: str) -> logging.LogRecord:
    copy = logging.makeLogRecord(vars(record))
    copy.fields = {k: v for k, v in vars(record)["fields"].items() if k != field}
    return copy


async def test_refusals_of_a_kind_are_counted_after_20_lines_a_second(
    log: AuditLog, audit_log: Any, audit_lines: Any
) -> None:
    _refuse(log, 50)
    _refuse(log, 1, subject="other")
    _refuse(log, 1, error=DevicesNotFound(["d"], 1))
    assert len(audit_lines()) == 22
    log.flush()

    [others] = [fields for fields in audit_log() if "others" in fields]
    assert others["others"] == 30
    assert (others["message"], others["code"]) == ("audit DeleteDevices", "PERMISSION_DENIED")
    assert (others["tenant"], others["subject"]) == ("a", "s")
    assert others["reason"] == "ROLE_REQUIRED"


async def test_refusals_of_a_tenant_are_counted_after_200_lines_a_second(
    log: AuditLog, audit_log: Any, audit_lines: Any
) -> None:
    for subject in range(15):
        _refuse(log, 20, subject=f"s{subject}")
    _refuse(log, tenant="b")
    assert len(audit_lines()) == 201
    log.flush()

    [others] = [fields for fields in audit_log() if "others" in fields]
    assert (others["message"], others["tenant"]) == ("audit failures", "a")
    assert others["others"] == 100


async def test_flood_of_one_kind_leaves_the_lines_of_its_tenant(
    log: AuditLog, audit_log: Any
) -> None:
    _refuse(log, 1000)
    _refuse(log, subject="other")

    assert audit_log()[-1]["subject"] == "other"


async def test_refusals_of_many_kinds_are_counted_by_tenant_and_method(
    log: AuditLog, audit_log: Any
) -> None:
    for number in range(1000):
        _refuse(log, tenant=f"t{number // 100}", subject=f"s{number}")

    for number in range(2000, 2050):
        _refuse(log, tenant="b", subject=f"s{number}")
        _refuse(log, tenant="b", subject=f"s{number}", method=OTHER_METHOD)
    log.flush()

    others = [fields for fields in audit_log() if "others" in fields]
    assert [(fields["message"], fields["others"]) for fields in others] == [
        ("audit DeleteDevices", 30),
        ("audit UpdateDevices", 30),
    ]
    assert all(fields["tenant"] == "b" and "subject" not in fields for fields in others)


async def test_no_refusal_is_lost_and_memory_is_bounded_when_there_are_many_tenants(
    log: AuditLog, audit_log: Any
) -> None:
    for number in range(10_000):
        _refuse(log, tenant=f"t{number}", subject=f"s{number}")
    log.flush()

    fields = audit_log()
    counted = sum(line.get("others", 1) for line in fields)
    assert counted == 10_000
    assert len(fields) < 2100


async def test_call_that_is_canceled_before_its_role_is_checked_counts_as_a_refusal(
    log: AuditLog, audit_log: Any, audit_lines: Any
) -> None:
    caller = Principal("a", frozenset(), "s")
    request = DeleteDevicesRequest(device_ids=["d"])
    for authorized in [False] * 30 + [True] * 30:
        log.write(
            *(METHOD, PEER, caller, request, None, None, time.perf_counter()),
            canceled=True,
            authorized=authorized,
        )

    named = [fields for fields in audit_log() if "device_ids" in fields]
    assert (len(audit_lines()), len(named)) == (50, 30)
