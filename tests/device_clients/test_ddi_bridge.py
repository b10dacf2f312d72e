"""The requests of other clients of hawkBit's DDI API, as they send them, and what they need.

rauc-hawkbit-updater and Zephyr are in no registry, so their requests are replayed.
"""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from examples.ddi_bridge import Feedback, target_token
from tests.device_clients.conftest import TARGET_KEY
from tests.support.callers import Device, Fleet, Operator
from tests.support.database import Database
from tests.support.server import Server

pytestmark = pytest.mark.slow

ARTIFACT = {
    "filename": "zephyr.signed.bin",
    "size": 48_000,
    "hashes": {"sha256": "0" * 64},
    "url": "https://artifacts.example.com/zephyr.signed.bin",
}
DOCUMENT = {"chunks": [{"part": "os", "name": "z", "version": "1.1", "artifacts": [ARTIFACT]}]}


@dataclass
class Client:
    """A device that sends requests."""

    http: httpx.AsyncClient
    operator: Operator
    fleet: Fleet
    device: Device

    async def create(self, job_id: str = "j", **fields: Any) -> None:
        """Create a job of the device."""
        fields = {"document_type": "ddi", "document_params": DOCUMENT} | fields
        await self.operator.create(job_id=job_id, target_device_id="board", **fields)

    async def links(self) -> dict[str, str]:
        """Poll and return the links, without that of configData."""
        response = await self.http.get("board")
        assert response.status_code == 200
        links = response.json().get("_links", {})
        return {name: link["href"] for name, link in links.items() if name != "configData"}

    async def fetch(self) -> tuple[str, dict[str, Any]]:
        """Poll, and return the link of the deployment and what is there."""
        link = (await self.links())["deploymentBase"]
        return link, (await self.http.get(link)).json()

    async def report(self, link: str, execution: str, finished: str, **status: Any) -> int:
        """Send a report on an action, as rauc-hawkbit-updater does, and return the HTTP status."""
        action = link.rpartition("/")[2]
        status |= {"execution": execution, "result": {"finished": finished}}
        body = {"id": action, "time": "20261231T235959", "status": status}
        return (await self.http.post(f"{link}/feedback", json=body)).status_code

    async def execution(self, job_id: str = "j") -> pb.JobExecution:
        return (await self.operator.executions(job_id)).executions[0]

    async def status(self, job_id: str = "j") -> str:
        return pb.JobExecution.Status.Name((await self.execution(job_id)).status)


@pytest.fixture
async def client(
    polling_server: Server, bridge_url: str, database: Database, tenant: str
) -> AsyncIterator[Client]:
    await database.add_devices(tenant, ["board"])
    async with httpx.AsyncClient(
        base_url=f"{bridge_url}/{tenant}/controller/v1/",
        headers={"Authorization": f"TargetToken {target_token(TARGET_KEY, 'board')}"},
    ) as http:
        operator, fleet = polling_server.operator(tenant), polling_server.fleet(tenant)
        yield Client(http, operator, fleet, polling_server.device(tenant, "board"))


async def test_poll_names_the_next_poll_and_the_action(client: Client) -> None:
    await client.create()

    response = await client.http.get("board")

    assert response.headers["content-length"] == str(len(response.content))
    assert response.json()["config"]["polling"]["sleep"] in ("00:00:01", "00:00:02")
    link = response.json()["_links"]["deploymentBase"]["href"]
    assert link.startswith(f"{client.http.base_url}board/deploymentBase/")
    assert int(link.rpartition("/")[2]) < 2**31
    assert await client.status() == "QUEUED"


async def test_links_have_the_scheme_that_a_proxy_names(client: Client) -> None:
    await client.create()

    response = await client.http.get("board", headers={"X-Forwarded-Proto": "https"})

    link = response.json()["_links"]["deploymentBase"]["href"]
    assert link.startswith(str(client.http.base_url.copy_with(scheme="https")))


