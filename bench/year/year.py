"""A run: the steps of the year, the cuts of the consumers, the recounts and the samples."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial

from bench.samples import Sample, table_sizes
from bench.year.calls import Callers
from bench.year.consumers import Consumers
from bench.year.devices import act
from bench.year.environment import move_time
from bench.year.operators import Operators
from bench.year.recount import Recount
from bench.year.samples import events_indexes, is_maintained, rows_of_calls
from bench.year.scale import STEPS_PER_DAY, YEAR, Scale, Step
from tests.support.database import Database
from tests.support.waiting import wait_until

_TENANTS_AT_ONCE = 8
_SETTLED_WITHIN = 120.0

# Days of a month. Each job is compared before it is purged.
_RECOUNT_DAYS = (9, 18, 28)
_SAMPLE_DAY = 28

_CUT_SHARE = 0.02
"""The share of the steps in which a consumer is cut."""
_LONGEST_CUT = 4
"""Maximum length of a cut, in steps. Before a recount, all are connected."""


class Year:
    """A run of the benchmark."""

    def __init__(
        self, scale: Scale, database: Database, calls: Callers, consumers: Consumers
    ) -> None:
        self.samples: list[Sample] = []
        self._scale = scale
        self._database = database
        self._calls = calls
        self._ledger = calls.ledger
        self._consumers = consumers
        self._recount = Recount(database.owner, calls.ledger, consumers)
        self._operators = {t: Operators(calls, t, scale) for t in scale.tenant_ids}
        self._at_once = asyncio.Semaphore(_TENANTS_AT_ONCE)
        self._random = random.Random(YEAR)  # noqa: S311 - repeatable on purpose
        self._cut_until: dict[str, int] = {}
        self._month_started = time.monotonic()
        self._executions = 0

    async def run(self) -> None:
        """Let the year pass."""
        steps = list(self._scale.steps())
        for number, step in enumerate(steps):
            await move_time(self._database.owner, self._ledger, step.at)
            self._ledger.pass_time(step.at)
            is_last = number == len(steps) - 1
            days_left = _days_until_recount(step)
            self._cut(number, may_cut=not is_last and days_left > 1)
            async with asyncio.TaskGroup() as tenants:
                for tenant in self._operators:
                    tenants.create_task(self._act(tenant, step))
            await self._wait_for_maintenance(step, only_urgent=True)
            self._ledger.join()
            if is_last or (days_left == 0 and step.number == STEPS_PER_DAY - 1):
                await self._settle(step)
                await self._recount.run(step.at)
                if step.at.day == _SAMPLE_DAY or (is_last and not self.samples):
                    await self._sample(step)
            if step.number == STEPS_PER_DAY - 1 and self._ledger.problems:
                break

    async def _act(self, tenant: str, step: Step) -> None:
        async with self._at_once:
            operators = self._operators[tenant]
            await operators.prepare(step)
            await act(self._calls, tenant)
            await operators.watch(step)

    def _cut(self, number: int, *, may_cut: bool) -> None:
        """Connect the consumers whose cut is over, and cut some others; or connect all."""
        for tenant in self._operators:
            if not may_cut or number >= self._cut_until.get(tenant, 0):
                self._consumers.connect(tenant)
                if may_cut and self._random.random() < _CUT_SHARE:
                    self._cut_until[tenant] = number + self._random.randint(1, _LONGEST_CUT)
                    cut = self._random.choice(
                        (self._consumers.cut_stream, self._consumers.cut_webhook)
                    )
                    cut(tenant)

    async def _settle(self, step: Step) -> None:
        """Wait until nothing changes any more, and until the consumers have received everything."""

        async def is_received() -> bool:
            return not await self._consumers.behind(self._database.owner)

        await self._wait_for_maintenance(step, only_urgent=False)
        await self._wait(step, "consumers are behind", is_received)

    async def _wait_for_maintenance(self, step: Step, *, only_urgent: bool) -> None:
        is_done = partial(is_maintained, self._database.owner, only_urgent=only_urgent)
        await self._wait(step, "maintenance is late", is_done)

    async def _wait(
        self, step: Step, problem: str, condition: Callable[[], Awaitable[bool]]
    ) -> None:
        try:
            await wait_until(condition, _SETTLED_WITHIN)
        except AssertionError:
            self._ledger.problem(problem, step.at)

    async def _sample(self, step: Step) -> None:
        tenant = self._scale.tenant_ids[0]
        device_id = min(self._ledger.directories[tenant].by_id)
        executions = self._ledger.done["executions"]
        job_id = f"config-{step.at - timedelta(days=1):%m%d}"
        self.samples.append(
            Sample(
                step.at.month,
                executions - self._executions,
                time.monotonic() - self._month_started,
                await table_sizes(self._database.owner, "jobs", "public"),
                self._calls.calls.take_latencies(),
                await rows_of_calls(self._database, tenant, job_id, device_id),
            )
        )
        self._executions, self._month_started = executions, time.monotonic()
        sample = self.samples[-1]
        print(
            f"month {sample.number:g}: {sample.executions:,} executions in {sample.seconds:.0f} s;"
            f" {await events_indexes(self._database.owner)}",
            flush=True,
        )


def _days_until_recount(step: Step) -> int:
    """Return the days until the next recount of the month; many after the last one."""
    return min((day - step.at.day for day in _RECOUNT_DAYS if day >= step.at.day), default=31)
