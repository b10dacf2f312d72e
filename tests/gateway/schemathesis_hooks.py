"""What the requests of schemathesis leave out. It imports this file; see test_contract.py."""

from typing import Any

import schemathesis


@schemathesis.hook
def filter_query(_: Any, query: dict[str, Any] | None) -> bool:
    """Leave out empty values: they count as absent, also where the schema wants a number.

    An empty list or object becomes an empty value in the URL.
    """
    return not query or all(value not in ("", [], {}) for value in query.values())
