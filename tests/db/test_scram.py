"""The verifier of the request role's password, and that PostgreSQL never sees the password."""

import base64
import re

import asyncpg
import pytest

from jobs_grpc.db.migrate import MigrationError, RequestRole, migrate
from jobs_grpc.db.scram import scram_verifier
from jobs_grpc.dev import embedded_postgres
from tests.support.database import Database
from tests.support.postgres import connect, new_data_dir

_ROLE = "scram_test"

PASSWORDS = [
    "secret",
    'it\'s "quoted" \\ $1',
    "tab\tand \x7f",
    "pässwörd",
    "a\u0308",  # composed to ä
    "ﬁve²",  # compatibility characters become fi and 2
    "non\u00a0breaking\u3000space",
    "zero\u200bwidth space, soft\u00adhyphen",
    "\u00ad",  # maps to nothing
    "א",
    "א1ב",
    "א1",  # a wrong order of directions
    "אa",
    "private \ue000",
    "unassigned in Unicode 3.2: \U0001f680",
    "東京",
]


@pytest.mark.parametrize("password", PASSWORDS, ids=ascii)
async def test_verifier_equals_that_of_postgresql(database: Database, password: str) -> None:
    transaction = database.owner.transaction()
    await transaction.start()
    try:
        await database.owner.execute("SET LOCAL password_encryption = 'scram-sha-256'")
        quoted = await database.owner.fetchval("SELECT quote_literal($1::text)", password)
        await database.owner.execute(f"CREATE ROLE {_ROLE} PASSWORD {quoted}")
        stored = await database.owner.fetchval(
            "SELECT rolpassword FROM pg_authid WHERE rolname = $1", _ROLE
        )
    finally:
        await transaction.rollback()

    parts = re.match(r"SCRAM-SHA-256\$(\d+):(.+?)\$", stored)
    assert parts
    iterations, salt = parts.groups()
    assert scram_verifier(password, base64.b64decode(salt), int(iterations)) == stored


def test_verifiers_of_equal_passwords_differ() -> None:
    assert scram_verifier("secret") != scram_verifier("secret")


@pytest.mark.slow
@pytest.mark.parametrize("password", ["it's secret", "pässwörd\u3000"], ids=ascii)
async def test_role_logs_in_with_a_password_that_is_not_in_the_log(password: str) -> None:
    role, denied_role = RequestRole("jobs_request", password), RequestRole("denied", password)
    with new_data_dir() as data_dir:
        hba = data_dir.with_name("pg_hba.conf")
        hba.write_text(f"local all {role.name} scram-sha-256\nlocal all all trust\n")
        hba.chmod(0o644)
        settings = ("fsync=off", "log_statement=all", f"hba_file={hba}")
        with embedded_postgres.running(data_dir, *settings) as cluster:
            await migrate(cluster.dsn("postgres"), role)

            request_dsn = cluster.dsn("postgres", role.name)
            connection = await asyncpg.connect(request_dsn, password=password)
            assert await connection.fetchval("SELECT current_user") == role.name
            await connection.close()
            with pytest.raises(asyncpg.InvalidPasswordError):
                await asyncpg.connect(request_dsn, password="other")

            # PostgreSQL logs a statement that fails, whatever log_statement is.
            owner = await connect(cluster.dsn("postgres"))
            await owner.execute("CREATE ROLE other_owner LOGIN")
            await owner.execute("CREATE DATABASE owned OWNER other_owner")
            await owner.close()
            with pytest.raises(MigrationError, match="lacks the privilege to create"):
                await migrate(cluster.dsn("owned", "other_owner"), denied_role)

            log = (cluster.data_dir / "postgresql.log").read_text(encoding="utf-8")

    assert f"CREATE ROLE {role.name} LOGIN" in log
    assert f"CREATE ROLE {denied_role.name} LOGIN" in log
    assert password not in log
    assert password.replace("'", "''") not in log
