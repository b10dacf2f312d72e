"""The event loop of a server process."""

import pytest

from jobs_grpc.config import Config
from jobs_grpc.server import event_loop
from tests.support.database import Database
from tests.support.server_process import serving

# The line that says where the server listens.
EVENT_LOOP = r"listening on \S+ \(event loop: (\w+)\)"


@pytest.mark.slow
async def test_server_runs_on_the_event_loop_of_the_setting(database: Database) -> None:
    """test_supervisor.py and test_shutdown.py have servers with the default, uvloop."""
    async with serving(database.request_dsn, JOBS_EVENT_LOOP="asyncio") as service:
        assert await service.wait_for_log(EVENT_LOOP) == "asyncio"
        service.process.terminate()

        assert await service.wait_for_exit() == 0
    assert "Traceback" not in "\n".join(service.log)


def test_event_loop_is_that_of_asyncio_when_uvloop_is_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_loop, "_new_uvloop", None)
    config = Config.from_env({"JOBS_DATABASE_URL": "postgresql://u:p@127.0.0.1/d"})

    async def name() -> str:
        return event_loop.name()

    assert event_loop.run(config, name()) == "asyncio"
