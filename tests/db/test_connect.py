"""Connections to one of several hosts."""

from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from jobs_grpc.db.connect import abort, connect, split_hosts
from jobs_grpc.db.pg_errors import is_outage
from tests.support.database import Database
from tests.support.proxy import running_proxy
from tests.support.server import reserved_address


def with_hosts(dsn: str, *hosts: str, attributes: str = "primary") -> str:
    """Return a DSN with the hosts of these DSNs."""
    parts = urlsplit(dsn)
    login = parts.netloc.rpartition("@")[0]
    netloc = ",".join(urlsplit(host).netloc.rpartition("@")[2] for host in hosts)
    query = f"target_session_attrs={attributes}"
    return urlunsplit(parts._replace(netloc=f"{login}@{netloc}", query=query))


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://u:p@h:1/d", ["postgresql://u:p@h:1/d"]),
        ("postgresql:///d?host=/run", ["postgresql:///d?host=/run"]),
        (
            "postgresql://u:p@h1,[::1]:2/d?sslmode=require",
            ["postgresql://u:p@h1/d?sslmode=require", "postgresql://u:p@[::1]:2/d?sslmode=require"],
        ),
        (
            "postgresql://u@/d?port=1,2&host=/run,h&options=-c%20a%3Db",
            [
                "postgresql://u@/d?options=-c+a%3Db&host=%2Frun&port=1",
                "postgresql://u@/d?options=-c+a%3Db&host=h&port=2",
            ],
        ),
        (
            "postgresql:///d?host=h1,h2&port=5433",
            ["postgresql:///d?host=h1&port=5433", "postgresql:///d?host=h2&port=5433"],
        ),
    ],
)
def test_each_host_gets_a_url(url: str, hosts: list[str]) -> None:
    assert split_hosts(url) == hosts


async def test_other_host_is_tried_when_the_first_does_not_respond(database: Database) -> None:
    async with running_proxy(database.owner_dsn) as lost, running_proxy(database.owner_dsn) as good:
        lost.freeze()
        url = with_hosts(good.dsn, lost.dsn, good.dsn)

        connection = await connect(url, timeout=30)

        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()


async def test_refusal_of_a_server_is_raised_before_that_of_a_host(database: Database) -> None:
    async with running_proxy(database.owner_dsn) as proxy:
        with reserved_address() as unused:
            dsn = proxy.dsn.replace(f"/{database.name}", "/missing")
            url = with_hosts(dsn, proxy.dsn, f"postgresql://{unused}")

            with pytest.raises(asyncpg.InvalidCatalogNameError):
                await connect(url)


async def test_connect_fails_when_no_host_is_a_standby(database: Database) -> None:
    async with running_proxy(database.owner_dsn) as proxy:
        url = with_hosts(proxy.dsn, proxy.dsn, proxy.dsn, attributes="standby")

        with pytest.raises(asyncpg.InternalClientError, match="standby"):
            await connect(url)


async def test_connect_times_out_when_no_host_responds(database: Database) -> None:
    async with running_proxy(database.owner_dsn) as proxy:
        proxy.freeze()

        with pytest.raises(TimeoutError):
            await connect(with_hosts(proxy.dsn, proxy.dsn, proxy.dsn), timeout=0.05)


async def test_statement_that_is_about_to_be_sent_fails_as_in_an_outage(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = await connect(database.owner_dsn)
    connection_type: Any = asyncpg.Connection
    prepare = connection_type._get_statement

    async def prepare_and_abort(*args: Any, **options: Any) -> Any:
        statement = await prepare(*args, **options)
        abort(connection)
        return statement

    monkeypatch.setattr(connection_type, "_get_statement", prepare_and_abort)

    with pytest.raises(asyncpg.PostgresError) as failed:
        await connection.fetchval("SELECT 1")

    assert is_outage(failed.value)
    assert connection.is_closed()
