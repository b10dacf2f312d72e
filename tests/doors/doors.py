"""The doors to the service: gRPC, REST, the Python client and the command line.

A door makes the call of the contract with that name and returns what it answers, as JSON with the
field names of the contract. What a REST route puts into its body, such as the job, is returned for
each door. A call that is refused raises Refused.
"""

import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import pytest
import yaml
from fleet.jobs.v1 import device_jobs_pb2, events_pb2, fleet_pb2, jobs_pb2
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc import StatusCode
from grpc.aio import AioRpcError, Channel

from jobs_grpc.client import DeviceClient, EventsClient, FleetClient, JobsClient, JobsError
from tests.gateway.support import GATEWAY, RestClient
from tests.support.cli import Shell
from tests.support.failures import Failure
from tests.support.waiting import TIMEOUT

SERVICES = [
    service
    for module in (jobs_pb2, fleet_pb2, events_pb2, device_jobs_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
]
METHODS = {method.name: method for service in SERVICES for method in service.methods}

# The HTTP status and the exit code of the errors that callers cause.
STATUSES = {
    "INVALID_ARGUMENT": (400, 2),
    "NOT_FOUND": (404, 3),
    "FAILED_PRECONDITION": (400, 4),
    "ALREADY_EXISTS": (409, 4),
    "ABORTED": (409, 4),
}


class Refused(Exception):
    """The service refused the call. Its arguments: the status, the reason and the fields."""


class Door(Protocol):
    """Makes a call; keyword arguments are the fields of the request."""

    async def __call__(self, method: str, /, **fields: Any) -> Any:
        """Return the response."""


@dataclass(frozen=True)
class Route:
    """A REST route: its method, path and the field of the response that is its body."""

    verb: str
    path: str
    response_body: str


def _routes() -> Iterator[tuple[str, Route]]:
    rules = yaml.safe_load((GATEWAY / "rest_routes.yaml").read_text(encoding="utf-8"))
    for rule in rules["http"]["rules"]:
        (verb,) = rule.keys() & {"get", "post", "patch", "delete"}
        name = rule["selector"].rpartition(".")[2]
        yield name, Route(verb.upper(), rule[verb], rule.get("response_body", ""))


ROUTES = dict(_routes())


def _unwrapped(method: str, response: Message | Mapping[str, Any]) -> Any:
    """Return what the REST route of the method has as its body."""
    value = response if isinstance(response, Mapping) else as_json(response)
    body = ROUTES[method].response_body
    return value.get(body, []) if body else value


def as_json(message: Message) -> dict[str, Any]:
    return MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _request(method: str, fields: dict[str, Any]) -> Any:
    if method == "UpdateJob":
        fields = {"update_mask": {"paths": [*fields.keys() - {"job_id", "etag"}]}} | fields
    return GetMessageClass(METHODS[method].input_type)(**fields)


@dataclass(frozen=True)
class Grpc:
    """Calls through gRPC."""

    channel: Channel
    metadata: tuple[tuple[str, str], ...]

    async def __call__(self, method: str, /, **fields: Any) -> Any:
        descriptor = METHODS[method]
        call: Any = self.channel.unary_unary(
            f"/{descriptor.containing_service.full_name}/{method}",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=GetMessageClass(descriptor.output_type).FromString,
        )
        try:
            request = _request(method, fields)
            return _unwrapped(method, await call(request, metadata=self.metadata, timeout=TIMEOUT))
        except AioRpcError as e:
            failure = Failure(e.code())
            failure.read(e)
            raise Refused(e.code().name, failure.reason, tuple(failure.violations)) from None


@dataclass(frozen=True)
class Rest:
    """Calls through the gateway."""

    rest: RestClient
    headers: tuple[tuple[str, str], ...] = ()

    async def __call__(self, method: str, /, **fields: Any) -> Any:
        if method == "UpdateJob":
            fields = {"update_mask": ",".join(fields.keys() - {"job_id", "etag"})} | fields
        route = ROUTES[method]
        path = re.sub(r"{(\w+)}", lambda m: quote(str(fields.pop(m[1])), safe=""), route.path)
        if route.verb == "GET":
            request: dict[str, Any] = {"params": fields}
        else:
            request = {"body": fields}
        response = await self.rest.send(route.verb, path, headers=self.headers, **request)
        body = response.json()
        if response.is_success:
            return body
        violations = tuple(violation["field"] for violation in body["field_violations"])
        assert response.status_code == STATUSES[body["code"]][0]
        raise Refused(body["code"], body["reason"], violations)


@dataclass(frozen=True)
class Client:
    """Calls through the methods of the Python client."""

    methods: Mapping[str, Callable[..., Any]]

    async def __call__(self, method: str, /, **fields: Any) -> Any:
        if method == "UpdateJob":
            fields = {"update_mask": fields.keys() - {"job_id", "etag"}} | fields
        try:
            result = self.methods[method](**fields)
            if isinstance(result, AsyncIterator):
                return [as_json(item) async for item in result]
            result = await result
        except JobsError as e:
            raise Refused(e.code.name, e.reason, tuple(e.violations)) from None
        return as_json(result) if isinstance(result, Message) else result


def client_of(jobs: JobsClient, fleet: FleetClient, events: EventsClient) -> Client:
    return Client(
        {
            "CreateJob": jobs.create,
            "GetJob": jobs.get,
            "ListJobs": jobs.list,
            "ListJobExecutions": jobs.executions,
            "ListExecutionAttempts": jobs.attempts,
            "ExplainExecution": jobs.explain,
            "GetFailureSummary": jobs.failures,
            "GetJobTimeline": jobs.timeline,
            "CancelJob": jobs.cancel,
            "CancelExecution": jobs.cancel_execution,
            "PauseJob": jobs.pause,
            "ResumeJob": jobs.resume,
            "AdvanceJob": jobs.advance,
            "ApproveStage": jobs.approve,
            "RejectStage": jobs.reject,
            "ApproveStart": jobs.approve_start,
            "RejectStart": jobs.reject_start,
            "UpdateJob": jobs.update,
            "RetryExecutions": jobs.retry,
            "DeleteJob": jobs.delete,
            "GetCaller": jobs.caller,
            "ListDevices": fleet.devices,
            "ListGroups": fleet.groups,
            "ListLabels": fleet.labels,
            "GetFleetSummary": fleet.summary,
            "PreviewTarget": fleet.preview_target,
            "DeleteDevices": fleet.delete,
            "ListJobEvents": events.list_job_events,
        }
    )


def client_of_device(device: DeviceClient) -> Client:
    async def start_next() -> Message:
        execution = await device.start_next()
        return device_jobs_pb2.StartNextExecutionResponse(
            execution=execution, ended_executions=device.ended_executions
        )

    async def start_next_for_devices(device_ids: list[str]) -> Message:
        results = await device.start_next_for_devices(device_ids)
        return device_jobs_pb2.StartNextExecutionsResponse(results=results.values())

    async def acknowledge(executions: list[dict[str, Any]]) -> None:
        await device.acknowledge(device_jobs_pb2.EndedExecution(**each) for each in executions)

    return Client(
        {
            "ListPendingExecutions": device.pending,
            "StartNextExecution": start_next,
            "StartNextExecutions": start_next_for_devices,
            "StartExecution": device.start,
            "GetExecution": device.get,
            "UpdateExecution": lambda **fields: device.report(_request("UpdateExecution", fields)),
            "AcknowledgeExecutions": acknowledge,
            "UpdateFacts": device.update_facts,
        }
    )


# The commands of the calls, and the options of the fields that have another name.
_COMMANDS = {
    "CreateJob": "create",
    "GetJob": "get {job_id}",
    "ListJobs": "list",
    "ListJobExecutions": "get {job_id}",
    "ListExecutionAttempts": "attempts {job_id} {device_id}",
    "ExplainExecution": "explain {job_id} {device_id}",
    "GetFailureSummary": "failures {job_id}",
    "GetJobTimeline": "timeline {job_id}",
    "CancelJob": "cancel {job_id}",
    "CancelExecution": "cancel {job_id} --device {device_id}",
    "PauseJob": "pause {job_id}",
    "ResumeJob": "resume {job_id}",
    "AdvanceJob": "advance {job_id}",
    "ApproveStage": "approve {job_id} {stage}",
    "RejectStage": "reject {job_id} {stage}",
    "ApproveStart": "approve {job_id} --start",
    "RejectStart": "reject {job_id} --start",
    "UpdateJob": "update {job_id}",
    "RetryExecutions": "retry {job_id}",
    "DeleteJob": "delete {job_id}",
    "GetCaller": "whoami",
    "ListDevices": "devices list",
    "ListGroups": "groups",
    "ListLabels": "labels",
    "GetFleetSummary": "fleet",
    "PreviewTarget": "preview",
    "DeleteDevices": "devices delete {device_ids}",
    "ListJobEvents": "history {job_id}",
}
_OPTIONS = {
    "document_type": "type",
    "document_params": "params",
    "target_device_id": "device",
    "target_group_id": "group",
    "target_selector": "where",
    "target_all": "all",
    "in_progress_timeout_minutes": "in-progress-timeout",
    "labels": "label",
    "statuses": "status",
    "failure_codes": "failure-code",
    "device_ids": "device",
    "executions_limit": "limit",
    "selector": "where",
    "job_id_prefix": "id-prefix",
    "device_id_prefix": "id-prefix",
    "group_id_prefix": "id-prefix",
}
_OPTIONS_OF_LIST = {
    "target_device_id": "target-device",
    "target_group_id": "target-group",
    "target_all": "target-all",
}


@dataclass(frozen=True)
class Cli:
    """Calls through the command line, with --json."""

    shell: Shell
    folder: Path

    async def __call__(self, method: str, /, **fields: Any) -> Any:
        command = re.sub(r"{(\w+)}", lambda m: _text(fields.pop(m[1])), _COMMANDS[method]).split()
        file = {
            name: fields.pop(name) for name in ("rollout", "failure_criteria") if name in fields
        }
        if file:
            path = self.folder / "rollout.json"
            path.write_text(json.dumps(file))
            fields["rollout"] = str(path)
        result = await self.shell(*command, *_options(method, fields), "--json")
        if result.code == 0:
            response = json.loads(result.out)
            return response.get(ROUTES[method].response_body, response)
        error = json.loads(result.err)["error"]
        assert result.code == error["exit_code"] == STATUSES[error["code"]][1]
        raise Refused(error["code"], error["reason"], tuple(error.get("violations", ())))


def _text(value: object) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)


def _options(method: str, fields: Mapping[str, Any]) -> Iterator[str]:
    renamed = _OPTIONS | (_OPTIONS_OF_LIST if method == "ListJobs" else {})
    for name, value in fields.items():
        yield f"--{renamed.get(name, name).replace('_', '-')}"
        if name == "document_params":
            yield json.dumps(value)
        elif isinstance(value, dict):
            yield from (f"{key}={text}" for key, text in value.items())
        elif isinstance(value, list):
            yield from value
        elif value is not True:
            yield str(value)


@contextmanager
def refused(status: StatusCode, reason: str, *fields: str) -> Iterator[None]:
    """Expect a call to be refused because of these fields of the request."""
    with pytest.raises(Refused) as raised:
        yield
    assert raised.value.args == (status.name, reason, fields)


def shown(value: Any, like: Any) -> Any:
    """Return the part of a response that `like` has too: its keys, and those of its values."""
    if isinstance(like, dict):
        return {key: shown(value.get(key), part) for key, part in like.items()}
    if isinstance(like, list) and len(value) == len(like):
        return [shown(item, part) for item, part in zip(value, like, strict=True)]
    return value
