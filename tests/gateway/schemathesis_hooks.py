"""What the requests of schemathesis leave out. It imports this file; see test_contract.py."""

from typing import Any

import schemathesis


@schemathesis.hook
def filter_query(_: Any, query: dict[str, Any] | None) -> bool:
    """Leave out empty values: they count as absent, also where the schema wants a number."""
    return not query or "" not in query.values()
