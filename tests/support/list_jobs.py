"""Lists jobs through the store, which needs a value for each filter."""

from collections.abc import Awaitable, Sequence
from typing import Any

from jobs_grpc.db.store import Row, Store

NO_FILTERS: dict[str, Any] = dict.fromkeys(
    (
        *("statuses", "document_type", "created_by", "target_device_id", "target_group_id"),
        *("target_all", "created_from", "created_until", "before_created_at", "before_job_id"),
    )
)


def list_jobs(store: Store, tenant: str, *, limit: int, **filters: Any) -> Awaitable[Sequence[Row]]:
    return store.list_jobs(tenant, **(NO_FILTERS | filters), limit=limit, offset=0)
