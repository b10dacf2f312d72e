"""The doctor and `migrate` name labels of devices that selectors read as facts."""

import pytest

from jobs_grpc.db import fact_labels
from jobs_grpc.db.migrate import migrate
from tests.doctor.conftest import Doctor

pytestmark = pytest.mark.slow


async def test_labels_that_begin_with_fact_are_named(
    fresh: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fresh.expect("labels", "OK", "no label of a device begins with fact.")
    await fresh.database.add_labels("acme", {"pump": {"fact.version": "2", "model": "x"}})
    detail = "*selectors: fact.version of device 'pump' of tenant acme"

    await fresh.expect("labels", "WARNING", detail, "*jobs-grpc devices label DEVICE *")

    async def migrate_again() -> str:
        """Migrate from before the migration that adds facts. Return the last change."""
        await fresh.owner.execute("DROP TABLE jobs.device_facts")
        await fresh.owner.execute("DELETE FROM jobs.migrations WHERE name = 'add_device_facts'")
        return (await migrate(fresh.database.owner_dsn, fresh.database.role))[-1]

    assert detail.strip("*") in await migrate_again()
    monkeypatch.setattr(fact_labels, "TIMEOUT", 0)
    assert await migrate_again() == (
        "did not search for labels that begin with fact. (TimeoutError); jobs-grpc doctor does"
    )
