"""The work on Eclipse hawkBit, through its Management API and its Direct Device Integration API.

A job is a rollout with one group; an execution is the action of a target.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httpx

from bench.run import InvalidRun

_GATEWAY_TOKEN = "bench"

# Devices of a page; hawkBit allows no more.
PAGE_SIZE = 500

# Targets that one request creates, and requests at a time.
_BATCH = 500
_ADDERS = 4

# Seconds between two reads of the status of a rollout.
_POLL_INTERVAL = 0.05

_TIMEOUT = 300


class UpdateServer:
    """A running hawkBit update server."""

    def __init__(self, url: str, user: str, password: str) -> None:
        limits = httpx.Limits(max_connections=100, max_keepalive_connections=100)
        self._management = httpx.AsyncClient(base_url=url, auth=(user, password), timeout=_TIMEOUT)
        self._devices = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"GatewayToken {_GATEWAY_TOKEN}"},
            timeout=_TIMEOUT,
            limits=limits,
        )
        # The server may have the data of an earlier run.
        self._run = f"{int(time.time())}"
        self._distribution_set = 0
        self._rollout = 0

    async def prepare(self) -> None:
        """Let devices authenticate with one token."""
        for key, value in (("enabled", True), ("key", _GATEWAY_TOKEN)):
            await self._send(
                "PUT",
                f"/rest/v1/system/configs/authentication.gatewaytoken.{key}",
                {"value": value},
            )

    async def add_devices(self, fleet: str, count: int) -> list[str]:
        """Create the devices of a fleet and return their ids.

        Also creates the software that their next job installs: hawkBit installs none twice.
        """
        ids = [f"{fleet}-{self._run}-{number:07}" for number in range(count)]
        batches = iter(range(0, count, _BATCH))

        async def add() -> None:
            for first in batches:
                batch = ids[first : first + _BATCH]
                targets = [{"controllerId": id_, "name": id_} for id_ in batch]
                await self._send("POST", "/rest/v1/targets", targets)

        await asyncio.gather(*(add() for _ in range(_ADDERS)))
        self._distribution_set = await self._create_distribution_set(f"{fleet}-{self._run}")
        return ids

    async def _create_distribution_set(self, name: str) -> int:
        module = {"name": name, "version": "1", "type": "os"}
        [created] = await self._send("POST", "/rest/v1/softwaremodules", [module])
        modules = [{"id": created["id"]}]
        distribution_set = {"name": name, "version": "1", "type": "os", "modules": modules}
        [created] = await self._send("POST", "/rest/v1/distributionsets", [distribution_set])
        return int(created["id"])

    async def create(self, fleet: str, count: int) -> None:
        """Create a job for all devices of a fleet; return when each of them would be offered it."""
        rollout = {
            "name": f"{fleet}-{self._run}",
            "distributionSetId": self._distribution_set,
            "targetFilterQuery": f"controllerId=={fleet}-{self._run}-*",
            "amountGroups": 1,
            "type": "forced",
            "successCondition": {"condition": "THRESHOLD", "expression": "100"},
        }
        self._rollout = (await self._send("POST", "/rest/v1/rollouts", rollout))["id"]
        await self._wait_until(lambda rollout: rollout["status"] == "ready")
        await self._send("POST", f"/rest/v1/rollouts/{self._rollout}/start")
        await self._wait_until(lambda rollout: rollout["totalTargetsPerStatus"]["running"] == count)

    async def cancel(self) -> None:
        """Cancel the newest job; return when it is offered to no device."""
        # A rollout can be stopped as soon as its status says that it is running.
        await self._wait_until(lambda rollout: rollout["status"] == "running")
        await self._send("POST", f"/rest/v1/rollouts/{self._rollout}/stop")
        await self._wait_until(lambda rollout: rollout["status"] == "stopped")

    async def list_jobs(self) -> None:
        """List 50 jobs with their counts."""
        await self._send("GET", "/rest/v1/rollouts?limit=50&representation=full")

    async def list_devices(self, count: int) -> None:
        """Read all devices of the newest job, in pages of 500."""
        groups = f"/rest/v1/rollouts/{self._rollout}/deploygroups"
        [group] = (await self._send("GET", groups))["content"]
        for offset in range(0, count, PAGE_SIZE):
            page = f"{groups}/{group['id']}/targets?offset={offset}&limit={PAGE_SIZE}"
            if not (await self._send("GET", page))["content"]:
                raise InvalidRun(f"hawkBit has no devices from {offset} on")

    async def carry_out(self, device: str) -> None:
        """Let a device ask for its job, report progress and report success."""
        base = f"/DEFAULT/controller/v1/{device}"
        polled = await self._send_as_device("GET", base)
        deployment = await self._send_as_device("GET", polled["_links"]["deploymentBase"]["href"])
        feedback = f"{base}/deploymentBase/{deployment['id']}/feedback"
        for execution, finished in (("proceeding", "none"), ("closed", "success")):
            status = {"execution": execution, "result": {"finished": finished}}
            await self._send_as_device("POST", feedback, {"status": status})

    async def count_succeeded(self) -> int:
        """Return how many devices of the newest job have succeeded."""
        return int((await self._get_rollout())["totalTargetsPerStatus"]["finished"])

    async def _wait_until(self, condition: Callable[[Any], bool]) -> None:
        """Read the newest rollout until the condition holds."""
        while True:
            if condition(await self._get_rollout()):
                return
            await asyncio.sleep(_POLL_INTERVAL)

    async def _get_rollout(self) -> Any:
        return await self._send("GET", f"/rest/v1/rollouts/{self._rollout}")

    async def _send(self, method: str, path: str, body: Any = None) -> Any:
        return _json(await self._management.request(method, path, json=body))

    async def _send_as_device(self, method: str, path: str, body: Any = None) -> Any:
        return _json(await self._devices.request(method, path, json=body))


def _json(response: httpx.Response) -> Any:
    if response.is_error:
        request = response.request
        raise InvalidRun(
            f"{request.method} {request.url.path} returned {response.status_code}: {response.text}"
        )
    return response.json() if response.content else None
