"""The service equals the model of tests/model/ after each call of random sequences."""

from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest

from jobs_grpc.contract.methods import METHODS
from tests.machine.clock import Clock
from tests.machine.events import delivered_positions
from tests.machine.machine import Machine, Profile, Service
from tests.machine.mistakes import MISTAKES
from tests.machine.profiles import ANY_CALL, PROFILES, TARGETS
from tests.machine.servers import server_without_sweeper, service
from tests.support.database import Database, edited_function
from tests.support.metrics import METRICS_ON, scrape
from tests.support.postgres import Postgres
from tests.support.scale import FULL_SCALE, SCALE
from tests.support.server import Server
from tests.support.webhooks import RecordingSender, running_webhook_server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.single_node("the time comes from a table of one node"),
]


@pytest.fixture(scope="module")
async def server(
    database: Database, cluster: tuple[Postgres, str], webhook_keys: Path
) -> AsyncIterator[Server]:
    async with server_without_sweeper(database, cluster, webhook_keys) as server:
        yield server


@pytest.fixture(scope="module")
async def clock(database: Database) -> Clock:
    """The clock of the database, which stands still."""
    clock = Clock(database)
    await clock.stop()
    return clock


def sequences(profile: Profile) -> list[int]:
    """Return the sequences that notice the planted mistakes, and more at a larger scale."""
    noticing = {each.sequence for each in MISTAKES.values() if each.profile is profile}
    return sorted(noticing | {*range(10 * (SCALE - 1))})


async def run(service: Service, profile: Profile, sequences: Iterable[int]) -> None:
    for number in sequences:
        await Machine(service, profile, f"{profile.name}/{number}").run()


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.wrong_counts("plants mistakes")
async def test_mistake_is_noticed(
    database: Database, server: Server, clock: Clock, name: str
) -> None:
    mistake = MISTAKES[name]
    async with (
        edited_function(database, mistake.function, mistake.part, mistake.wrong),
        service(database, server, clock) as running,
    ):
        with pytest.raises(AssertionError):
            await run(running, mistake.profile, [mistake.sequence])


@pytest.mark.parametrize("name", PROFILES)
async def test_service_equals_the_model(
    database: Database, server: Server, clock: Clock, name: str
) -> None:
    async with service(database, server, clock) as running:
        await run(running, PROFILES[name], sequences(PROFILES[name]))


async def test_targets_that_are_merged_equal_the_model(
    database: Database, server: Server, clock: Clock
) -> None:
    """Candidates are merged even if there are only two; see target_candidates.sql."""
    part = "c_small CONSTANT integer := 10000"
    async with (
        edited_function(database, "target_candidates", part, part.replace("10000", "1")),
        service(database, server, clock) as running,
    ):
        await run(running, TARGETS, range(1000, 1000 + SCALE))


async def test_every_call_equals_the_model(
    database: Database, clock: Clock, webhook_keys: Path
) -> None:
    sender = RecordingSender()
    variables = METRICS_ON | {"JOBS_OWNER_DATABASE_URL": database.owner_dsn}
    async with (
        # Deliveries need a server that does background work.
        running_webhook_server(database, webhook_keys, sender, **variables) as server,
        service(database, server, clock, sender) as running,
    ):
        await run(running, ANY_CALL, sequences(ANY_CALL))
        metrics = await scrape(server.app.metrics_address)
    # A few sequences leave out some calls, and may deliver no event.
    if SCALE >= FULL_SCALE:
        names = {method.rpartition("/")[2] for method in METHODS}
        uncalled = {name for name in names if not metrics.calls("started_total", name)}
        assert not uncalled, "no action makes these calls"
        assert delivered_positions(sender)
