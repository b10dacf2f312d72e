"""The rules of FairSemaphore, by scans of all calls."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count


@dataclass(eq=False)
class Call:
    """A call of a tenant, which asks for units once or twice."""

    name: int
    tenant: str
    held: int = 0
    asked: int = 0
    """The units that it asked for last."""
    held_while_waiting: int = 0
    """What a call that asks for the second time held then, until it has its units or stops."""
    waits: bool = False
    canceled: bool = False

    @property
    def asks_for_more(self) -> bool:
        """Whether it asks for the second time."""
        return self.held_while_waiting > 0


@dataclass
class Model:
    """Gives units to calls as FairSemaphore does."""

    capacity: int
    reserve: Callable[[int], int]
    max_held: float
    calls: list[Call] = field(default_factory=list)
    """All calls, in the order in which they asked last."""
    served: list[int] = field(default_factory=list)
    """The calls that got their units, in order."""
    woken: list[Call] = field(default_factory=list)
    """Calls that got their units while they waited, until their tasks run."""
    # By tenant, and whether its calls ask for more. The tenant with the lowest number is next.
    turns: dict[tuple[str, bool], int] = field(default_factory=dict)
    next_turn: "count[int]" = field(default_factory=count)

    @property
    def free(self) -> int:
        """The units that are free; negative if calls hold more than there are."""
        return self.capacity - sum(call.held for call in self.calls)

    @property
    def waiting(self) -> list[Call]:
        return [call for call in self.calls if call.waits]

    def held_by(self, tenant: str) -> int:
        """The units that the calls of a tenant hold."""
        return sum(call.held for call in self.calls if call.tenant == tenant)

    def holds_nothing_else(self, tenant: str) -> bool:
        """Whether the calls of a tenant that ask for more hold all that it holds."""
        held = sum(call.held_while_waiting for call in self.calls if call.tenant == tenant)
        return self.held_by(tenant) == held

    def may_take(self, tenant: str) -> bool:
        held = self.held_by(tenant)
        return held < self.max_held and self.free > self.reserve(held)

    def may_proceed(self, call: Call) -> bool:
        """Whether a call that waits can get its units now."""
        tenant = call.tenant
        return self.may_take(tenant) or (
            call.asks_for_more
            and (
                (self.free > 0 and self.holds_nothing_else(tenant))
                or all(self.holds_nothing_else(other.tenant) for other in self.calls)
            )
        )

    def take(self, call: Call, units: int) -> None:
        """A call asks for its first units."""
        self.calls.append(call)
        call.asked = units
        if self.may_take(call.tenant):
            call.held = units
            self.served.append(call.name)
        else:
            call.waits = True
        self._update_turns()

    def take_as_holder(self, call: Call, units: int) -> None:
        """A call asks for units in place of those that it holds."""
        self.calls.remove(call)
        self.calls.append(call)
        call.asked, call.held_while_waiting, call.waits = units, call.held, True
        self._update_turns()
        self._wake()
        if call in self.woken:  # It does not have to wait.
            self.woken.remove(call)
            self._resume(call)
        self.run_tasks()

    def change_held(self, call: Call, units: int) -> None:
        """A call takes units, whatever the limits are, or returns some."""
        call.held += units
        self._update_turns()
        if units < 0:
            self._wake()

    def cancel(self, call: Call) -> None:
        """A call that waits stops. It keeps what it holds."""
        call.waits, call.held_while_waiting = False, 0
        self._update_turns()

    def run_tasks(self) -> None:
        """Let the calls that have been woken go on."""
        while self.woken:
            self._resume(self.woken.pop(0))

    def _resume(self, call: Call) -> None:
        if call.canceled:
            self.change_held(call, -call.asked)
            self.cancel(call)
            return
        self.served.append(call.name)
        returned, call.held_while_waiting = call.held_while_waiting, 0
        self.change_held(call, -returned)

    def _wake(self) -> None:
        while calls := [call for call in self.waiting if self.may_proceed(call)]:
            call = min(calls, key=lambda call: (not call.asks_for_more, self.turns[_key(call)]))
            call.waits = False
            call.held += call.asked
            self.woken.append(call)
            self.turns[_key(call)] = next(self.next_turn)
            self._update_turns()

    def _update_turns(self) -> None:
        """Add a tenant at the end when a call starts to wait, or when it falls below its limit."""
        keys = {
            _key(call)
            for call in self.waiting
            if self.held_by(call.tenant) < self.max_held
            or (call.asks_for_more and self.holds_nothing_else(call.tenant))
        }
        self.turns = {key: turn for key, turn in self.turns.items() if key in keys}
        for key in keys - self.turns.keys():
            self.turns[key] = next(self.next_turn)


def _key(call: Call) -> tuple[str, bool]:
    return call.tenant, call.asks_for_more
