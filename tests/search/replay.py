"""Makes the calls of a path to a server and to the model, and compares them after each move."""

from collections.abc import Sequence
from typing import Any

from tests.machine.machine import Machine, Profile, Service
from tests.machine.operators import create_for
from tests.model.targets import Device
from tests.search.moves import JOB, Move, both, end_of
from tests.search.search import DEVICES, Scenario


class Replay(Machine):
    """A path in a new tenant."""

    def __init__(self, service: Service, scenario: Scenario, path: Sequence[Move]) -> None:
        registered = DEVICES[: scenario.registered]
        profile = Profile(
            scenario.name,
            devices=lambda _: [Device(device) for device in registered],
            settings=lambda _: dict(scenario.settings),
            create=_create,
            actions={},
        )
        super().__init__(service, profile, f"{scenario.name} {path}")
        self._path = path

    async def run(self) -> None:
        """Compare after each move. An error has the calls as a note."""
        try:
            await self._set_up()
            # The server decides the order of release, in which a search numbers the devices.
            order = [execution.device for execution in self.state.job(JOB).executions]
            devices = [*order, *(device for device in DEVICES if device not in order)]
            for move in self._path:
                before = self.state
                await self.set_time(end_of(move, self.now) - self.profile.tick)
                call, send = both(move, self.state, devices)
                await self.both(call, send(self))
                await self.checks.check_changes(before, self.state)
            await self.checks.check_all(self.state)
        except BaseException as e:
            e.add_note("\n".join(self.log))
            raise


async def _create(m: Machine) -> None:
    registered = [device.device_id for device in m.state.devices]
    settings: dict[str, Any] = m.profile.settings(m)
    await create_for(m, registered, settings, {"target_all": True})
