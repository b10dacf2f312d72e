"""A limit of documents that no option of the contract can declare."""

# Protobuf parsers allow 100 nested messages. One level of a Struct takes up to three of them,
# and a response nests the Struct deeper than the request does.
MAX_DOCUMENT_LEVELS = 20
"""How many objects and lists may be nested in a Struct, including the Struct itself."""
