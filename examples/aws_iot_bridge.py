"""Lets devices with the AWS IoT SDK carry out jobs: it speaks AWS IoT Jobs over an MQTT broker.

python examples/aws_iot_bridge.py 127.0.0.1:50051 demo 127.0.0.1:1883 /tmp/things

The document of an execution is the document_params of its job. The last argument is a file, in
which the bridge keeps the names of the things that have sent requests: after a restart, it
notifies them again. docs/aws-iot.md says what the bridge supports, and how to set up a broker with
certificates.
"""

import asyncio
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
from fleet.jobs.v1 import device_jobs_pb2 as pb
from fleet.jobs.v1.jobs_pb2 import JobExecution
from google.protobuf.json_format import MessageToDict
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from jobs_grpc.client import Connection, DeviceClient, JobsError, errors

REQUESTS = ("start-next", "get", "+/get", "+/update")
"""The topics of requests, below $aws/things/THING/jobs."""
MAX_IN_FLIGHT = 1000
"""Requests that the bridge has not answered. The broker keeps further ones."""
MAX_BYTES = 128 * 1024
"""Bytes of a message, as in AWS IoT. The broker drops larger ones."""
MAX_THINGS = 10_000
"""Things that are notified: those of the latest requests. Each has a watch."""
WATCHES_PER_CONNECTION = 200
"""Further watches would wait for the others: a server limits the streams of a connection."""
STATUSES = {"IN_PROGRESS", "SUCCEEDED", "FAILED", "REJECTED"}
"""Those that a device can report."""

REJECTIONS: Mapping[type[Exception], str] = {
    errors.ExecutionNotFound: "ResourceNotFound",
    errors.ExecutionFinished: "InvalidStateTransition",
    errors.ExecutionChanged: "VersionMismatch",
}
CODES = {
    grpc.StatusCode.INVALID_ARGUMENT: "InvalidRequest",
    grpc.StatusCode.NOT_FOUND: "ResourceNotFound",
    grpc.StatusCode.FAILED_PRECONDITION: "InvalidStateTransition",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "RequestThrottled",
}


class InvalidRequest(Exception):
    """A request that is not one of AWS IoT Jobs. The message says why."""


