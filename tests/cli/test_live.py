"""The live displays of `watch` and `simulate`."""

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from rich.console import Console, Group, RenderableType

from jobs_grpc.cli import live


def display(job: pb.Job, rate: float = 0.0) -> list[str]:
    """Return the lines of the display of a job on a terminal without colors."""
    job.created_at.GetCurrentTime()
    return printed(Group(*live.job_lines(job, rate)))


def printed(content: RenderableType) -> list[str]:
    """Return the lines that a terminal of 80 columns shows."""
    file = io.StringIO()
    Console(width=80, height=24, file=file, color_system=None).print(content)
    return [line.rstrip() for line in file.getvalue().split("\n")[:-1]]


def test_job_display_fits_terminal_when_texts_are_long() -> None:
    counts = pb.ExecutionCounts(
        queued=100_000,
        in_progress=50_000,
        succeeded=600_000,
        failed=1,
        timed_out=20_000,
        rejected=229_999,
    )
    job = pb.Job(
        job_id="j" * 128,
        document_type="reboot",
        status=pb.Job.IN_PROGRESS,
        total_executions=1_000_000,
        succeeded_count=600_000,
        failed_count=250_000,
        execution_counts=counts,
        target_all=True,
    )

    lines = display(job, rate=1000.0)

    assert max(map(len, lines)) <= 80
    assert lines[0].endswith("…  IN_PROGRESS")
    assert lines[1].rstrip("% 0123456789")[-1] == "░"
    assert "850,000 of 1,000,000 finished · 1,000.0/s · 0:02:30 left · 0:00:00 elapsed" in lines


@pytest.mark.parametrize(("rate", "left"), [(0.0, "-"), (2.0, "0:00:02"), (50.0, "-")])
def test_job_display_shows_no_time_left_when_the_last_devices_stall(rate: float, left: str) -> None:
    job = pb.Job(job_id="j", status=pb.Job.IN_PROGRESS, total_executions=10, succeeded_count=5)

    assert f"5 of 10 finished · {rate}/s · {left} left · 0:00:00 elapsed" in display(job, rate=rate)


def paused_job(cause: pb.Pause.Cause.ValueType, reason: str) -> pb.Job:
    """A job with stages, PAUSED while the first is open."""
    counts = pb.ExecutionCounts(succeeded=7, failed=2, timed_out=1, held=90)
    job = pb.Job(
        job_id="fw-2",
        document_type="firmware",
        target_all=True,
        status=pb.Job.PAUSED,
        total_executions=100,
        succeeded_count=7,
        failed_count=3,
        execution_counts=counts,
        created_by="olivia",
        rollout=staged_rollout(pb.Gate(min_succeeded_percent=95)),
        pause=pb.Pause(cause=cause, reason=reason),
        waits_for=[pb.JobWait(kind=pb.JobWait.RESUME, message=f"Paused: {reason}")],
        possible_actions=[pb.Job.RESUME, pb.Job.ADVANCE, pb.Job.CANCEL, pb.Job.RETRY],
    )
    job.pause.paused_at.FromJsonString("2030-01-31T12:00:00Z")
    add_stages(job, pb.ExecutionCounts(succeeded=7, failed=2, timed_out=1))
    return job


def staged_rollout(gate: pb.Gate) -> pb.Rollout:
    return pb.Rollout(stages=[pb.Stage(percent=10, gate=gate), pb.Stage(remainder=True)])


def add_stages(job: pb.Job, first: pb.ExecutionCounts) -> None:
    """Add an open stage of 10 devices and a pending one of 90."""
    job.stages.add(state=pb.JobStage.OPEN, total_executions=10, execution_counts=first)
    held = pb.ExecutionCounts(held=90)
    job.stages.add(state=pb.JobStage.PENDING, total_executions=90, execution_counts=held)
    job.stages[0].opened_at.GetCurrentTime()


