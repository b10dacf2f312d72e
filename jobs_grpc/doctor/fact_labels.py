"""Finds labels of devices that begin with "fact."."""

from jobs_grpc.config import Config
from jobs_grpc.db.fact_labels import REMEDY, TIMEOUT, describe_fact_labels
from jobs_grpc.doctor.connection import DATABASE_ERRORS, ConnectError, connect, not_examined
from jobs_grpc.doctor.finding import Finding, Status

_CHECK = "labels"


async def check_fact_labels(config: Config) -> list[Finding]:
    """Name labels of devices that were stored before such keys were refused."""
    owner_url = config.maintenance.owner_database_url
    if owner_url is None:
        return [Finding(_CHECK, Status.SKIPPED, "needs JOBS_OWNER_DATABASE_URL")]
    try:
        async with connect(owner_url, config) as connection:
            found = await describe_fact_labels(connection)
    except TimeoutError:
        return [Finding(_CHECK, Status.SKIPPED, f"not all labels could be read in {TIMEOUT:.0f} s")]
    except (ConnectError, *DATABASE_ERRORS) as e:
        return [not_examined(_CHECK, e)]
    if found:
        return [Finding(_CHECK, Status.WARNING, found, REMEDY)]
    return [Finding(_CHECK, Status.OK, "no label of a device begins with fact.")]