class Bridge:
    """Answers the requests of things in order, and notifies them."""

    def __init__(
        self,
        connection: Connection,
        watch_connection: Connection,
        tenant: str,
        mqtt: Client,
        things: Path,
    ) -> None:
        self._connection = connection
        self._watch_connection = watch_connection
        self._tenant = tenant
        self._mqtt = mqtt
        self._mqtt_connection = 0
        self._file = things
        names = things.read_text().splitlines() if things.exists() else []
        self._lines = len(names)
        # Those of the latest requests are last. The file has more.
        self._things = dict.fromkeys(names[-MAX_THINGS:])
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._last: dict[str, asyncio.Task[None]] = {}
        """The last request of each thing that has no answer."""

    def connected(self) -> None:
        """Subscribe: the broker may have lost the session. Notify the things of the file."""
        self._mqtt_connection += 1
        self._mqtt.subscribe([(f"$aws/things/+/jobs/{topic}", 1) for topic in REQUESTS])
        for thing in self._things:
            self._watch(thing)

    def received(self, message: MQTTMessage) -> None:
        """Answer a request after the one before it of the same thing."""
        thing = message.topic.split("/")[2]
        answer = self._answer(thing, message, self._last.get(thing), self._mqtt_connection)
        self._last[thing] = asyncio.ensure_future(answer)

    async def _answer(
        self,
        thing: str,
        message: MQTTMessage,
        before: asyncio.Task[None] | None,
        mqtt_connection: int,
    ) -> None:
        if before:
            await asyncio.wait([before])
        self._remember(thing)
        fields: dict[str, Any] = {"timestamp": int(time.time())}
        result = "accepted"
        try:
            request = json.loads(bytes(message.payload) or b"{}")
            if not isinstance(request, dict):
                raise InvalidRequest("the payload is not an object")
            if "clientToken" in request:
                fields["clientToken"] = request["clientToken"]
            async with self._client(self._connection, thing) as device:
                fields |= await respond(device, message.topic.split("/")[4:], request)
        except (ValueError, TypeError, InvalidRequest) as e:
            result, fields = "rejected", fields | {"code": "InvalidRequest", "message": str(e)}
        except JobsError as e:
            code = REJECTIONS.get(type(e)) or CODES.get(e.code, "InternalError")
            result, fields = "rejected", fields | {"code": code, "message": str(e)}
            if current := getattr(e, "current_execution", None):
                fields["executionState"] = state(current)
        except Exception as e:
            print(f"{message.topic}: {e!r}", file=sys.stderr)
            result, fields = "rejected", fields | {"code": "InternalError", "message": ""}
        self._mqtt.publish(f"{message.topic}/{result}", json.dumps(fields), qos=1)
        # The broker resends a message of an earlier connection.
        if mqtt_connection == self._mqtt_connection:
            self._mqtt.ack(message.mid, message.qos)
        if self._last.get(thing) is asyncio.current_task():
            del self._last[thing]

    def _client(self, connection: Connection, thing: str) -> DeviceClient:
        return DeviceClient(connection, tenant=self._tenant, device_id=thing, roles=["bridge"])

    def _remember(self, thing: str) -> None:
        """Notify a thing. If there are too many, forget the one with the oldest latest request."""
        if thing in self._things:
            del self._things[thing]
        else:
            self._lines += 1
            with self._file.open("a") as file:
                file.write(f"{thing}\n")
        self._things[thing] = None
        if len(self._things) > MAX_THINGS:
            oldest = next(iter(self._things))
            del self._things[oldest]
            if watch := self._watches.pop(oldest, None):
                watch.cancel()
        if self._lines >= 2 * MAX_THINGS:
            self._lines = len(self._things)
            new = self._file.with_name(f"{self._file.name}.new")
            new.write_text("".join(f"{each}\n" for each in self._things))
            new.replace(self._file)
        self._watch(thing)

    def _watch(self, thing: str) -> None:
        if thing not in self._watches:
            self._watches[thing] = asyncio.ensure_future(self._notify(thing))

    async def _notify(self, thing: str) -> None:
        """Publish when the next execution changes, and when the pending executions change."""
        topic = f"$aws/things/{thing}/jobs"
        known_next: Any = None
        known: Any = None
        try:
            async with self._client(self._watch_connection, thing) as device:
                async for response in device.watch_pending():
                    now = int(time.time())
                    first = response.executions[0] if response.executions else None
                    if known_next != (found := key(first) if first else ()):
                        known_next = found
                        execution = {"execution": describe(first)} if first else {}
                        payload = json.dumps({"timestamp": now} | execution)
                        self._mqtt.publish(f"{topic}/notify-next", payload, qos=1)
                    if known != (pending := [key(each) for each in response.executions]):
                        known = pending
                        jobs: dict[str, list[Any]] = {}
                        for each in response.executions:
                            status = JobExecution.Status.Name(each.status)
                            jobs.setdefault(status, []).append(summary(each))
                        payload = json.dumps({"timestamp": now, "jobs": jobs})
                        self._mqtt.publish(f"{topic}/notify", payload, qos=1)
        except Exception as e:
            # For example, the device is not registered. Its next request tries again.
            print(f"{thing}: {e!r}", file=sys.stderr)
            if self._watches.get(thing) is asyncio.current_task():
                del self._watches[thing]


async def respond(device: DeviceClient, path: list[str], request: dict[str, Any]) -> dict[str, Any]:
    """Carry out a request and return the fields of its response. `path` is below `jobs`."""
    with_document = bool(request.get("includeJobDocument", True))
    match path:
        case ["start-next"]:
            execution = await device.start_next()
            details, minutes = request.get("statusDetails"), step_timeout(request)
            if execution and (details or minutes):
                execution = await device.progress(
                    execution, details, extend_timeout_minutes=minutes
                )
            return {"execution": describe(execution)} if execution else {}
        case ["get"]:
            jobs: dict[str, list[Any]] = {"inProgressJobs": [], "queuedJobs": []}
            async for each in device.pending():
                is_queued = each.status == JobExecution.QUEUED
                jobs["queuedJobs" if is_queued else "inProgressJobs"].append(summary(each))
            return jobs
        case ["$next", "get"]:
            async for each in device.pending(page_size=1):
                return {"execution": describe(each, with_document)}
            return {}
        case [job_id, "get"]:
            return {"execution": describe(await device.get(job_id), with_document)}
        case [job_id, "update"]:
            reported = await device.report(update(job_id, request))
            fields: dict[str, Any] = {}
            if request.get("includeJobExecutionState"):
                fields["executionState"] = state(reported)
            if request.get("includeJobDocument"):
                fields["jobDocument"] = document_of(await device.get(job_id))
            return fields
    raise InvalidRequest("unknown topic")


