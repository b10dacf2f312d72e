"""The options of `create` and `update` that describe a rollout and its failure criteria."""

import argparse
import re
from typing import Any

from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.duration_pb2 import Duration

from jobs_grpc.cli import arguments
from jobs_grpc.cli.errors import CliError, ExitCode
from jobs_grpc.cli.rollout_file import read_rollout_file

# With a percentage, the first failures decide nothing: 1 of 1 finished devices is 100 percent.
_MIN_FINISHED = 20

_GATE_OPTIONS = ("min_succeeded", "bake", "advance_after", "require_approval")
_OPTIONS = (
    *("stages", *_GATE_OPTIONS, "releases_per_minute"),
    *("max_in_progress", "pause_at", "cancel_at"),
)

_EXAMPLE = """\
A rollout starts the devices stage by stage. The sizes of --stage are "1%" (of
all devices), "50" (devices), "group:NAME", "where:SELECTOR" or "rest". A group
or a selector without devices is an error, unless it ends with ",allow-empty".
The options for gates apply to each stage except the last. --rollout reads
everything from a YAML or JSON file with fields of CreateJobRequest: `rollout`,
`failure_criteria`, `start_windows`, `window_time_zone` and `retry_policy`.

  rollout:
    stages:
      - display_name: canary
        percent: 1
        gate: {min_succeeded_percent: 95, bake_time: 600s}
      - {display_name: everyone, remainder: true, releases_per_minute: 1000}
    max_in_progress: 500
  failure_criteria:
    - {percent: 5, min_finished: 20}
  start_windows:
    - {days: [SATURDAY, SUNDAY], start_time: "02:00", duration: 14400s}
  window_time_zone: DEVICE
  retry_policy:
    rules:
      - {failure_codes: [NETWORK], max_attempts: 5, initial_backoff: 600s}
"""


def add_rollout_options(parser: argparse.ArgumentParser) -> None:
    """Add the options, and explain them below the list of options."""
    parser.epilog = _EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    group = parser.add_argument_group("rollout")
    arguments.add_options(group, {"--rollout FILE": "read the rollout from this file"})
    stage_help = "add a stage: 1%%, 50, group:NAME, where:SELECTOR or rest"
    arguments.add_repeated(group, "--stage SIZE", stage_help, arguments.stage, "stages")
    gates = {
        "--min-succeeded PERCENT": "open the next stage when this share of a stage has succeeded "
        "(default: when all its devices have finished)",
        "--bake TIME": "wait this long after that, such as 10m (units: s, m, h, d)",
        "--advance-after TIME": "open the next stage this long after a stage opened, even if its "
        "gate is not met",
        "--require-approval": "open the next stage only after `approve`",
        "--releases-per-minute N": "release at most N devices per minute (default: a whole stage "
        "at once)",
    }
    arguments.add_options(
        group,
        gates,
        PERCENT=arguments.percent,
        TIME=arguments.duration,
        N=arguments.releases_per_minute,
    )
    arguments.add_max_in_progress(group)
    thresholds = {
        f"--{action}-at N": f"{action} the job when N devices have failed, or N%% of the finished "
        f"ones once {_MIN_FINISHED} have finished"
        for action in ("pause", "cancel")
    }
    arguments.add_options(group, thresholds, N=arguments.threshold)


def read_rollout_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the options or the file describe, as parameters of a client."""
    if args.rollout is not None:
        if conflict := next((name for name in _OPTIONS if getattr(args, name)), None):
            option = "--stage" if conflict == "stages" else f"--{conflict.replace('_', '-')}"
            raise CliError(f"--rollout can't be combined with {option}", ExitCode.USAGE)
        return read_rollout_file(args.rollout)
    fields: dict[str, Any] = {}
    fields["failure_criteria"] = [
        _criterion(threshold, action)
        for threshold, action in (
            (args.pause_at, pb.FailureCriterion.PAUSE),
            (args.cancel_at, pb.FailureCriterion.CANCEL),
        )
        if threshold is not None
    ]
    if len(args.stages) < 2 and any(getattr(args, name) for name in _GATE_OPTIONS):
        # The last stage has no gate, so the option would have no effect.
        raise CliError("the options for gates need two or more --stage", ExitCode.USAGE)
    stages = args.stages
    if not stages:
        if args.max_in_progress is None and args.releases_per_minute is None:
            return fields
        stages = [pb.Stage(remainder=True)]
    rollout = pb.Rollout(stages=stages, max_in_progress=args.max_in_progress)
    for stage in rollout.stages:
        if args.releases_per_minute is not None:
            stage.releases_per_minute = args.releases_per_minute
    for stage in rollout.stages[:-1]:
        _set_gate(stage, args)
    return fields | {"rollout": rollout}


def in_option_words(message: str) -> str:
    """Replace `remainder` by `--stage rest` in the server's message about stages of options."""
    return re.sub(r"(a stage with |rollout\.stages\[\d+\]\.)remainder", "--stage rest", message)


def _set_gate(stage: pb.Stage, args: argparse.Namespace) -> None:
    if args.min_succeeded is not None:
        stage.gate.min_succeeded_percent = args.min_succeeded
    if args.bake is not None:
        stage.gate.bake_time.CopyFrom(Duration(seconds=args.bake))
    if args.advance_after is not None:
        stage.gate.advance_after.CopyFrom(Duration(seconds=args.advance_after))
    if args.require_approval:
        stage.gate.require_approval = True


def _criterion(
    threshold: tuple[str, int], action: pb.FailureCriterion.Action.ValueType
) -> pb.FailureCriterion:
    kind, value = threshold
    if kind == "percent":
        return pb.FailureCriterion(percent=value, min_finished=_MIN_FINISHED, action=action)
    return pb.FailureCriterion(count=value, action=action)
