"""Mistakes in the SQL that the sequences of a profile notice."""

import re
from dataclasses import dataclass

from tests.machine.machine import Profile
from tests.machine.profiles import ANY_CALL, PROFILES

# A sequence that notices the mistake, the function, what is wrong, and the change of the function.
_TEXT = r"""
any call/1 set_paused: event of a pause has no user
- 'job.paused', p_paused_by,
+ 'job.paused', NULL,
any call/1 add_event: events count held executions as queued
- v_job.queued - v_held
+ v_job.queued
any call/1 removed_device_changes: deletion of a device is a cancel
- end_cause => 'DEVICE_DELETED'
+ end_cause => 'EXECUTION_CANCELED'
any call/3 reject_stage: pause after a rejection has another cause
- 'STAGE_REJECTED', p_comment
+ 'OPERATOR', p_comment
any call/8 replace_job: replaced job continues
- v_job.status = 'IN_PROGRESS'
+ false
any call/1 update_executions: devices of a batch take the job of the first one
- jobs.next_execution(p_tenant_id, p_device_ids[v_n])
+ jobs.next_execution(p_tenant_id, p_device_ids[1])
approvals/0 resume_job: operator starts a job that is not approved
- PERFORM jobs.check_start_approved(p_tenant_id, p_job_id);
+
approvals/1 approve_start: approval ends the pause of an operator
- v_cause = 'START_APPROVAL'
+ v_cause IS NOT NULL
approvals/3 approve_start: hours do not count from a start after the approval
- v_start_at := greatest(v_job.locked_at, v_job.start_at)
+ v_start_at := v_job.locked_at
criteria/10 count_changes: failure before a resume leaves the wrong count
- WHERE f.failed_at > c.counts_since AND
+ WHERE
criteria/10 criterion_states: threshold is rounded down
- + 99) / 100
+ ) / 100
criteria/64 apply_failure_criteria: last criterion decides
- ORDER BY s.criterion, s.stage
+ ORDER BY s.criterion DESC
criteria/14 apply_failure_criteria: percentage trips before min_finished
- s.finished >= c.min_finished
+ true
criteria/12 criterion_states: all executions count as released
- THEN sizes.released
+ THEN sizes.targeted
criteria/10 replace_failure_criteria: criterion with other codes keeps the counts
- c.failure_codes, c.scope)
+ old.failure_codes, c.scope)
retries/4 contributions: success of a retry leaves the failure counted
- <> ALL (ARRAY['SUCCEEDED'::jobs.execution_status, 'QUEUED'::jobs.execution_status])
+ <> 'QUEUED'::jobs.execution_status
retries/6 exceeds_retry_budget: budget is one device too small
- retried_devices > 20
+ retried_devices >= 20
retries/7 decide_retries: policy has one attempt more
- c.retries + 1 < next.max_attempts
+ c.retries < next.max_attempts
retries/4 decide_retries: attempt can start after the expiry
- next.not_before, j.start_windows
+ NULL, j.start_windows
retries/7 decide_retries: canceled job retries
- AND j.canceled_at IS NULL
+
retries/4 retry_executions: RetryExecutions leaves waiting devices
- ELSE v_job.retrying END > 0
+ ELSE 0 END > 0
retries/6 retry_executions: RetryExecutions continues the series
- last_updated_at = v_now, not_before = NULL, retries = 0
+ last_updated_at = v_now, not_before = NULL
retries/4 contributions: canceled execution is still retrying
- (c.new_status = 'IN_PROGRESS'::jobs.execution_status)
+ (c.new_status <> 'SUCCEEDED'::jobs.execution_status)
retries/7 count_changes: start of a retry is not counted
- retrying_in_progress = p.retrying_in_progress + c.retrying_in_progress
+ retrying_in_progress = p.retrying_in_progress
retries/7 decide_batch: report without a number counts for a later attempt
- AND e.execution_number > 1 THEN e.execution_number - 1 END
+ AND e.execution_number > 1 THEN e.execution_number END
retries/4 retry_backoff: backoff does not grow
- p_retries)::double precision
+ 0)::double precision
schedules/17 apply_gates: stage opens without its approval
- OR v_stage.require_approval AND v_stage.approved_at IS NULL
+
schedules/7 apply_gates: stage opens before its bake_time
- ELSE v_stage.bake_seconds END
+ ELSE 0 END
schedules/82 set_resumed: advance_after continues during a pause
- active_since = v_active_since,
+
schedules/3 apply_gates: gate needs one success less
- ELSE v_stage.succeeded::bigint * 100
+ ELSE (v_stage.succeeded::bigint + 1) * 100
schedules/3 set_start_at: expiry does not move with the start
- release_since = p_start_at, expires_at = v_expires_at
+ release_since = p_start_at
schedules/12 check_time_for_rollout: job may expire when its last device starts
- >= p_seconds_left
+ > p_seconds_left
schedules/90 rollout_details: expired job waits for its gate
- v_job.queued_status <> 'QUEUED',
+ false,
schedules/3 rollout_details: stage can open before the start
- 'is_before_start', v_job.is_before_start
+ 'is_before_start', false
schedules/22 minimum_rollout_time: releases may end as soon as the job expires
- round(greatest(v_needed - v_released, 0) * 60 / v_rate, 6)
+ greatest(v_needed - v_released, 0) * 60 / v_rate
schedules/1 set_resumed: release continues during a pause
- release_since = v_release_since,
+
joins/19 add_joined_executions: join does not extend the last stage
- SET last_rank = s.last_rank + cardinality(v_new)
+ SET last_rank = s.last_rank
joins/23 add_joined_executions: join does not extend the release
- v_job.open_stage = v_stage.stage
+ false
joins/1 complete_finished_jobs: job completes although devices can join
- p.queued = 0 AND NOT j.is_continuous
+ p.queued = 0
joins/4 joinable_devices: device that was removed does not join again
- e.status = 'REJECTED' AND e.end_cause = 'DEVICE_DELETED'
+ false
joins/1 update_devices: change has no note
- FROM jobs.continuous_jobs c WHERE c.tenant_id = p_tenant_id
+ FROM jobs.continuous_jobs c WHERE false
joins/6 read_device_changes: notes are deleted before the devices join
- job_ids := ARRAY(
+ PERFORM jobs.delete_notes(p_tenant_id, noted_at, change_ids); job_ids := ARRAY(
joins/16 finish_scan_range: executions of devices that are gone stay
- p_after, p_last, c_max_ended, p_wait_ms)
+ p_after, p_last, 0, p_wait_ms)
waiting/5 next_execution: next execution ignores the priority
- q.is_queued, q.queue_order,
+ q.is_queued,
waiting/5 limit_starts: one device too many runs
- > j.max_in_progress - p
+ > j.max_in_progress + 1 - p
waiting/13 due_at: backoff has ended too early in an explanation
- greatest(at, not_before)
+ at
waiting/7 rank_release_time: release time is rounded down
- ceil(
+ floor(
waiting/5 explain_execution: full job is not explained
- v_job.in_progress >= v_job
+ v_job.in_progress > v_job
waiting/11 explain_execution: windows are not in the zone of the device
- coalesce(j.window_time_zone, e.time_zone, 'UTC') AS zone
+ coalesce(j.window_time_zone, 'UTC') AS zone
waiting/7 is_window_open: window opens on the day before
- + 3) % 7
+ + 4) % 7
cancels/0 decide_batch: cancel of a running job is accepted
- job_is_canceled => j.canceled_at IS NOT NULL
+ job_is_canceled => true
cancels/1 decide_batch: accepted cancel is a failure
- u.status IN ('FAILED', 'REJECTED') AND NOT u.cancel_accepted
+ u.status IN ('FAILED', 'REJECTED')
cancels/26 change_executions: accepted cancel can't be repeated
- coalesce(c.end_cause <> 'JOB_CANCELED', false)
+ c.end_cause IS NOT NULL
cancels/1 change_executions: next attempt leaves the one before
- THEN NULL  -- the device itself changes the attempt
+ THEN e.ended_number
cancels/20 change_executions: cancel of a queued attempt hides the one before
- ELSE e.ended_number END
+ ELSE NULL END
cancels/14 update_outcome: refusal is repeated as an accepted cancel
- (cancel_accepted = (current_failure_code IS NULL))
+ true
cancels/9 finalize_executions: forced cancel is not told after it is written
- CASE WHEN e.status <> 'QUEUED' THEN e.execution_number ELSE e.ended_number END
+ e.ended_number
cancels/6 ended_executions: forced cancel is not told before it is written
- OR j.force_canceled
+
cancels/2 ended_executions: cause is that of the last attempt
- WHEN e.ended_number = e.execution_number THEN e.end_cause
+ WHEN e.end_cause IS NOT NULL THEN e.end_cause
cancels/0 unacknowledged_executions: any attempt is acknowledged
- WHERE u.execution_number = CASE
+ WHERE 0 < CASE
cancels/0 list_watched_executions: watch lacks what others ended
- THEN jobs.ended_executions(p_tenant_id, d.device_id)
+ THEN NULL::jsonb
targets/1 selector_condition: label must exist for notin
- NOT IN (%s), true)
+ NOT IN (%s), false)
targets/1 selector_condition: device without a group has all
- ARRAY[%s], true)
+ ARRAY[%s], false)
targets/1 target_query: last selector claims
- ' ' ORDER BY s.position
+ ' ' ORDER BY -s.position
targets/0 target_query: last group claims
- min(array_position
+ max(array_position
targets/0 target_hashes: digest ignores the stages
- COALESCE(claim, 0)
+ 0
criteria/242 apply_failure_criteria: success trips
- (p_has_failures
+ (true
schedules/63 set_release: change of the rate loses a fraction
- secs => ceil((v_progress - v_base) * 60000000 / p_rate) / 1000000
+ secs => 0
"""


@dataclass(frozen=True)
class Mistake:
    """A part of a function, and the mistake in its place."""

    profile: Profile
    sequence: int
    """The number of a sequence that detects the mistake, and passes without it."""
    function: str
    part: str
    wrong: str


def _parse(text: str) -> dict[str, Mistake]:
    profiles = PROFILES | {ANY_CALL.name: ANY_CALL}
    mistakes = re.findall(r"(.+)/(\d+) (\w+): (.+)\n- (.+)\n\+ ?(.*)", text)
    return {
        name: Mistake(profiles[profile], int(sequence), function, part, wrong)
        for profile, sequence, function, name, part, wrong in mistakes
    }


MISTAKES = _parse(_TEXT)
