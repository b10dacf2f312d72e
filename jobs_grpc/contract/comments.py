"""Reads the comments of the contract, which descriptors.binpb contains."""

import re
from functools import cache
from importlib.resources import files

from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet
from google.protobuf.message import Message

# The path of the location of a field: a message of a file, and a field of the message.
_MESSAGE = FileDescriptorProto.MESSAGE_TYPE_FIELD_NUMBER
_FIELD = DescriptorProto.FIELD_FIELD_NUMBER


def sentences_of(message: type[Message], field: str) -> list[str]:
    """Return the sentences of the comment of a field, without their periods."""
    comment = _comments()[f"{message.DESCRIPTOR.full_name}.{field}"]
    return re.split(r"\.\s+", comment.removesuffix("."))


@cache
def _comments() -> dict[str, str]:
    """Return the comments of fields by their full names, each on one line."""
    found = {}
    raw = files("fleet.jobs.v1").joinpath("descriptors.binpb").read_bytes()
    for file in FileDescriptorSet.FromString(raw).file:
        for location in file.source_code_info.location:
            path = location.path
            if len(path) == 4 and (path[0], path[2]) == (_MESSAGE, _FIELD):
                message = file.message_type[path[1]]
                name = f"{file.package}.{message.name}.{message.field[path[3]].name}"
                found[name] = " ".join(location.leading_comments.split())
    return found
