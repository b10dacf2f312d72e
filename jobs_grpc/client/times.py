"""Converts times to the messages of the contract."""

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp


def timestamp(time: datetime | None) -> Timestamp | None:
    """Convert a time, which must have a time zone. Returns None, an unset field, for None."""
    if time is None:
        return None
    if time.tzinfo is None:
        raise ValueError("a time needs a time zone")
    result = Timestamp()
    result.FromDatetime(time)
    return result
