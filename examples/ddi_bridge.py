"""Lets SWUpdate, rauc-hawkbit-updater and Zephyr carry out jobs: it speaks hawkBit's DDI API.

python examples/ddi_bridge.py 127.0.0.1:50051 examples/ddi_bridge.toml 127.0.0.1:8080

The URL of the devices is http://127.0.0.1:8080. A job has the document type "ddi" and these
parameters; "download" is "attempt" or "forced", "update" also "skip":

{"download": "forced", "update": "forced", "chunks": [
    {"part": "os", "name": "firmware", "version": "2.1", "artifacts": [
        {"filename": "firmware.swu", "size": 1048576, "hashes": {"sha1": "…", "sha256": "…"},
         "url": "https://artifacts.example.com/firmware-2.1.swu"}]}]}

A device sends a token: GatewayToken, which is the same for all devices of a tenant, or TargetToken,
which is its own and comes from the key of the tenant:

python examples/ddi_bridge.py --token examples/ddi_bridge.toml demo device-0001

docs/hawkbit.md says what the bridge supports. Run it behind a proxy with TLS.
"""

import asyncio
import hashlib
import hmac
import json
import re
import sys
import time
import tomllib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import grpc
from aiohttp import web
from fleet.jobs.v1 import device_jobs_pb2 as pb
from fleet.jobs.v1.jobs_pb2 import JobExecution
from google.protobuf.json_format import MessageToDict

from jobs_grpc.client import Connection, DeviceClient, JobsError, errors

DOCUMENT_TYPE = "ddi"
REPORT_INTERVAL = 10.0
"""Seconds between two reports of progress of a device. Others are left out."""
EXTENSION = 60
"""Minutes that progress leaves an execution at least until its timeout, if it has one."""
MAX_DEVICES = 100_000
"""Devices whose state the bridge keeps. It forgets those that it has not seen for longest."""
MAX_MESSAGES = 10
MAX_MESSAGE = 200
"""Characters of a message."""
MAX_BODY = 64 * 1024
"""Bytes of a request."""
DEVICE_ID = re.compile("[!-~]([ -~]{0,254}[!-~])?")
"""An ID that metadata can carry."""

SUCCESSES = {"success", "none"}
"""What a closed action that did not fail has as `finished`."""

# The execution cannot be started now: the device polls again.
NOT_NOW = (
    errors.JobFull,
    errors.JobPaused,
    errors.ExecutionHeld,
    errors.ExecutionNotDue,
    errors.ExecutionNotFound,
)

Attempt: TypeAlias = pb.DeviceExecution | pb.EndedExecution


@dataclass
class Device:
    """A device, and what the bridge remembers of it. That may be lost."""

    tenant: str
    device_id: str
    has_facts: bool = False
    refused: int | None = None
    """The number of the action whose cancel the device has refused."""
    reported: int | None = None
    """The number of the action of the latest report."""
    reported_at: float = -REPORT_INTERVAL
    """When the latest report of progress was stored."""
    messages: list[str] = field(default_factory=list)
    """The latest messages on that action."""


@dataclass(frozen=True)
class Feedback:
    """What a device reports on an action."""

    execution: str
    finished: str
    code: str
    messages: list[str]

    @classmethod
    def parse(cls, body: str) -> "Feedback":
        """Read a report. SWUpdate does not escape its messages, so the body may not be JSON."""

        def find(name: str) -> str:
            match = re.search(rf'"{name}"\s*:\s*"?(?!null)([A-Za-z0-9_-]{{1,40}})', body)
            return match[1] if match else ""

        try:
            details = json.loads(body)["status"].get("details", [])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            # Two searches: one pattern for both ends takes seconds if the first occurs often.
            _, *rest = re.split(r'"details"\s*:\s*\[\s*"', body, maxsplit=1)
            details = [re.split(r'"\s*\]', text, maxsplit=1)[0] for text in rest]
        if not isinstance(details, list):
            details = [details]
        messages = [
            re.sub(r"[\x00-\x1f\ud800-\udfff]+", " ", str(text))[:MAX_MESSAGE]
            for text in details
            if text
        ]
        return cls(find("execution"), find("finished"), find("code"), messages[-MAX_MESSAGES:])


