"""A client of the service for asyncio, with types.

    async with JobsClient("127.0.0.1:50051", tenant="demo") as jobs:
        job = await jobs.create("reboot", target_group_id="north")
        await jobs.wait(job.job_id)

The classes of errors are in `jobs_grpc.client.errors`.
"""

from jobs_grpc.client import errors
from jobs_grpc.client.channel import Connection, Tls, sync_channel
from jobs_grpc.client.devices import DeviceClient
from jobs_grpc.client.enums import (
    end_cause_name,
    execution_status_name,
    job_priority_name,
    job_status_name,
)
from jobs_grpc.client.errors import JobsError
from jobs_grpc.client.events import EventReader, EventsClient
from jobs_grpc.client.fleet import FleetClient
from jobs_grpc.client.jobs import JobsClient
from jobs_grpc.client.operator_client import Pager
from jobs_grpc.client.report_stream import ReportStream
from jobs_grpc.client.retry import RetryPolicy

__all__ = [
    "Connection",
    "DeviceClient",
    "EventReader",
    "EventsClient",
    "FleetClient",
    "JobsClient",
    "JobsError",
    "Pager",
    "ReportStream",
    "RetryPolicy",
    "Tls",
    "end_cause_name",
    "errors",
    "execution_status_name",
    "job_priority_name",
    "job_status_name",
    "sync_channel",
]
