"""A message that is logged again and again is counted."""

import json
import logging

import pytest

from tests.support.database import Database
from tests.support.logging_setup import configured_logging
from tests.support.server import running_server
from tests.support.waiting import wait_until_true

logger = logging.getLogger("jobs_grpc.rpc.error_status")


async def test_message_is_counted_after_20_lines_a_second() -> None:
    with configured_logging("json") as written:
        for number in range(50):
            try:
                raise ValueError("a bug")
            except ValueError:
                logger.exception("call %d failed", number)
        logger.warning("something else")

        await wait_until_true(lambda: '"others": 30' in written.getvalue())

    written_lines = map(json.loads, written.getvalue().splitlines())
    lines = [line for line in written_lines if line["logger"] == logger.name]
    assert len(lines) == 22
    assert (lines[-2]["message"], lines[-1]["message"]) == ("something else", "call %d failed")
    assert lines[-1]["others"] == 30
    assert "exception" not in lines[-1]


async def test_count_is_logged_when_the_server_stops(database: Database) -> None:
    with configured_logging("json") as written:
        async with running_server(database.request_dsn):
            for number in range(50):
                logger.warning("call %d failed", number)

    lines = list(map(json.loads, written.getvalue().splitlines()))
    assert [line["others"] for line in lines if "others" in line] == [30]
    assert lines[-1]["message"] == "stopped"


async def test_kinds_of_messages_are_bounded() -> None:
    with configured_logging("json") as written:
        for number in range(5000):
            # Its lines are counted after the test, when another one may capture the log.
            logging.getLogger("a.library").warning(f"message {number}")

    assert len(written.getvalue().splitlines()) == 1020


@pytest.mark.parametrize("name", ["jobs_grpc.calls", "jobs_grpc.audit"])
async def test_access_log_and_audit_log_have_limits_of_their_own(name: str) -> None:
    with configured_logging("json") as written:
        for _ in range(50):
            logging.getLogger(name).info("a call")

    assert len(written.getvalue().splitlines()) == 50


def test_messages_outside_an_event_loop_are_logged() -> None:
    with configured_logging("json") as written:
        for _ in range(50):
            logger.warning("starting")

    assert len(written.getvalue().splitlines()) == 50