class Bridge:
    """Answers the requests of devices. Stores nothing: the server has the state of all actions."""

    def __init__(self, connection: Connection, tenants: Mapping[str, Mapping[str, str]]) -> None:
        self._connection = connection
        # Clients write the tenant in upper or lower case.
        self._tenants = {name.lower(): (name, keys) for name, keys in tenants.items()}
        self._devices: OrderedDict[tuple[str, str], Device] = OrderedDict()

    def application(self) -> web.Application:
        """Return the HTTP application."""
        app = web.Application(client_max_size=MAX_BODY, middlewares=[self._answer_errors])
        base = "/{tenant}/controller/v1/{device}"
        app.router.add_get(base, self._poll)
        app.router.add_put(f"{base}/configData", self._store_facts)
        app.router.add_get(f"{base}/deploymentBase/{{number:\\d+}}", self._start)
        app.router.add_post(f"{base}/deploymentBase/{{number:\\d+}}/feedback", self._report)
        app.router.add_get(f"{base}/cancelAction/{{number:\\d+}}", self._show_cancel)
        app.router.add_post(f"{base}/cancelAction/{{number:\\d+}}/feedback", self._answer_cancel)
        return app

    @web.middleware
    async def _answer_errors(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            return await handler(request)
        except (errors.ExecutionFinished, errors.CancelNotRequested):
            # 410, because after other codes a client may repeat the report for ever.
            raise web.HTTPGone from None
        except JobsError as e:
            print(f"{request.path}: {e}", file=sys.stderr)
            if e.code is grpc.StatusCode.INVALID_ARGUMENT:
                raise web.HTTPBadRequest(text=str(e)) from None
            if e.code is grpc.StatusCode.NOT_FOUND:
                raise web.HTTPNotFound from None
            # Not 503: rauc-hawkbit-updater would lose the report.
            raise web.HTTPTooManyRequests(headers={"Retry-After": "10"}, text=str(e)) from None

    def _client(self, request: web.Request) -> tuple[DeviceClient, Device]:
        """Check the token of a request. Return the client of its device, and what is remembered."""
        name, device_id = request.match_info["tenant"], request.match_info["device"]
        tenant, keys = self._tenants.get(name.lower(), ("", {}))
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if kind == "TargetToken" and "target_key" in keys:
            expected = target_token(keys["target_key"], device_id)
        elif kind == "GatewayToken" and "gateway_token_sha256" in keys:
            expected = keys["gateway_token_sha256"]
            token = hashlib.sha256(token.encode(errors="replace")).hexdigest()
        else:
            raise web.HTTPUnauthorized
        if not hmac.compare_digest(expected.encode(), token.encode(errors="replace")):
            raise web.HTTPUnauthorized
        if not DEVICE_ID.fullmatch(device_id):
            raise web.HTTPNotFound
        key = tenant, device_id
        device = self._devices.pop(key, None) or Device(tenant, device_id)
        self._devices[key] = device
        if len(self._devices) > MAX_DEVICES:
            self._devices.popitem(last=False)
        client = DeviceClient(
            self._connection, tenant=tenant, device_id=device_id, roles=["bridge"]
        )
        return client, device

    async def _poll(self, request: web.Request) -> web.Response:
        client, device = self._client(request)
        async with client:
            executions = [each async for each in client.pending()]
        # The scheme that the device uses, if there is a proxy in front of the bridge.
        scheme = request.headers.get("X-Forwarded-Proto", request.scheme)
        base = f"{scheme}://{request.host}{request.rel_url.raw_path}"
        links = {}
        # First what was canceled: SWUpdate would report its result on the action that comes next.
        if client.ended_executions:
            links["cancelAction"] = (
                f"{base}/cancelAction/{number(device, client.ended_executions[0])}"
            )
        elif executions:
            execution = executions[0]
            action = number(device, execution)
            is_canceled = execution.cancel_requested and device.refused != action
            kind = "cancelAction" if is_canceled else "deploymentBase"
            links[kind] = f"{base}/{kind}/{action}"
        # Not always: SWUpdate would never come to the action.
        if not device.has_facts:
            links["configData"] = f"{base}/configData"
        seconds = min(-int(-client.poll_after // 1), 24 * 3600 - 1)
        return web.json_response(
            {
                "config": {"polling": {"sleep": time.strftime("%H:%M:%S", time.gmtime(seconds))}},
                "_links": {name: {"href": href} for name, href in links.items()},
            }
        )

    async def _start(self, request: web.Request) -> web.Response:
        client, device = self._client(request)
        async with client:
            action, execution = await find(request, client, device)
            if not isinstance(execution, pb.DeviceExecution):
                raise web.HTTPNotFound
            if execution.status == JobExecution.QUEUED:
                try:
                    execution = await client.start(execution.job_id)
                except NOT_NOW:
                    raise web.HTTPNotFound from None
            try:
                deployment = read_document(execution)
            except (ValueError, KeyError, TypeError, AttributeError) as e:
                await client.fail(execution, "ddi.document", {"reason": f"{e!r}"[:MAX_MESSAGE]})
                raise web.HTTPNotFound from None
        return web.json_response({"id": str(action), "deployment": deployment})

    async def _report(self, request: web.Request) -> web.Response:
        client, device = self._client(request)
        feedback = await read_feedback(request)
        action = int(request.match_info["number"])
        if action != device.reported:
            device.reported, device.messages = action, []
        # The last message may not name the cause, so the end has also those before it.
        device.messages = [*device.messages, *feedback.messages][-MAX_MESSAGES:]
        is_end = feedback.execution in ("closed", "canceled")
        if not is_end and time.monotonic() < device.reported_at + REPORT_INTERVAL:
            return web.Response()
        async with client:
            _, execution = await find(request, client, device)
            if not isinstance(execution, pb.DeviceExecution):
                # Not for progress: SWUpdate could hang. Its next poll tells it.
                if is_end:
                    raise web.HTTPGone
                return web.Response()
            details = {"execution": feedback.execution, "messages": device.messages}
            if feedback.execution == "closed" and feedback.finished in SUCCESSES:
                await client.succeed(execution, details)
            elif feedback.execution == "closed":
                await client.fail(execution, f"ddi.{feedback.code or 'failure'}", details)
            elif feedback.execution == "canceled" and execution.cancel_requested:
                await client.accept_cancel(execution)
            elif feedback.execution == "canceled":
                await client.reject(execution, "ddi.canceled", details)
            else:
                device.reported_at = time.monotonic()
                soon = time.time() + EXTENSION * 60
                is_late = (
                    execution.HasField("times_out_at") and execution.times_out_at.seconds < soon
                )
                await client.progress(
                    execution, details, extend_timeout_minutes=EXTENSION if is_late else None
                )
        return web.Response()

    async def _show_cancel(self, request: web.Request) -> web.Response:
        client, device = self._client(request)
        async with client:
            action, execution = await find(request, client, device)
        if execution is None:
            raise web.HTTPNotFound
        return web.json_response({"id": str(action), "cancelAction": {"stopId": str(action)}})

    async def _answer_cancel(self, request: web.Request) -> web.Response:
        client, device = self._client(request)
        feedback = await read_feedback(request)
        is_end = feedback.execution in ("closed", "canceled", "rejected")
        is_refused = feedback.execution == "rejected" or feedback.finished == "failure"
        async with client:
            action, execution = await find(request, client, device)
            if execution is None:
                raise web.HTTPGone
            if not is_end:
                return web.Response()
            if isinstance(execution, pb.EndedExecution):
                await client.acknowledge([execution])
            elif is_refused:
                device.refused = action
            else:
                await client.accept_cancel(execution)
        return web.Response()

    async def _store_facts(self, request: web.Request) -> web.Response:
        client, device = self._client(request)
        try:
            body = json.loads(await request.text())
            mode, facts = body.get("mode", "merge"), body["data"]
            facts = {str(key): str(value) for key, value in facts.items()}
        except (LookupError, ValueError, TypeError, AttributeError, RecursionError):
            # A LookupError also if the charset is unknown.
            raise web.HTTPBadRequest(text="not the configData of a device") from None
        device.has_facts = True  # also if they are invalid: the device has nothing else to send
        if mode not in ("merge", "replace"):
            raise web.HTTPBadRequest(text=f"mode {mode!r} is not supported")
        async with client:
            await client.update_facts(facts, replace=mode == "replace")
        return web.Response()


async def read_feedback(request: web.Request) -> Feedback:
    """Read a report, of which no part may make the server refuse its end."""
    return Feedback.parse((await request.read()).decode(errors="replace"))


async def find(
    request: web.Request, client: DeviceClient, device: Device
) -> tuple[int, Attempt | None]:
    """Return the number of the action that a request names, and the attempt that has it."""
    action = int(request.match_info["number"])
    async for execution in client.pending():
        if number(device, execution) == action:
            return action, execution
    ended = (each for each in client.ended_executions if number(device, each) == action)
    return action, next(ended, None)


def number(device: Device, attempt: Attempt) -> int:
    """Return the number of the action that stands for an attempt: at most 31 bits, as in Zephyr."""
    names = [device.tenant, device.device_id, attempt.job_id, attempt.execution_number]
    return (
        int.from_bytes(hashlib.sha256(json.dumps(names).encode()).digest()[:4], "big") & 0x7FFFFFFF
    )


def read_document(execution: pb.DeviceExecution) -> dict[str, Any]:
    """Return the deployment that a document describes. Any exception: it is not one."""
    if execution.document_type != DOCUMENT_TYPE:
        raise ValueError(f"the document type is {execution.document_type}, not {DOCUMENT_TYPE}")
    document = MessageToDict(execution.document_params)
    modes = {name: document.get(name, "forced") for name in ("download", "update")}
    if not {*modes.values()} <= {"forced", "attempt", "skip"}:
        raise ValueError(f"unknown mode: {modes}")
    return modes | {"chunks": [read_chunk(chunk) for chunk in document["chunks"]]}


def read_chunk(chunk: dict[str, Any]) -> dict[str, Any]:
    """Return a chunk of a deployment."""
    artifacts = []
    for artifact in chunk["artifacts"]:
        link = {"href": str(artifact["url"])}
        hashes = {str(name): str(value) for name, value in artifact["hashes"].items()}
        artifacts.append(
            {
                "filename": str(artifact["filename"]),
                "size": int(artifact["size"]),  # Zephyr reads no fraction.
                "hashes": hashes,
                "_links": {"download": link, "download-http": link},
            }
        )
    names = {name: str(chunk[name]) for name in ("part", "name", "version")}
    return names | {"artifacts": artifacts}


def target_token(key: str, device_id: str) -> str:
    """Return the token of a device: 32 characters, which every client can store."""
    return hmac.digest(key.encode(), device_id.encode(), "sha256").hex()[:32]


def read_tenants(path: str) -> dict[str, dict[str, str]]:
    """Read the keys of the tenants."""
    return tomllib.loads(Path(path).read_text())


async def main(server: str, keys: str, listen: str) -> None:
    """Serve devices until the bridge is interrupted."""
    host, _, port = listen.rpartition(":")
    # For a server on another machine, pass `tls` to Connection, and a token instead of `roles`.
    async with Connection(server) as connection:
        runner = web.AppRunner(Bridge(connection, read_tenants(keys)).application())
        await runner.setup()
        try:
            await web.TCPSite(runner, host, int(port)).start()
            print(f"listening on http://{listen}", flush=True)
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()


if __name__ == "__main__":
    if len(sys.argv) == 5 and sys.argv[1] == "--token":
        print(target_token(read_tenants(sys.argv[2])[sys.argv[3]]["target_key"], sys.argv[4]))
    elif len(sys.argv) == 4:
        try:
            asyncio.run(main(*sys.argv[1:]))
        except JobsError as e:
            sys.exit(str(e))
        except KeyboardInterrupt:
            pass
    else:
        sys.exit("usage: ddi_bridge.py SERVER KEYS LISTEN, or --token KEYS TENANT DEVICE")
