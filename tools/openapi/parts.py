"""Loads document.yaml, the parts of the OpenAPI document that the contract does not contain.

Also has helpers for JSON.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Json = dict[str, Any]

SCHEMAS = "#/components/schemas/"
FOLDER = Path(__file__).parent

PARTS: Json = yaml.safe_load((FOLDER / "document.yaml").read_text("utf-8"))
DOCUMENT: Json = PARTS["document"]

EXAMPLES: dict[str, Json] = json.loads((FOLDER / "examples.json").read_text("utf-8"))
"""A request and a response of each operation: see tests/gateway/test_openapi_examples.py."""


def objects(value: Any) -> Iterator[Json]:
    """Yield each object in a JSON value, from the outside in."""
    if isinstance(value, dict):
        yield value
    if isinstance(value, dict | list):
        for member in list(value.values() if isinstance(value, dict) else value):
            yield from objects(member)


def ref_name(value: Json) -> str:
    """Return the name of the component that an object refers to, or an empty string."""
    ref = value.get("$ref", "")
    return ref.rpartition("/")[2] if isinstance(ref, str) else ""


def ref_to(kind: str, name: str) -> Json:
    """Return a reference to a component."""
    return {"$ref": f"#/components/{kind}/{name}"}


def remove_unused(components: Json, *roots: Json) -> None:
    """Remove the components that neither the roots nor other components refer to."""
    used: set[str] = set()
    unvisited: list[Json] = list(roots)
    while unvisited:
        names = {ref_name(each) for each in objects(unvisited.pop())} & components.keys() - used
        used |= names
        unvisited += [components[name] for name in names]
    for name in components.keys() - used:
        del components[name]
