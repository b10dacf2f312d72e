"""Any text is a selector, which its canonical text also is, or is refused."""

from tests.fuzz.engine import fuzz, instrumented

with instrumented():
    from jobs_grpc.services.selectors import SelectorError, parse

SEEDS = (
    b"",
    b"k, !l",
    b"k=v,l==w,m!=x",
    b'group=g,device_id in (d,e),!model,site="a b"',
    rb'k notin ("\"\\", "", a.b:c/d-e_f)',
    "fact.version=1,k=ä🚀".encode(),
    b"k in (a",
    b'k="a\\n"',
)


def check(data: bytes) -> None:
    """Parse the bytes as text."""
    check_text(data.decode(errors="replace"))


def check_text(text: str) -> None:
    """Parse a text, and then its canonical text."""
    try:
        selector = parse(text)
    except SelectorError:
        return
    again = parse(selector.text)
    assert (again, again.text) == (selector, selector.text)


if __name__ == "__main__":
    fuzz(check, SEEDS)
