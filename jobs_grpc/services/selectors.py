"""Parses selectors: conditions on the labels, facts, groups and ids of devices.

docs/targets.md describes the grammar. All terms of a selector must be true. The canonical text has
sorted terms and values without duplicates, so equal selectors have the same text.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from jobs_grpc.errors import InvalidField, Violation

MAX_CHARACTERS = 4096
MAX_TERMS = 32
MAX_VALUES = 100
MAX_LABELS = 32
MAX_FACTS = 32

# Keys that select by something else than a label. A label can't have them, nor the keys that the
# grammar or later versions need.
ID_KEYS = ("group", "device_id")
_RESERVED_KEYS = ("in", "notin", "time_zone", "last_seen")

FACT_PREFIX = "fact."
"""In a selector of devices, a key with this prefix is that of a fact."""

# The operators that have values, as SQL and as the text names them.
_OPERATORS = {"=": "in", "==": "in", "in": "in", "!=": "not_in", "notin": "not_in"}

_TOKEN = re.compile(
    r"""[ \t\r\n]*(?:
        (?P<symbol>==|!=|[=!(),])
        |(?P<word>[A-Za-z0-9._:/-]+)
        |(?P<quoted>"(?:[^"\\]|\\["\\])*")
        |(?P<end>\Z)
        |(?P<unknown>.)
    )""",
    re.VERBOSE | re.DOTALL,
)
# Why a character starts no token.
_UNKNOWN = {'"': 'a quoted value has no end, or a \\ that is not before " or \\'}
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}")
_FACT_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,57}")
_LABEL_VALUE = re.compile(r"[^\x00-\x1f\x7f-\x9f]{0,63}")
_ID = re.compile(r"[^\x00-\x1f\x7f-\x9f]{1,256}")
_UNQUOTED = re.compile(r"[A-Za-z0-9._:/-]+")

_KEY_RULE = "1–63 characters of A-Z a-z 0-9 . _ / -, the first a letter or digit"
_FACT_KEY_RULE = "1–58 characters of A-Z a-z 0-9 . _ / -, the first a letter or digit"
_ID_RULE = "1–256 characters without control characters"
_VALUE_RULE = "at most 63 characters without control characters"


class SelectorError(ValueError):
    """A selector is malformed, or exceeds a limit. The message names the position and the cause."""

    def violation(self, field: str) -> Violation:
        """Return it as the violation of the field that has the selector."""
        return Violation(field, f"{field} is not a valid selector: {self}")


@dataclass(frozen=True, slots=True, order=True)
class Term:
    """A condition on one key."""

    key: str
    operator: str
    """in, not_in, exists or not_exists."""
    values: tuple[str, ...] = ()
    """Sorted, without duplicates."""

    def __str__(self) -> str:
        if not self.values:
            return self.key if self.operator == "exists" else f"!{self.key}"
        values = [_quote(value) for value in self.values]
        if len(values) == 1:
            return f"{self.key}{'=' if self.operator == 'in' else '!='}{values[0]}"
        return f"{self.key} {self.operator.replace('_', '')} ({','.join(values)})"


@dataclass(frozen=True, slots=True)
class Selector:
    """A parsed selector. Without terms, it matches every device."""

    terms: tuple[Term, ...]
    """Sorted, without duplicates."""

    @property
    def text(self) -> str:
        """The canonical text, which parses to the same selector."""
        return ",".join(map(str, self.terms))

    @property
    def sql_terms(self) -> list[dict[str, Any]]:
        """The terms as SQL functions expect them, as JSON."""
        return [{"key": t.key, "op": t.operator, "values": t.values} for t in self.terms]

    @property
    def terms_json(self) -> str:
        """`sql_terms` as a text."""
        return json.dumps(self.sql_terms, ensure_ascii=False)


def parse(text: str, max_characters: int = MAX_CHARACTERS, *, of_jobs: bool = False) -> Selector:
    """Parse a selector. The limit also applies to the canonical text. Raises SelectorError.

    In a selector `of_jobs`, FACT_PREFIX has no meaning: jobs have no facts.
    """
    if len(text) > max_characters:
        raise SelectorError(f"it has more than {max_characters} characters")
    selector = Selector(tuple(sorted(set(_Parser(text, of_jobs=of_jobs).terms()))))
    # A space may be optional in the text, but not in the canonical text.
    if len(selector.text) > max_characters:
        raise SelectorError(f"its canonical text has more than {max_characters} characters")
    return selector


def parse_field(field: str, text: str, *, of_jobs: bool = False) -> Selector:
    """Parse the selector of a request's field. Raises InvalidField."""
    try:
        return parse(text, of_jobs=of_jobs)
    except SelectorError as e:
        raise InvalidField([e.violation(field)]) from None


def check_selector(
    field: str,
    text: str,
    max_characters: int = MAX_CHARACTERS,
    *,
    may_be_empty: bool = False,
) -> list[Violation]:
    """Check the selector of a request's field. Unless it may be empty, it must have a term."""
    try:
        selector = parse(text, max_characters)
    except SelectorError as e:
        return [e.violation(field)]
    if selector.terms or may_be_empty:
        return []
    return [Violation(field, f"{field} must have a term")]


def check_labels(
    labels: Mapping[str, str], field: str = "labels", *, of_device: bool = False
) -> list[Violation]:
    """Check the number of labels, their keys and their values."""
    return _check_pairs(labels, field, MAX_LABELS, partial(_label_key_problem, of_device=of_device))


