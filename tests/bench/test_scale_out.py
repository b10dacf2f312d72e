"""bench.scale_out measures every call on each database that it is given."""

from urllib.parse import urlsplit

import pytest

from bench import scale_out
from tests.support.database import Database


@pytest.mark.slow
async def test_every_call_is_measured(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    url = database.request_dsn
    owner = urlsplit(database.owner_dsn).netloc.rpartition("@")[0]

    await scale_out.run([f"base={url}", f"other={url},{url}"], owner, seconds=0.01)

    printed = capsys.readouterr().out
    assert "| base | other |" in printed
    assert printed.count("×)") == 7 + 6
    assert "fails" not in printed