async def test_deployment_has_what_clients_read(client: Client) -> None:
    """Zephyr sends nothing before its end, so the execution starts when it reads the deployment."""
    await client.create()

    link, deployment = await client.fetch()

    assert deployment["id"] == link.rpartition("/")[2]
    href = {"href": ARTIFACT["url"]}
    assert deployment["deployment"] == {
        "download": "forced",
        "update": "forced",
        "chunks": [
            {
                "part": "os",
                "name": "z",
                "version": "1.1",
                "artifacts": [
                    {
                        "filename": "zephyr.signed.bin",
                        "size": 48_000,
                        "hashes": {"sha256": "0" * 64},
                        "_links": {"download": href, "download-http": href},
                    }
                ],
            }
        ],
    }
    assert '"size": 48000,' in json.dumps(deployment)
    assert await client.status() == "IN_PROGRESS"


@pytest.mark.parametrize(
    ("execution", "finished", "status"),
    [
        ("closed", "success", "SUCCEEDED"),
        ("closed", "none", "SUCCEEDED"),
        ("closed", "failure", "FAILED"),
        ("canceled", "none", "REJECTED"),
        ("proceeding", "none", "IN_PROGRESS"),
        ("rejected", "none", "IN_PROGRESS"),
        ("download", "none", "IN_PROGRESS"),
    ],
)
async def test_report_changes_the_execution(
    client: Client, execution: str, finished: str, status: str
) -> None:
    await client.create()
    link, _ = await client.fetch()

    assert await client.report(link, execution, finished, details=["text"]) == 200

    assert await client.status() == status
    assert (await client.execution()).status_details["messages"] == ["text"]


async def test_failure_has_the_code_and_the_messages_before_it(client: Client) -> None:
    await client.create()
    link, _ = await client.fetch()

    await client.report(link, "proceeding", "none", details=["checksum differs"])
    await client.report(link, "proceeding", "none", details=["left out, but not its text"])
    await client.report(link, "closed", "failure", code=500, details=["no image"])

    execution = await client.execution()
    assert execution.failure_code == "ddi.500"
    expected = ["checksum differs", "left out, but not its text", "no image"]
    assert execution.status_details["messages"] == expected


async def test_report_that_is_not_json_is_understood(client: Client) -> None:
    """SWUpdate does not escape the quotes of its messages."""
    await client.create()
    link, _ = await client.fetch()
    body = (
        '{"id": "1", "status": {"result": {"finished": "failure"},'
        ' "execution": "closed", "details": ["module "a" not found"]}}'
    )

    response = await client.http.post(f"{link}/feedback", content=body)

    assert response.status_code == 200
    execution = await client.execution()
    assert execution.status == pb.JobExecution.FAILED
    assert execution.status_details["messages"] == ['module "a" not found']


@pytest.mark.parametrize("body", ['"details":["' * 5_000, "[" * 60_000])
def test_report_that_is_no_report_has_no_end(body: str) -> None:
    """In either case, what it takes to read a report must not grow faster than the report."""
    feedback = Feedback.parse(body)

    assert (feedback.execution, feedback.finished) == ("", "")
    assert len(feedback.messages) <= 1


async def test_report_with_odd_text_is_stored(client: Client) -> None:
    await client.create()
    link, _ = await client.fetch()
    body = (
        b'{"status": {"execution": "closed", "result": {"finished": "failure"}, "code": null,'
        b' "details": ["a\\u0000b\\ud800", "\xff"]}}'
    )

    assert (await client.http.post(f"{link}/feedback", content=body)).status_code == 200

    execution = await client.execution()
    assert execution.failure_code == "ddi.failure"
    assert execution.status_details["messages"] == ["a b ", "\ufffd"]


async def test_progress_is_stored_at_most_every_ten_seconds(client: Client) -> None:
    await client.create()
    link, _ = await client.fetch()
    for number in range(20):
        assert await client.report(link, "proceeding", "none", details=[str(number)]) == 200

    execution = await client.execution()
    assert execution.status_details["messages"] == ["0"]
    assert execution.version == 3


async def test_report_on_what_is_over_is_gone(client: Client) -> None:
    await client.create()
    link, _ = await client.fetch()
    assert await client.report(link, "closed", "success") == 200

    assert await client.report(link, "closed", "success") == 410


@pytest.mark.parametrize(
    "document",
    [
        {"document_params": {}},
        {"document_params": DOCUMENT | {"download": "soon"}},
        {"document_params": {"chunks": [{"part": "os"}]}},
        {"document_type": "reboot"},
    ],
)
async def test_document_that_is_no_deployment_fails(
    client: Client, document: dict[str, Any]
) -> None:
    await client.create(**document)

    response = await client.http.get((await client.links())["deploymentBase"])

    assert response.status_code == 404
    assert (await client.execution()).failure_code == "ddi.document"


