"""Implements EventService: each method validates, calls the store and converts the result."""

from fleet.jobs.v1 import events_pb2_grpc

from jobs_grpc.db.store import Store
from jobs_grpc.services.webhooks import Webhooks


class EventService(Webhooks, events_pb2_grpc.EventServiceServicer):
    """The events of a tenant's jobs, documented in events.proto; Webhooks has the other half."""

    def __init__(self, store: Store) -> None:
        self._store = store
