"""Random selectors in all their spellings, and random devices, with hostile text."""

import random
from collections.abc import Iterable, Sequence

from tests.model.targets import Device, Term
from tests.support.database import Database

# Text that means something else where it is not quoted for the grammar, SQL, JSON or LIKE.
HOSTILE: Sequence[str] = (
    *("a,b", 'a"b', "a\\", '\\"', "\\\\", "a'b", "''", "a\\'; DROP TABLE jobs.devices; --", "$1"),
    *("%s", "%L", "%", "_", "$$", "{a}", '{"a": 1}', "NULL", "null", "true", "(a)", "a=b", "!a"),
    *("in", "", " ", " a ", "a b", "Ä", "ä", "日本", "🙂", "\u00a0", "e\u0301", "é", "\u202ea"),
    "\U0010ffff",
)
_VALUES: Sequence[str] = ("a", "b", "c", "1", "1.0", "v1.2.3", "x/y:z", *HOSTILE)
_KEYS = ("k", "model", "env", "1", "a.b/c-d_e", "Model")
KEYS_WITH_FACTS = (*_KEYS, *(f"fact.{key}" for key in _KEYS))
_UNQUOTED = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:/-")


def devices(rng: random.Random, count: int, keys: Sequence[str] = _KEYS) -> list[Device]:
    """Devices whose ids contain hostile text."""
    ids = [f"{rng.choice(_VALUES)}-{n}" for n in range(count)]
    return [device(rng, device_id, keys) for device_id in ids]


def device(rng: random.Random, device_id: str, keys: Sequence[str] = _KEYS) -> Device:
    """A device with few labels and groups."""
    return Device(
        device_id,
        frozenset((key, rng.choice(_VALUES)) for key in keys if rng.random() < 0.5),
        frozenset(rng.sample(HOSTILE, rng.randint(0, 3))) - {""},
    )


def terms(
    rng: random.Random,
    known: Sequence[Device],
    max_terms: int = 4,
    keys: Sequence[str] = _KEYS,
) -> list[Term]:
    """At most `max_terms` random terms that match some of the devices."""
    found: list[Term] = []
    for _ in range(min(rng.choice((0, 1, 1, 1, 2, 2, 3, 4)), max_terms)):
        key = rng.choice((*keys, *keys, "group", "device_id"))
        operator = rng.choice(("in", "notin"))
        values = _VALUES
        if key == "group":
            values = tuple(group for group in HOSTILE if group)
        elif key == "device_id":
            values = tuple(device.device_id for device in known)
        else:
            operator = rng.choice(("in", "notin", "exists", "missing"))
        if operator in ("exists", "missing"):
            found.append((key, operator, ()))
        else:
            count = max(1, min(rng.choice((1, 2, len(values) // 2)), len(values)))
            found.append((key, operator, tuple(rng.sample(values, count))))
    return found


def spell(rng: random.Random, selector: Iterable[Term]) -> str:
    """Write a selector in one of its spellings."""
    return _space(rng) + ",".join(_spell_term(rng, *term) + _space(rng) for term in selector)


def _spell_term(rng: random.Random, key: str, operator: str, values: tuple[str, ...]) -> str:
    key = _space(rng) + key + _space(rng)
    if operator == "exists":
        return key
    if operator == "missing":
        return f"{_space(rng)}!{key}"
    texts = [_spell_value(rng, value) for value in values]
    if len(texts) == 1 and rng.random() < 0.7:
        sign = rng.choice(("=", "==")) if operator == "in" else "!="
        return f"{key}{sign}{_space(rng)}{texts[0]}"
    separator = f"{_space(rng)},{_space(rng)}"
    return f"{key} {operator}{_space(rng)}({separator.join(texts)}{_space(rng)})"


def _spell_value(rng: random.Random, value: str) -> str:
    if value and _UNQUOTED.issuperset(value) and rng.random() < 0.8:
        return value
    return '"' + "".join(f"\\{c}" if c in '"\\' else c for c in value) + '"'


def _space(rng: random.Random) -> str:
    return rng.choice(("", "", "", " ", "  ", "\t", "\n"))


async def store(database: Database, tenant: str, known: Sequence[Device]) -> None:
    """Add the devices to the tenant. Those without labels have no row of labels, nor of facts."""
    await database.add_devices(tenant, [each.device_id for each in known])
    labels: dict[str, dict[str, str]] = {}
    facts: dict[str, dict[str, str]] = {}
    for each in known:
        for key, value in each.labels:
            is_fact = key.startswith("fact.")
            of_device = (facts if is_fact else labels).setdefault(each.device_id, {})
            of_device[key.removeprefix("fact.")] = value
    await database.add_labels(tenant, labels)
    await database.add_facts(tenant, facts)
    for group in {group for each in known for group in each.groups}:
        members = [each.device_id for each in known if group in each.groups]
        await database.add_devices(tenant, members, group=group)