def test_job_display_shows_the_whole_pause_and_the_next_steps() -> None:
    job = paused_job(
        pb.Pause.FAILURE_CRITERION, "21 of 400 finished executions failed (pause at 5%)"
    )

    assert display(job) == [
        "fw-2  firmware on all" + " " * 53 + "PAUSED",
        "█" * 5 + "×" * 2 + "!" + "·" * 66 + "  10 %",
        "█ SUCCEEDED\N{NO-BREAK SPACE}7  × FAILED\N{NO-BREAK SPACE}2"
        "  ! TIMED_OUT\N{NO-BREAK SPACE}1  · HELD\N{NO-BREAK SPACE}90",
        "10 of 100 finished · 0:00:00 elapsed",
        "0 10%  OPEN     " + "█" * 39 + "×" * 11 + "!" * 6 + " 10 / 10",
        "1 rest PENDING  " + "·" * 56 + "  0 / 90",
        "Paused: 21 of 400 finished executions failed (pause at 5%)",
        "  jobs-grpc failures fw-2  see why",
        "  jobs-grpc resume fw-2    continue; earlier failures no longer count",
        "  jobs-grpc cancel fw-2    stop",
    ]


def test_job_display_says_when_a_scheduled_job_starts() -> None:
    job = pb.Job(job_id="fw-2", document_type="firmware", target_all=True, status=pb.Job.SCHEDULED)
    wait = job.waits_for.add(kind=pb.JobWait.START, message="The job has not started yet.")
    wait.until.FromDatetime(datetime.now(UTC) + timedelta(hours=2, seconds=0.9))

    lines = display(job)

    assert lines[0].endswith(" SCHEDULED")
    message = "The job has not started yet. It starts in"
    assert {f"{message} 2:00:00.", f"{message} 1:59:59."} & {*lines}


def test_job_display_names_the_next_steps_when_a_gate_is_not_met() -> None:
    job = paused_job(pb.Pause.GATE_NOT_MET, "stage 0 is finished")
    job.possible_actions.remove(pb.Job.RESUME)

    assert display(job)[6:] == [
        "Paused: stage 0 is finished",
        "  jobs-grpc failures fw-2                         see why",
        "  jobs-grpc retry fw-2 --status FAILED TIMED_OUT  try these again",
        "  jobs-grpc advance fw-2                          or open the next stage anyway",
        "  jobs-grpc resume fw-2                           then continue",
    ]


def test_job_display_names_the_approval_before_the_end_of_a_pause() -> None:
    job = paused_job(pb.Pause.START_APPROVAL, "")
    job.waits_for.insert(
        0, pb.JobWait(kind=pb.JobWait.START_APPROVAL, message="Needs an approval.")
    )
    reject = "  jobs-grpc reject fw-2 --start   cancel the job"

    assert display(job)[7:] == ["  jobs-grpc approve fw-2 --start  approve the start", reject]
    del job.waits_for[1]
    assert display(job)[7:] == ["  jobs-grpc approve fw-2 --start  start the job", reject]


def test_job_display_cuts_a_long_reason_after_four_lines() -> None:
    job = paused_job(pb.Pause.OPERATOR, "error rate\n" + "!" * 900)

    lines = display(job)[6:]

    assert lines[0].startswith("Paused: error")
    assert lines[3].endswith("!…")
    assert max(map(len, lines)) == 80
    assert lines[4:] == ["  jobs-grpc resume fw-2  continue", "  jobs-grpc cancel fw-2  stop"]


DEVICES, APPROVAL = (
    pb.JobWait(kind=pb.JobWait.DEVICES, message="The gate waits.", stage=0),
    pb.JobWait(kind=pb.JobWait.APPROVAL, message="Stage 0 needs an approval.", stage=0),
)
BAKE = pb.JobWait(kind=pb.JobWait.BAKE_TIME, message="The bake_time has not passed.", stage=0)


@pytest.mark.parametrize(
    ("waits", "shown"),
    [
        ([DEVICES, APPROVAL], []),
        ([BAKE, APPROVAL], ["The bake_time has not passed."]),
        ([APPROVAL], ["Stage 0 needs an approval.", "  jobs-grpc approve fw-2  open stage 1"]),
    ],
)
def test_job_display_shows_what_the_job_waits_for_now(
    waits: list[pb.JobWait], shown: list[str]
) -> None:
    job = pb.Job(
        job_id="fw-2",
        status=pb.Job.IN_PROGRESS,
        waits_for=waits,
        possible_actions=[pb.Job.APPROVE_STAGE],
    )

    assert display(job)[4:] == shown


