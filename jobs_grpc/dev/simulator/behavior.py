"""How simulated devices behave: how long an execution takes and how it ends."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

Outcome: TypeAlias = Literal["SUCCEEDED", "FAILED", "REJECTED", "STALLED"]

# Reasons by failure code.
_FAILURES = {
    "CHECKSUM": "checksum mismatch",
    "DISK_FULL": "no space left",
    "NETWORK": "network lost",
    "INSTALLER": "installer crashed",
}


class Plan(NamedTuple):
    """How a device carries out one execution."""

    outcome: Outcome
    """STALLED: the device starts the execution and does not report on it."""
    seconds: float
    reason: str | None
    failure_code: str = ""


@dataclass(frozen=True, slots=True)
class Bug:
    """A fault: some devices fail with the same code, always or in their first attempts."""

    rate: float
    """The share of the devices, between 0 and 1."""
    failure_code: str
    version: str | None = None
    """Only executions whose document has this `version`; None: all."""
    attempts: int | None = None
    """The number of attempts that fail before one succeeds; None: all fail."""

    def affects(
        self, device_id: str, attempt: int, document_params: Mapping[str, object], seed: int
    ) -> bool:
        """Return whether an attempt fails. The same devices are affected each time."""
        if self.attempts is not None and attempt > self.attempts:
            return False
        rng = random.Random(f"{seed}/{self.failure_code}/{device_id}")  # noqa: S311 - no secret
        return rng.random() < self.rate and self.version in (None, document_params.get("version"))


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
    bugs: Sequence[Bug] = ()

    def plan(
        self,
        device_id: str,
        number: int,
        attempt: int = 1,
        document_params: Mapping[str, object] | None = None,
    ) -> Plan:
        """Plan an attempt.

        `number` counts the attempts that the device starts, in all jobs; `attempt` those of the
        execution. The same seed gives the same plan.
        """
        rng = random.Random(f"{self.seed}/{device_id}/{number}")  # noqa: S311 - not for security
        seconds, code = rng.uniform(*self.latency), rng.choice([*_FAILURES])
        for bug in self.bugs:
            if bug.affects(device_id, attempt, document_params or {}, self.seed):
                return Plan("FAILED", seconds, "simulated bug", bug.failure_code)
        draw = rng.random()
        if draw < self.stall_rate:
            return Plan("STALLED", seconds, None)
        if draw < self.stall_rate + self.reject_rate:
            return Plan("REJECTED", 0, "battery low")
        if draw < self.stall_rate + self.reject_rate + self.failure_rate:
            return Plan("FAILED", seconds, _FAILURES[code], code)
        return Plan("SUCCEEDED", seconds, None)
