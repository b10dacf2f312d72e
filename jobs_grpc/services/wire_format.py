"""Parts of protobuf's wire format, for messages that are encoded faster by hand."""

import functools


@functools.lru_cache(maxsize=1024)
def varint(number: int) -> bytes:
    """Encode a number that is not negative, such as a length or a tag (number << 3 | type)."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def bytes_field(number: int, value: bytes) -> bytes:
    """Encode a field with a length: a string or a message."""
    return varint(number << 3 | 2) + varint(len(value)) + value
