"""What must hold in each state of a job, and for each move.

These are the rules of docs/counts.md, and those that the calls of a job have in common. They look
at stored fields: what the model derives from these is what is checked.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from tests.model.execution import Execution
from tests.model.job import Job
from tests.model.tenant import State
from tests.search.moves import JOB, Move

_TERMINAL = ("SUCCEEDED", "FAILED", "TIMED_OUT", "REJECTED")
_RETRIES = ("retry", "retry with new expiry")
_CANCELS = ("cancel", "force cancel", "reject start")
# The moves that let a job go on, and those with which an operator opens a stage.
_RESUMES = ("resume", "approve start")


def check(before: State, move: Move, after: State, reason: str | None) -> None:
    """Check the state after a move, and what the move has changed."""
    job = after.job(JOB)
    _check_rows(job)
    _check_counts(job)
    _check_status(job)
    _check_moved(before.job(JOB), move[0], job, reason)


def _check_rows(job: Job) -> None:
    for each in job.executions:
        is_open = each.status in ("QUEUED", "IN_PROGRESS")
        assert is_open or each.status in _TERMINAL, "unknown status"
        assert (each.ended is None) == is_open, "an attempt ends when its status is terminal"
        assert (each.cause is None) == is_open, "an end has a cause"
        assert not (is_open and each.code is not None), "a pending attempt has no failure code"
        assert each.times_out is None or each.status == "IN_PROGRESS", "only an attempt times out"
        assert each.status != "SUCCEEDED" or each.failure is None, "a success has no failure"
        if each.code is not None:
            failure = each.failure
            assert failure is not None, "an attempt that failed by itself counts"
            assert (failure.status, failure.code) == (each.status, each.code), "its failure counts"
        assert each.cause != "JOB_EXPIRED" or each.code is None, "an expiry is no failure"


def _check_counts(job: Job) -> None:
    """The counts that readers see are sums over rows: docs/counts.md."""
    of_job, total = job.counts(), len(job.executions)
    of_stages = [job.counts(stage) for stage in range(job.stage_count)]
    assert sum(of_stages, Counter()) == of_job, "stages add up to their job"
    assert of_job.total() - of_job["retrying"] == total, "each execution has one status"
    failed = [each.failure for each in job.executions if each.failure is not None]
    assert job.failures.total() == len(failed), "a device counts as failed at most once"
    for count in job.criterion_states:
        assert 0 <= count.failures <= count.finished <= total, "only what finished counts"
    ends = job.rollout.last_ranks if job.rollout else (total,)
    assert ends[-1] == total, "the last stage ends with the last rank"
    for rank, each in enumerate(job.executions, 1):
        assert (each.rank, each.stage) == (rank, sum(end < rank for end in ends)), "rank or stage"


def _check_status(job: Job) -> None:
    stored = Counter(each.status for each in job.executions)
    limit = job.max_in_progress
    assert limit is None or stored["IN_PROGRESS"] <= limit, "beyond the cap"
    if job.status == "COMPLETED":
        assert not stored["QUEUED"] + stored["IN_PROGRESS"], "a completed job has no work left"
    if job.status == "CANCELED" or job.has_expired:
        assert not stored["QUEUED"], "nothing can start after a cancel or an expiry"
        assert job.target is None, "nothing joins after a cancel or an expiry"
    if job.status == "IN_PROGRESS" and job.target is None and not job.has_expired:
        assert stored["QUEUED"] + stored["IN_PROGRESS"], "a job without work is completed"
    if job.start_approved is False and job.status == "IN_PROGRESS":
        assert job.pause_cause is not None, "paused until the approval of the start"
    if job.status == "IN_PROGRESS" and job.pause_cause is None:
        for criterion, since in job.criteria:
            failures = [
                each
                for each in job.executions
                if each.failure and each.failure.at > since and criterion.scope == "JOB"
            ]
            if criterion.count is not None:
                assert len(failures) < criterion.count, "a criterion has tripped"


def _check_moved(before: Job, name: str, after: Job, reason: str | None) -> None:
    _check_stage(before, name, after)
    _check_job(before, name, after)
    earlier = {each.device: each for each in before.executions}
    added = [each for each in after.executions if each.device not in earlier]
    assert len(after.executions) == len(before.executions) + len(added), "an execution is gone"
    assert name == "join" or not added, "the total changed"
    for each in after.executions:
        if each.device in earlier:
            _check_execution(before, earlier[each.device], name, after, each)
    if reason is not None:
        # The time of the call can change a job, but the call itself can't.
        assert _without_time(before) == _without_time(after) or (
            after.has_expired or after.has_started != before.has_started
        ), "a rejected call changes nothing"


def _without_time(job: Job) -> Job:
    rollout = None if job.rollout is None else replace(job.rollout, elapsed=0)
    return replace(job, now=0, rollout=rollout)


def _check_execution(job: Job, before: Execution, name: str, after: Job, each: Execution) -> None:
    is_new_attempt = each.number != before.number
    assert (each.rank, each.stage) == (before.rank, before.stage), "an execution changes its place"
    if before.status == "QUEUED" and each.status == "IN_PROGRESS":
        _check_start(after, name, each)
    if before.status in _TERMINAL and each.status != before.status:
        is_removed = (before.status, before.cause) == ("REJECTED", "DEVICE_DELETED")
        assert name in _RETRIES or (name == "join" and is_removed), "an end is final"
        assert before.status != "SUCCEEDED", "a success is final"
    if not is_new_attempt and before.status in _TERMINAL:
        assert (each.code, each.cause, each.ended) == (before.code, before.cause, before.ended)
    if is_new_attempt:
        assert each.number == before.number + 1, "attempts are numbered"
        assert each.status == "QUEUED", "the next attempt is queued"
        assert len(each.earlier) == before.number, "earlier attempts stay"
        assert each.earlier[:-1] == before.earlier, "earlier attempts stay"
        by_policy = after.policy is not None and name in ("fail", "sweep")
        assert by_policy or name in (*_RETRIES, "join"), "nobody asked for another attempt"
        limit = max((rule.max_attempts for rule in after.policy or ()), default=1)
        assert each.attempts <= limit, "too many attempts"
    if before.status == "IN_PROGRESS" and each.status == "QUEUED":
        assert is_new_attempt, "an attempt starts once"
        assert job.status != "CANCELED", "a canceled job retries nothing"


def _check_start(after: Job, name: str, each: Execution) -> None:
    assert name == "start", "only a device starts"
    assert after.status == "IN_PROGRESS", "a finished job starts"
    assert after.pause_cause is None, "a paused job starts"
    assert after.start <= after.now, "a start before that of the job"
    assert after.expires is None or after.now < after.expires, "a start after the expiry"
    assert after.rollout is None or each.stage <= after.rollout.open_stage, (
        "a held execution starts"
    )
    assert each.not_before is None or each.not_before <= after.now, "a start during the backoff"


def _check_stage(before: Job, name: str, after: Job) -> None:
    old, new = before.rollout, after.rollout
    if old is None or new is None:
        return
    assert new.open_stage >= old.open_stage, "a stage closes"
    assert new.approved >= old.approved, "an approval is lost"
    if new.open_stage > old.open_stage:
        stage = old.stages[old.open_stage]
        assert not stage.require_approval or old.open_stage in new.approved, "without approval"
        assert after.status != "CANCELED", "a canceled job opens a stage"
        if name == "advance":
            return
        assert before.pause_cause is None or name in _RESUMES, "a paused job opens a stage"
        assert before.start <= after.now, "a stage opens before the start"
        has_waited = new.elapsed - old.opened >= (stage.advance_after or 0)
        in_stage = [each for each in after.executions if each.stage == old.open_stage]
        succeeded = sum(each.status == "SUCCEEDED" for each in in_stage)
        if stage.advance_after is None or not has_waited:
            if stage.min_succeeded_percent is None:
                assert all(each.ended is not None for each in in_stage), "an unfinished gate"
            else:
                needed = stage.min_succeeded_percent * len(in_stage)
                assert 100 * succeeded >= needed, "a gate with too few successes"
            if stage.bake:
                assert new.elapsed - (old.met or new.elapsed) >= stage.bake, (
                    "a gate before its time"
                )


def _check_job(before: Job, name: str, after: Job) -> None:
    if before.status != after.status:
        if before.status == "COMPLETED":
            assert name in _RETRIES, "a completed job goes on"
        assert before.status != "CANCELED", "a cancel is final"
        if after.status == "CANCELED":
            assert name in _CANCELS or after.trip is not None, "nobody canceled the job"
    if after.trip != before.trip:
        stops = after.pause_cause is not None or after.status == "CANCELED"
        assert stops, "a trip that does not stop the job"
    if before.pause_cause is not None and after.pause_cause is None:
        assert name in _RESUMES, "a pause ends by itself"
    if before.has_expired and not after.has_expired:
        assert name == "retry with new expiry", "an expiry is over"
    if after.expires is not None and after.expires <= after.now:
        assert after.has_expired, "an expiry is late"
    _check_events(before, after)


def _check_events(before: Job, after: Job) -> None:
    """Each change has its event. A search keeps no events of the state before."""
    new = Counter(event.type for event in after.events)
    changes = {
        "job.completed": after.status == "COMPLETED" != before.status,
        "job.canceled": after.status == "CANCELED" != before.status,
        "job.expired": after.has_expired and not before.has_expired and before.is_active,
        "job.tripped": after.trip != before.trip,
    }
    for event, has_happened in changes.items():
        assert new[event] >= has_happened, f"without {event}"
    if before.rollout is not None and after.rollout is not None:
        opened = after.rollout.open_stage - before.rollout.open_stage
        assert new["job.stage_opened"] == opened, "an event for each stage"
        approved = len(after.rollout.approved - before.rollout.approved)
        assert new["job.stage_approved"] == approved, "an event for each approval"
    if before.pause_cause != after.pause_cause and after.pause_cause is not None:
        assert new["job.paused"] == 1, "without job.paused"


def can_end(
    count: int, edges: list[tuple[int, Move, int]], ends: Callable[[int], bool]
) -> set[int]:
    """The states from which a path leads to an end."""
    sources: dict[int, list[int]] = {}
    for number, _, to in edges:
        sources.setdefault(to, []).append(number)
    found = {number for number in range(count) if ends(number)}
    left = list(found)
    while left:
        for source in sources.get(left.pop(), ()):
            if source not in found:
                found.add(source)
                left.append(source)
    return found