def test_job_display_shows_stalled_devices_and_ends_with_an_empty_line() -> None:
    """Ctrl-C shows "^C" in the empty line, so that it does not move the cursor to the next one."""
    view = live.LiveView()
    view.show(paused_job(pb.Pause.OPERATOR, "x"))
    view.show_stalled(["no report for 30 s: pump"])

    lines = printed(view.render())
    view.close()

    assert lines[-3:] == ["  jobs-grpc cancel fw-2  stop", "no report for 30 s: pump", ""]


def test_job_display_of_a_canceled_job_does_not_look_like_success() -> None:
    job = paused_job(pb.Pause.OPERATOR, "x")
    job.status, job.cancel_reason = pb.Job.CANCELED, "bad release"
    job.ClearField("waits_for")
    job.execution_counts.CopyFrom(pb.ExecutionCounts(succeeded=7, failed=2, rejected=91))
    job.succeeded_count, job.failed_count = 7, 93
    for stage, counts in zip(
        job.stages,
        [pb.ExecutionCounts(succeeded=7, failed=2, rejected=1), pb.ExecutionCounts(rejected=90)],
        strict=True,
    ):
        stage.state = pb.JobStage.PASSED
        stage.execution_counts.CopyFrom(counts)

    assert [display(job)[n] for n in (1, 2, 4, 5)] == [
        "█" * 5 + "×" * 2 + "/" * 66 + "  100 %",
        "█ SUCCEEDED\N{NO-BREAK SPACE}7  × FAILED\N{NO-BREAK SPACE}2"
        "  / REJECTED\N{NO-BREAK SPACE}or\N{NO-BREAK SPACE}CANCELED\N{NO-BREAK SPACE}91",
        "0 10%  STOPPED  " + "█" * 39 + "×" * 11 + "/" * 6 + " 10 / 10",
        "1 rest UNOPENED " + "/" * 56 + " 90 / 90",
    ]
    assert display(job)[6:] == ["Canceled: bad release"]


@pytest.mark.parametrize(
    ("target", "title"),
    [
        ({"target_selector": "model=x100"}, "on devices where model=x100"),
        ({"target_failed_in": pb.FailedIn(job_id="i")}, "on devices failed in i ()"),
        ({"target_group_id": "g\u200b", "document_type": "\x1b[2J"}, "\\x1b[2J on group g\\u200b"),
    ],
)
def test_job_display_names_the_target_in_words_and_escapes_it(
    target: dict[str, Any], title: str
) -> None:
    assert title in display(pb.Job(**{"job_id": "j", "document_type": "update"} | target))[0]


def test_job_display_has_a_bar_for_each_stage_around_the_open_one() -> None:
    job = pb.Job(job_id="j", status=pb.Job.IN_PROGRESS, total_executions=200, target_all=True)
    for index in range(20):
        finished = 10 if index < 8 else 3 if index == 8 else 0
        stage = job.stages.add(display_name=f"stage {index}", total_executions=10)
        stage.state = pb.JobStage.PASSED if index < 8 else pb.JobStage.PENDING
        stage.execution_counts.MergeFrom(pb.ExecutionCounts(succeeded=finished, held=10 - finished))
    job.stages[8].state = pb.JobStage.OPEN

    lines = display(job, rate=1.0)

    stages = [line for line in lines if "stage " in line]
    assert max(map(len, lines)) <= 80
    assert [line.split()[2] for line in stages] == [str(n) for n in range(3, 13)]
    assert {"OPEN", "█", "·"} <= {*stages[5], *stages[5].split()}
    assert stages[5].endswith("·  3 / 10")


def test_rate_covers_only_recent_seconds() -> None:
    now = 0.0
    rate = live.Rate(lambda: now)
    rates = []
    for time, number in ((0.0, 100), (10.0, 200), (40.0, 200), (41.0, 0)):
        now = time
        rate.add(number)
        rates.append(rate.per_second())

    assert rates == [0, 10, 0, 0]
