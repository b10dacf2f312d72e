"""How simulated devices behave: how long an execution takes and how it ends."""

import random
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

Outcome: TypeAlias = Literal["SUCCEEDED", "FAILED", "REJECTED", "STALLED"]

_FAILURES = ("checksum mismatch", "no space left", "network lost", "installer crashed")


class Plan(NamedTuple):
    """How a device carries out one execution."""

    outcome: Outcome
    """STALLED: the device starts the execution and does not report on it."""
    seconds: float
    reason: str | None


@dataclass(frozen=True, slots=True)
class DeviceBehavior:
    """How devices behave. Rates are between 0 and 1 and add up to at most 1."""

    latency: tuple[float, float]
    """Minimum and maximum seconds for an execution."""
    failure_rate: float
    reject_rate: float
    stall_rate: float
    progress: int
    """Progress reports per execution."""
    seed: int

    def plan(self, device_id: str, number: int) -> Plan:
        """Plan a device's n-th execution. The same seed gives the same plan."""
        rng = random.Random(f"{self.seed}/{device_id}/{number}")  # noqa: S311 - not for security
        seconds, failure = rng.uniform(*self.latency), rng.choice(_FAILURES)
        draw = rng.random()
        if draw < self.stall_rate:
            return Plan("STALLED", seconds, None)
        if draw < self.stall_rate + self.reject_rate:
            return Plan("REJECTED", 0, "battery low")
        if draw < self.stall_rate + self.reject_rate + self.failure_rate:
            return Plan("FAILED", seconds, failure)
        return Plan("SUCCEEDED", seconds, None)
