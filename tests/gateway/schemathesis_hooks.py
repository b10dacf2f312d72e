"""What the requests of schemathesis leave out. It imports this file; see test_contract.py."""

from typing import Any

import schemathesis


@schemathesis.hook
def filter_query(_: Any, query: dict[str, Any] | None) -> bool:
    """Leave out empty values: they count as absent, also where the schema wants a number."""
    texts = [_texts(value) for value in (query or {}).values()]
    return all(each and "" not in each for each in texts)


def _texts(value: Any) -> list[str]:
    """Return the values in the URL: lists, and the keys of objects, become several or none."""
    if isinstance(value, list | dict):
        return [text for each in value if each is not None for text in _texts(each)]
    return [str(value)]
