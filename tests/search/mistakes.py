"""Mistakes in the model that the searches find."""

import inspect
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any, cast

from tests.model import (
    criteria,
    device_calls,
    execution,
    job,
    joins,
    operator_calls,
    retries,
    rules,
    stages,
)

_MODULES = [criteria, device_calls, execution, job, joins, operator_calls, retries, rules, stages]

# A scenario that finds the mistake, the function or the method, and the change of its source.
_TEXT = r"""
cap Job.start_error: start ignores a pause
- if self.is_paused:
+ if False:
cap Job.is_full: cap is off by one
- >= limit
+ > limit
cap Job.is_held: stage that is not open starts
- execution.rank > released
+ execution.rank > released + 1
cap device_calls._decide_end: device ends what has ended
- if not execution.is_pending:
+ if False:
cap rules._expire: executions that wait survive the expiry
- job = _end_all(job, "QUEUED", End("TIMED_OUT", None, "JOB_EXPIRED"))
+
cap stages.Rollout.is_time: gate opens without waiting
- return any(at <= self.elapsed for at in self._opening_times())
+ return True
cap operator_calls.retry_executions: canceled job is retried
- job.status == "CANCELED" or
+
cap operator_calls.approve_stage: approval has no event
- job = add_event(job, "job.stage_approved", user, stage=stage)
+ pass
cap rules.apply_rules: paused job opens stages
- if not job.is_active or job.is_paused:
+ if not job.is_active:
trip rules._trip: trip does not stop the job
- return pause(job, "FAILURE_CRITERION")
+ return job
trip criteria.decide: criterion trips one failure too late
- <= count.failures
+ < count.failures
trip rules.apply_rules: job with nothing left does not complete
- if job.is_active and not is_pending and job.target is None:
+ if False:
trip execution.queue_next: next attempt forgets the one before
- earlier=(*execution.earlier, ended),
+ earlier=(),
retries retries.not_before: policy has one attempt more
- execution.attempts >= rule.max_attempts
+ execution.attempts > rule.max_attempts
retries execution.end: success of a retry leaves the failure
- None if status == "SUCCEEDED" else execution.failure
+ execution.failure
retries Job.due: start ignores the backoff
- at = max(at, execution.not_before)
+ pass
retries stages.Rollout._opening_times: stage opens before its bake time
- self.stage.bake if self.ranks else 0
+ 0
approvals stages.apply_gates: stage opens without its approval
- if not state.is_time or state.needs_approval:
+ if not state.is_time:
approvals operator_calls.resume_job: operator starts a job that is not approved
- if job.start_approved is False:
+ if False:
approvals rules.start_if_due: job starts before its time
- has_started=not job.is_scheduled
+ has_started=True
joins joins.join: ended execution joins again
- ("REJECTED", "DEVICE_DELETED")
+ ("SUCCEEDED", "DEVICE")
joins rules.cancel: devices join a canceled job
- target=None
+ has_expired=job.has_expired
joins joins._add: join does not extend the last stage
- last + len(devices)
+ last
"""


@dataclass(frozen=True)
class Mistake:
    """A part of the source of a function, and the mistake in its place."""

    scenario: str
    function: str
    part: str
    wrong: str


MISTAKES = {
    name: Mistake(scenario, function, part, wrong)
    for scenario, function, name, part, wrong in re.findall(
        r"(\w+) ([\w.]+): (.+)\n- (.+)\n\+ ?(.*)", _TEXT
    )
}


@contextmanager
def planted(mistake: Mistake) -> Iterator[None]:
    """Plant a mistake in a function, for all who have imported it."""
    function = _find(mistake.function)
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(mistake.part) == 1
    names: dict[str, Any] = {}
    source = source[source.index("def ") :].replace(mistake.part, mistake.wrong)
    exec(f"from __future__ import annotations\n{source}", function.__globals__, names)  # noqa: S102
    right, function.__code__ = function.__code__, names[function.__name__].__code__
    try:
        yield
    finally:
        function.__code__ = right


def _find(path: str) -> FunctionType:
    first, *rest = path.split(".")
    modules = {module.__name__.rpartition(".")[2]: module for module in _MODULES}
    found: Any = modules.get(first) or getattr(job, first)
    for name in rest:
        found = inspect.getattr_static(found, name)
    found = found.fget if isinstance(found, property) else found
    return cast("FunctionType", found)
