"""Converts times to the messages of the contract."""

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp


def timestamp(time: datetime | None) -> Timestamp | None:
    """Convert a time, which needs a time zone; None stays None, which leaves a field unset."""
    if time is None:
        return None
    if time.tzinfo is None:
        raise ValueError("a time needs a time zone")
    result = Timestamp()
    result.FromDatetime(time)
    return result
