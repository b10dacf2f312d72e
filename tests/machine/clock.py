"""The time of a database, which stands still between steps."""

from dataclasses import dataclass
from datetime import UTC, timedelta
from fractions import Fraction

from google.protobuf.timestamp_pb2 import Timestamp

from tests.model.execution import Seconds
from tests.model.windows import START
from tests.support.database import Database

# A table, because replacing the functions at each change makes each session plan its statements
# again. In PL/pgSQL, which plans the query only once.
_FUNCTIONS = """
    CREATE TABLE public.test_clock AS SELECT 'epoch'::timestamptz AS at, 1.0::float8 AS jitter;
    GRANT SELECT ON public.test_clock TO PUBLIC;
    CREATE OR REPLACE FUNCTION jobs.now() RETURNS timestamptz LANGUAGE plpgsql STABLE
        AS 'BEGIN RETURN (SELECT c.at FROM public.test_clock c); END';
    CREATE OR REPLACE FUNCTION jobs.clock_time() RETURNS timestamptz LANGUAGE plpgsql
        AS 'BEGIN RETURN (SELECT c.at FROM public.test_clock c); END';
    CREATE OR REPLACE FUNCTION jobs.jitter() RETURNS double precision LANGUAGE plpgsql
        AS 'BEGIN RETURN (SELECT c.jitter FROM public.test_clock c); END';
"""


@dataclass
class Clock:
    """Sets the time, and the jitter of backoffs, for all tenants of a database."""

    database: Database

    async def stop(self) -> None:
        """Stop the clock. It stays stopped."""
        await self.database.owner.execute(_FUNCTIONS)

    async def set(self, at: Seconds, jitter: Fraction) -> None:
        """Set the time and the jitter."""
        await self.database.owner.execute(
            "UPDATE public.test_clock SET at = $1, jitter = $2",
            START.replace(tzinfo=UTC) + _duration(at),
            float(jitter),
        )


def timestamp(at: Seconds) -> Timestamp:
    """Return a time of the model as requests have it."""
    message = Timestamp()
    message.FromDatetime(START + _duration(at))
    return message


def seconds(message: Timestamp) -> Seconds:
    """Return a time of a response as the model has it."""
    nanoseconds = message.ToNanoseconds() - timestamp(0).ToNanoseconds()
    return Fraction(nanoseconds, 10**9)


def _duration(at: Seconds) -> timedelta:
    return timedelta(microseconds=round(at * 10**6))