async def test_deployment_of_a_paused_job_is_not_found(client: Client) -> None:
    await client.create()
    link = (await client.links())["deploymentBase"]
    await client.operator.pause("j")

    assert (await client.http.get(link)).status_code == 404

    assert await client.status() == "QUEUED"


async def test_device_accepts_a_cancel(client: Client) -> None:
    await client.create()
    await client.fetch()
    await client.operator.cancel("j")

    link = (await client.links())["cancelAction"]
    action = link.rpartition("/")[2]
    body = (await client.http.get(link)).json()
    assert body == {"id": action, "cancelAction": {"stopId": action}}
    assert await client.report(link, "closed", "success") == 200

    assert (await client.execution()).end_cause == pb.JobExecution.JOB_CANCELED
    assert await client.links() == {}


async def test_device_refuses_a_cancel_and_goes_on(client: Client) -> None:
    """If Zephyr were offered the cancel again, it would refuse it again, without an end."""
    await client.create()
    await client.fetch()
    await client.operator.cancel("j")

    assert await client.report((await client.links())["cancelAction"], "rejected", "none") == 200
    link = (await client.links())["deploymentBase"]
    await client.report(link, "closed", "success")

    assert await client.status() == "SUCCEEDED"


async def test_device_is_told_once_of_a_forced_cancel(client: Client) -> None:
    await client.create()
    link, _ = await client.fetch()
    await client.operator.cancel("j", force=True)
    assert await client.report(link, "proceeding", "none") == 200
    assert await client.report(link, "closed", "success") == 410

    cancel = (await client.links())["cancelAction"]
    assert await client.report(cancel, "proceeding", "none") == 200
    assert await client.report((await client.links())["cancelAction"], "closed", "success") == 200

    assert await client.links() == {}
    assert await client.report(cancel, "closed", "success") == 410


async def test_device_reports_facts_once(client: Client) -> None:
    link = (await client.http.get("board")).json()["_links"]["configData"]["href"]

    body = {"mode": "merge", "data": {"version": "1.0", "serial": "7"}}
    assert (await client.http.put(link, json=body)).status_code == 200
    assert "configData" not in (await client.http.get("board")).json()["_links"]
    body = {"mode": "replace", "data": {"version": "1.1"}}
    assert (await client.http.put(link, json=body)).status_code == 200
    body = {"mode": "remove", "data": {"version": ""}}
    assert (await client.http.put(link, json=body)).status_code == 400

    device = await client.fleet.get("board")
    assert dict(device.device.facts) == {"version": "1.1"}


@pytest.mark.parametrize(
    "authorization",
    ["", "TargetToken", "TargetToken junk", "TargetToken ü", "GatewayToken junk", "Bearer junk"],
)
async def test_other_tokens_are_refused(client: Client, authorization: str) -> None:
    response = await client.http.get("board", headers={b"Authorization": authorization.encode()})

    assert response.status_code == 401


async def test_unknown_tenants_devices_and_actions_are_not_found(client: Client) -> None:
    other = str(client.http.base_url).replace("/tenant-", "/other-")

    assert (await client.http.get(f"{other}board")).status_code == 401
    assert (await client.http.get("board/deploymentBase/1")).status_code == 404
    assert (await client.http.get("board/cancelAction/1")).status_code == 404


@pytest.mark.parametrize("device_id", ["ü", "a\nb", " a", "x" * 257])
async def test_device_with_an_impossible_id_is_not_found(client: Client, device_id: str) -> None:
    token = target_token(TARGET_KEY, device_id)
    headers = {"Authorization": f"TargetToken {token}"}

    response = await client.http.get(quote(device_id, safe=""), headers=headers)

    assert response.status_code == 404


@pytest.mark.parametrize("body", [b"{}", b"[" * 60_000, b'{"data": []}'])
async def test_facts_that_are_not_readable_are_refused(client: Client, body: bytes) -> None:
    headers = {"Content-Type": "application/json; charset=unknown"}
    for each in ({}, headers):
        response = await client.http.put("board/configData", content=body, headers=each)
        assert response.status_code == 400
