"""Selectors: their grammar and their canonical text; and labels."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs_grpc.errors import InvalidField
from jobs_grpc.services import selectors
from jobs_grpc.services.selectors import Selector, SelectorError, Term, check_labels, parse
from tests.fuzz import fuzz_selector
from tests.support.scale import examples


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \t\r\n", []),
        ("k", [Term("k", "exists")]),
        ("!k", [Term("k", "not_exists")]),
        ("k=v", [Term("k", "in", ("v",))]),
        ("k == v", [Term("k", "in", ("v",))]),
        ("k!=v", [Term("k", "not_in", ("v",))]),
        ("k in(b, a)", [Term("k", "in", ("a", "b"))]),
        ("k notin (a)", [Term("k", "not_in", ("a",))]),
        ("b,a,b", [Term("a", "exists"), Term("b", "exists")]),
        (
            "group=g,device_id in (d)",
            [Term("device_id", "in", ("d",)), Term("group", "in", ("g",))],
        ),
        ('k=""', [Term("k", "in", ("",))]),
        (r'k="a\"\\, b"', [Term("k", "in", ('a"\\, b',))]),
        ("k=in,l=notin", [Term("k", "in", ("in",)), Term("l", "in", ("notin",))]),
        ("9a.b/c-d_e=A:b/-._9", [Term("9a.b/c-d_e", "in", ("A:b/-._9",))]),
    ],
)
def test_selector_is_parsed(text: str, expected: list[Term]) -> None:
    assert list(parse(text).terms) == expected


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        (" b = x , !c , a ", "a,b=x,!c"),
        ("k in (b, a, b)", "k in (a,b)"),
        ("k in (a)", "k=a"),
        ("k notin (a),k==a", "k=a,k!=a"),
        ('k="a.b:c/d-e_f"', "k=a.b:c/d-e_f"),
        ('k in ("","ä","a b")', 'k in ("","a b","ä")'),
        (r'k="\"\\"', r'k="\"\\"'),
        ("group in (south,north),model=x200,!quarantined", None),
    ],
)
def test_canonical_text_is_sorted_and_has_few_quotes(text: str, canonical: str | None) -> None:
    assert parse(text).text == (canonical or "group in (north,south),model=x200,!quarantined")


_RESERVED = ("in", "notin", "time_zone", "last_seen")
_KEY = "1–63 characters of A-Z a-z 0-9 . _ / -, the first a letter or digit"
_VALUE = "at most 63 characters without control characters"
_NO_END = 'at character 3, a quoted value has no end, or a \\ that is not before " or \\'


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (",k", "at character 1, expected a key"),
        ("k,", "at character 3, expected a key"),
        ("k=", "at character 3, expected a value"),
        ("k=,l", "at character 3, expected a value"),
        ("k in a", "at character 6, expected ("),
        ("k in ()", "at character 7, expected a value"),
        ("k in (a", "at character 8, expected a comma or )"),
        ("k in (a b)", "at character 9, expected a comma or )"),
        ("k=a b", "at character 5, expected a comma or the end"),
        ("k IN (a)", "at character 3, expected = == != in notin, a comma or the end"),
        ('k "in" (a)', "at character 3, expected = == != in notin, a comma or the end"),
        ('"k"=a', "at character 1, expected a key"),
        ("!!k", "at character 2, expected a key"),
        ("!k=a", "at character 3, expected a comma or the end"),
        ("-k", f"at character 1, a key must be {_KEY}"),
        ("a:b=c", f"at character 1, a key must be {_KEY}"),
        ("x" * 64, f"at character 1, a key must be {_KEY}"),
        ("k,group", "at character 3, group needs a value, as in group=NAME"),
        ("!device_id", "at character 2, device_id needs a value, as in device_id!=NAME"),
        *((f"{key}=a", f"at character 1, the key {key} is reserved") for key in _RESERVED),
        ('k="a', _NO_END),
        (r'k="a\n"', _NO_END),
        ("k=a;b", "at character 4, ';' needs quotes"),
        ("k=日", "at character 3, '日' needs quotes"),
        ("k=\x00", r"at character 3, '\x00' needs quotes"),
        ('k="\x00"', f"at character 3, a value must be {_VALUE}"),
        (f"k={'x' * 64}", f"at character 3, a value must be {_VALUE}"),
        ('group=""', "at character 7, group must be 1–256 characters without control characters"),
        ("x" * 4097, "it has more than 4096 characters"),
        (",".join(f"k{n}" for n in range(33)), "at character 119, there are more than 32 terms"),
        (f"k in ({','.join('a' * 101)})", "at character 207, there are more than 100 values"),
        ("k in(a,b)" + " " * 4086 + ",l", "it has more than 4096 characters"),
    ],
)
def test_error_names_position_and_cause_when_selector_is_malformed(text: str, error: str) -> None:
    with pytest.raises(SelectorError) as raised:
        parse(text)

    assert str(raised.value) == error
    assert "\n" not in error


def test_canonical_text_is_within_the_limit() -> None:
    with pytest.raises(SelectorError, match=r"^its canonical text has more than 9 characters$"):
        parse("k in(a,b)", max_characters=9)


def test_largest_selector_is_accepted() -> None:
    values = ",".join(f"v{n}" for n in range(100))
    text = ",".join([f"k in ({values})", *(f"k{n}=v" for n in range(31))])

    assert len(parse(text).terms) == 32


def test_field_with_malformed_selector_is_a_violation() -> None:
    with pytest.raises(InvalidField) as raised:
        selectors.parse_field("target_selector", "k=")

    problem = "target_selector is not a valid selector: at character 3, expected a value"
    assert raised.value.violations == {"target_selector": problem}


VALUES = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=63)
KEYS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}", fullmatch=True).filter(
    lambda key: key not in ("group", "device_id", *_RESERVED)
)
TERMS = st.one_of(
    st.builds(Term, KEYS, st.sampled_from(["exists", "not_exists"])),
    st.builds(
        lambda key, operator, values: Term(key, operator, tuple(sorted(values))),
        KEYS,
        st.sampled_from(["in", "not_in"]),
        st.sets(VALUES, min_size=1, max_size=5),
    ),
)


@given(st.sets(TERMS, max_size=5))
@examples(50, 2)
def test_canonical_text_parses_to_the_same_selector(terms: set[Term]) -> None:
    selector = Selector(tuple(sorted(terms)))

    assert parse(selector.text) == selector
    assert parse(selector.text).text == selector.text


@given(st.text('kv"\\,()=! \t\nä-', max_size=12) | st.text(max_size=12))
@examples(150, 2)
def test_any_text_is_parsed_or_refused(text: str) -> None:
    fuzz_selector.check_text(text)


def test_labels_are_accepted_up_to_their_limits() -> None:
    longest = {"x" * 63: "ä" * 63, "9./-_": "", "Group": "in"}
    others = {f"k{n}": "v" for n in range(29)}

    assert check_labels({**longest, **others}) == []


@pytest.mark.parametrize(
    ("labels", "violations"),
    [
        ({f"k{n}": "v" for n in range(33)}, {"labels": "labels must have at most 32 elements"}),
        ({"": "v"}, {"labels": f"labels has the key ''; a key must be {_KEY}"}),
        ({"ä" * 5000: "v"}, {"labels": f"labels has the key '{'ä' * 20}'; a key must be {_KEY}"}),
        *(
            ({key: "v"}, {"labels": f"labels has the key {key}, which is reserved"})
            for key in ("group", "device_id", *_RESERVED)
        ),
        *(
            ({"k": value}, {'labels["k"]': f'labels["k"] must be {_VALUE}'})
            for value in ("x" * 64, "\x00", "a\n", "\x7f", "\x85")
        ),
    ],
)
def test_labels_over_limits_are_refused(labels: dict[str, str], violations: dict[str, str]) -> None:
    assert {v.field: v.description for v in check_labels(labels)} == violations
