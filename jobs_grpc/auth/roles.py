"""The roles of callers. options.proto declares the same roles, and what each of them may do."""

from enum import StrEnum


class Role(StrEnum):
    """What a caller may do."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    APPROVER = "approver"
    ADMIN = "admin"
    DEVICE = "device"
    BRIDGE = "bridge"
