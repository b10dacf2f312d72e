"""The live displays of `watch` and `simulate`."""

import io

from fleet.jobs.v1 import jobs_pb2 as pb
from rich.console import Console, Group

from jobs_grpc.cli import live


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
    job.created_at.GetCurrentTime()
    console = Console(width=80, file=io.StringIO(), color_system=None)

    for line in live.job_lines(job, rate=1000.0):
        console.print(line)

    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].endswith("…  IN_PROGRESS")
    assert lines[1].rstrip("% 0123456789")[-1] == "─"
    assert "850,000 of 1,000,000 finished · 1,000.0/s · 0:02:30 left · 0:00:00 elapsed" in lines


def test_job_display_shows_the_pause_in_one_line() -> None:
    job = pb.Job(job_id="j", status=pb.Job.PAUSED, target_all=True)
    job.pause.paused_at.FromJsonString("2030-01-31T12:00:00Z")
    job.pause.reason = "error rate\n" + "!" * 100
    console = Console(width=60, file=io.StringIO(), color_system=None)

    console.print(Group(*live.job_lines(job, rate=1.0)))

    assert isinstance(console.file, io.StringIO)
    last = console.file.getvalue().splitlines()[-1]
    assert last.startswith("Paused since 2030-01-31 12:00:00Z: error rate\\n!!")
    assert len(last) == 60


def test_job_display_escapes_unprintable_characters() -> None:
    job = pb.Job(job_id="j\u202e", document_type="\x1b[2J", target_group_id="g\u200b")
    console = Console(width=80, file=io.StringIO(), color_system=None)

    console.print(live.job_lines(job, rate=0.0)[0])

    assert isinstance(console.file, io.StringIO)
    assert "j\\u202e  \\x1b[2J on group g\\u200b" in console.file.getvalue()


def test_job_display_has_a_bar_for_each_stage_around_the_open_one() -> None:
    job = pb.Job(job_id="j", status=pb.Job.IN_PROGRESS, total_executions=200, target_all=True)
    for index in range(20):
        state = (
            pb.JobStage.PASSED
            if index < 8
            else pb.JobStage.OPEN
            if index == 8
            else pb.JobStage.PENDING
        )
        stage = job.stages.add(display_name=f"stage {index}", state=state, total_executions=10)
        stage.execution_counts.succeeded = 10 if index < 8 else 3 if index == 8 else 0
        stage.execution_counts.held = 10 - stage.execution_counts.succeeded
        stage.awaiting_approval = index == 8
    job.created_at.GetCurrentTime()
    console = Console(width=80, file=io.StringIO(), color_system=None)

    for line in live.job_lines(job, rate=1.0):
        console.print(line)

    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    stages = [line for line in lines if "stage " in line]
    assert max(map(len, lines)) <= 80
    assert [line.split()[2] for line in stages] == [str(n) for n in range(3, 13)]
    assert "OPEN" in stages[5]
    assert "━" in stages[5]
    assert "·" in stages[5]
    assert stages[5].rstrip().endswith("approve? 3 / 10")


def test_rate_covers_only_recent_seconds() -> None:
    now = 0.0
    rate = live.Rate(lambda: now)
    rates = []
    for time, number in ((0.0, 100), (10.0, 200), (40.0, 200), (41.0, 0)):
        now = time
        rate.add(number)
        rates.append(rate.per_second())

    assert rates == [0, 10, 0, 0]
