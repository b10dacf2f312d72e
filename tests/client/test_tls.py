"""TLS of the client, with the real server."""

from pathlib import Path

import pytest
from grpc import StatusCode

from jobs_grpc.client import Connection, JobsClient, JobsError, RetryPolicy, Tls
from tests.support.database import Database
from tests.support.identities import Authority, channel_credentials, mutual_tls
from tests.support.server import running_tls_server


async def test_client_presents_its_certificate_and_checks_the_server(
    database: Database, tmp_path: Path, tenant: str
) -> None:
    authority = Authority()
    client = authority.client("operator")
    files = mutual_tls(authority, tmp_path)
    known = Tls(ca=authority.certificate, certificate=client.certificate, key=client.key)
    once = RetryPolicy(max_attempts=1)

    credentials = channel_credentials(authority, client)
    async with running_tls_server(database.request_dsn, credentials, **files) as server:
        async with (
            Connection(server.address, tls=known) as connection,
            JobsClient(connection, tenant=tenant) as jobs,
        ):
            assert [job async for job in jobs.list()] == []
        for tls in (Tls(ca=authority.certificate), Tls(ca=Authority().certificate)):
            async with Connection(server.address, tls=tls) as connection:
                with pytest.raises(JobsError) as raised:
                    await JobsClient(connection, tenant=tenant, retry=once).get("j")
            assert raised.value.code is StatusCode.UNAVAILABLE


def test_tls_rejects_a_certificate_without_a_key() -> None:
    with pytest.raises(ValueError, match="together"):
        Tls(certificate=b"pem").credentials()