def update(job_id: str, request: dict[str, Any]) -> pb.UpdateExecutionRequest:
    """Return the report that a request stands for."""
    if request.get("status") not in STATUSES:
        raise InvalidRequest(f"status {request.get('status')!r} is not one of {sorted(STATUSES)}")
    report = pb.UpdateExecutionRequest(
        job_id=job_id,
        status=JobExecution.Status.Value(request["status"]),
        execution_number=request.get("executionNumber"),
        expected_version=request.get("expectedVersion"),
    )
    if details := request.get("statusDetails"):
        report.status_details.update(details)
    minutes = step_timeout(request)
    if minutes and report.status == JobExecution.IN_PROGRESS:
        report.extend_timeout_minutes = minutes
    return report


def step_timeout(request: dict[str, Any]) -> int | None:
    """Return the minutes until the execution times out; None: that does not change."""
    minutes = int(request.get("stepTimeoutInMinutes") or 0)
    return minutes if minutes > 0 else None


def key(execution: pb.DeviceExecution) -> tuple[str, int, int]:
    return execution.job_id, execution.execution_number, execution.status


def summary(execution: pb.DeviceExecution) -> dict[str, Any]:
    """Return what lists have of an execution."""
    fields: dict[str, Any] = {
        "jobId": execution.job_id,
        "queuedAt": execution.queued_at.seconds,
        "lastUpdatedAt": execution.last_updated_at.seconds,
        "executionNumber": execution.execution_number,
        "versionNumber": execution.version,
    }
    if execution.HasField("started_at"):
        fields["startedAt"] = execution.started_at.seconds
    return fields


def describe(execution: pb.DeviceExecution, with_document: bool = True) -> dict[str, Any]:
    """Return an execution."""
    fields = summary(execution) | state(execution) | {"thingName": execution.device_id}
    if execution.HasField("times_out_at"):
        fields["approximateSecondsBeforeTimedOut"] = max(
            0, execution.times_out_at.seconds - int(time.time())
        )
    if with_document:
        fields["jobDocument"] = document_of(execution)
    return fields


def document_of(execution: pb.DeviceExecution) -> Any:
    """Return the document, with 7 for 7.0: clients may read no fraction."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(each) for name, each in value.items()}
        if isinstance(value, list):
            return [plain(each) for each in value]
        return int(value) if isinstance(value, float) and value.is_integer() else value

    return plain(MessageToDict(execution.document_params))


def state(execution: pb.DeviceExecution) -> dict[str, Any]:
    """Return the state of an execution."""
    return {
        "status": JobExecution.Status.Name(execution.status),
        "statusDetails": details_of(execution),
        "versionNumber": execution.version,
    }


def details_of(execution: pb.DeviceExecution) -> dict[str, str]:
    """Return the status_details: in AWS IoT, all values are texts."""
    details = MessageToDict(execution.status_details)
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in details.items()
    }


async def main(server: str, tenant: str, broker: str, things: str) -> None:
    """Serve the things of one tenant until the bridge is interrupted."""
    # For a server on another machine, pass `tls` to Connection, and a token instead of `roles`.
    async with (
        Connection(server) as connection,
        Connection(server, channels=MAX_THINGS // WATCHES_PER_CONNECTION) as watch_connection,
    ):
        # One bridge for each client id: the broker closes the connection of an earlier one.
        mqtt = Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"jobs-aws-bridge-{tenant}",
            protocol=MQTTProtocolVersion.MQTTv5,
            manual_ack=True,
        )  # For a broker on another machine, call mqtt.tls_set() and mqtt.username_pw_set().
        bridge = Bridge(connection, watch_connection, tenant, mqtt, Path(things))
        loop = asyncio.get_running_loop()

        # paho calls these in its own thread, one after the other.
        def on_connect(*_: Any) -> None:
            loop.call_soon_threadsafe(bridge.connected)

        def on_message(_client: Client, _userdata: Any, message: MQTTMessage) -> None:
            loop.call_soon_threadsafe(bridge.received, message)

        def on_subscribe(*_: Any) -> None:
            print(f"serving the things of {tenant}", flush=True)

        mqtt.on_connect = on_connect
        mqtt.on_subscribe = on_subscribe
        mqtt.on_message = on_message
        session = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        session.SessionExpiryInterval = 3600
        session.ReceiveMaximum = MAX_IN_FLIGHT
        session.MaximumPacketSize = MAX_BYTES + 1024  # of the topic
        host, _, port = broker.rpartition(":")
        mqtt.connect_async(host, int(port), clean_start=False, properties=session)
        mqtt.loop_start()  # reconnects, with a backoff
        try:
            await asyncio.Event().wait()
        finally:
            mqtt.disconnect()
            mqtt.loop_stop()


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit("usage: aws_iot_bridge.py SERVER TENANT BROKER THINGS")
    try:
        asyncio.run(main(*sys.argv[1:]))
    except JobsError as e:
        sys.exit(str(e))
    except KeyboardInterrupt:
        pass
