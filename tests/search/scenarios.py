"""The jobs of the searches: three devices, two stages, and the moves that matter to them."""

from tests.model.criteria import Criterion
from tests.model.retries import Rule
from tests.model.stages import Stage
from tests.search.moves import HOUR
from tests.search.search import Scenario

_DEVICES = ("start", "succeed", "fail", "wait", "sweep")
_STAGES = (Stage(count=1), Stage())

_ALL = [
    Scenario(
        "cap",
        {
            "rollout": (Stage(count=2, require_approval=True), Stage()),
            "max_in_progress": 1,
            "timeout": HOUR,
            "expires_after": 3 * HOUR,
        },
        (
            *_DEVICES,
            "pause",
            "resume",
            "approve",
            "cancel",
            "force cancel",
            "accept cancel",
            "retry",
            "retry with new expiry",
            "cancel execution",
        ),
    ),
    Scenario(
        "trip",
        {
            "rollout": _STAGES,
            "criteria": (
                Criterion(count=2),
                Criterion(percent=100, min_finished=3, action="FORCE_CANCEL"),
            ),
            "timeout": HOUR,
        },
        (*_DEVICES, "pause", "resume", "retry", "cancel"),
    ),
    Scenario(
        "retries",
        {
            "rollout": (Stage(count=1, bake=HOUR, min_succeeded_percent=100), Stage()),
            "policy": (Rule(max_attempts=2, initial_backoff=HOUR, max_backoff=HOUR),),
            "timeout": HOUR,
            "expires_after": 3 * HOUR,
        },
        (*_DEVICES, "pause", "resume", "retry with new expiry", "cancel", "advance"),
    ),
    Scenario(
        "approvals",
        {
            "rollout": (
                Stage(
                    count=1, min_succeeded_percent=100, advance_after=HOUR, require_approval=True
                ),
                Stage(),
            ),
            "start": HOUR,
            "start_approval": True,
        },
        (
            *_DEVICES,
            "pause",
            "resume",
            "approve",
            "reject",
            "approve start",
            "reject start",
            "advance",
            "retry",
            "cancel",
        ),
    ),
    Scenario(
        "joins",
        {"rollout": _STAGES, "target": (), "max_joins": 1, "expires_after": HOUR},
        ("start", "succeed", "wait", "resume", "register", "delete device", "join", "cancel"),
        registered=1,
    ),
]

SCENARIOS = {each.name: each for each in _ALL}