def check_facts(facts: Mapping[str, str], field: str = "facts") -> list[Violation]:
    """Check the number of facts, their keys and their values."""
    return _check_pairs(facts, field, MAX_FACTS, _fact_key_problem)


def _label_key_problem(key: str, *, of_device: bool) -> str:
    # Only the start of the key, which can be long.
    if not _KEY.fullmatch(key):
        return f"has the key {key[:20]!r}; a key must be {_KEY_RULE}"
    if key in (*ID_KEYS, *_RESERVED_KEYS):
        return f"has the key {key}, which is reserved"
    if of_device and key.startswith(FACT_PREFIX):
        return f"has the key {key[:20]}; keys with the prefix {FACT_PREFIX} are those of facts"
    return ""


def _fact_key_problem(key: str) -> str:
    return (
        ""
        if _FACT_KEY.fullmatch(key)
        else f"has the key {key[:20]!r}; a key must be {_FACT_KEY_RULE}"
    )


def _check_pairs(
    pairs: Mapping[str, str],
    field: str,
    max_pairs: int,
    key_problem: Callable[[str], str],
) -> list[Violation]:
    if len(pairs) > max_pairs:
        return [Violation(field, f"{field} must have at most {max_pairs} elements")]
    violations = []
    for key, value in pairs.items():
        if problem := key_problem(key):
            violations.append(Violation(field, f"{field} {problem}"))
        elif not _LABEL_VALUE.fullmatch(value):
            path = f'{field}["{key}"]'
            violations.append(Violation(path, f"{path} must be {_VALUE_RULE}"))
    return violations


def _quote(value: str) -> str:
    if _UNQUOTED.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


class _Parser:
    """Reads a text from left to right. The current token is the first that is not parsed yet."""

    def __init__(self, text: str, *, of_jobs: bool) -> None:
        self._text = text
        self._of_jobs = of_jobs
        self._end = 0
        self._next()

    def terms(self) -> list[Term]:
        terms: list[Term] = []
        if self._kind == "end":
            return terms
        while True:
            if len(terms) == MAX_TERMS:
                raise self._error(f"there are more than {MAX_TERMS} terms")
            terms.append(self._term())
            if self._kind == "end":
                return terms
            self._take_symbol(",", "a comma or the end")

    def _term(self) -> Term:
        if self._is_symbol("!"):
            self._next()
            return Term(self._key(can_be_id=False), "not_exists")
        # The next token decides whether the term has values.
        start = self._start
        key = self._key(can_be_id=True)
        operator = _OPERATORS.get(self._token) if self._kind in ("symbol", "word") else None
        if operator:
            return Term(key, operator, self._values(key))
        if not (self._kind == "end" or self._is_symbol(",")):
            raise self._expected("= == != in notin, a comma or the end")
        if key in ID_KEYS:
            raise self._error(f"{key} needs a value, as in {key}=NAME", start)
        return Term(key, "exists")

    def _key(self, *, can_be_id: bool) -> str:
        if self._kind != "word":
            raise self._expected("a key")
        key = self._token
        if not _KEY.fullmatch(key):
            raise self._error(f"a key must be {_KEY_RULE}")
        if key in _RESERVED_KEYS:
            raise self._error(f"the key {key} is reserved")
        fact = key.removeprefix(FACT_PREFIX)
        if fact != key and not self._of_jobs and not _FACT_KEY.fullmatch(fact):
            raise self._error(f"the key of a fact, after {FACT_PREFIX}, must be {_FACT_KEY_RULE}")
        if key in ID_KEYS and not can_be_id:
            raise self._error(f"{key} needs a value, as in {key}!=NAME")
        self._next()
        return key

    def _values(self, key: str) -> tuple[str, ...]:
        has_list = self._kind == "word"  # in, notin
        self._next()
        if not has_list:
            return (self._value(key),)
        self._take_symbol("(", "(")
        values = [self._value(key)]
        while self._is_symbol(","):
            self._next()
            if len(values) == MAX_VALUES:
                raise self._error(f"there are more than {MAX_VALUES} values")
            values.append(self._value(key))
        self._take_symbol(")", "a comma or )")
        return tuple(sorted(set(values)))

    def _value(self, key: str) -> str:
        if self._kind not in ("word", "quoted"):
            raise self._expected("a value")
        value = self._token
        if key in ID_KEYS:
            if not _ID.fullmatch(value):
                raise self._error(f"{key} must be {_ID_RULE}")
        elif not _LABEL_VALUE.fullmatch(value):
            raise self._error(f"a value must be {_VALUE_RULE}")
        self._next()
        return value

    def _is_symbol(self, symbol: str) -> bool:
        return self._kind == "symbol" and self._token == symbol

    def _take_symbol(self, symbol: str, expected: str) -> None:
        if not self._is_symbol(symbol):
            raise self._expected(expected)
        self._next()

    def _next(self) -> None:
        """Read the next token: its kind, its start, and its text or the value that it quotes."""
        match = next(_TOKEN.finditer(self._text, self._end))  # matches any text
        self._kind, self._end = str(match.lastgroup), match.end()
        self._start = match.start(self._kind)
        self._token = match[self._kind]
        if self._kind == "unknown":
            raise self._error(_UNKNOWN.get(self._token, f"{self._token!r} needs quotes"))
        if self._kind == "quoted":
            self._token = re.sub(r"\\(.)", r"\1", self._token[1:-1])

    def _expected(self, expected: str) -> SelectorError:
        return self._error(f"expected {expected}")

    def _error(self, problem: str, start: int | None = None) -> SelectorError:
        position = (self._start if start is None else start) + 1
        return SelectorError(f"at character {position}, {problem}")
