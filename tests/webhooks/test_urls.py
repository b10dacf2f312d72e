"""Which URLs are accepted, before any name is resolved."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs_grpc.webhooks.addresses import AllowedAddresses
from jobs_grpc.webhooks.urls import check_url


def problem(url: str, *, ports: tuple[int, ...] = (443,), allow_http: bool = False) -> str:
    """Return why a URL is rejected; empty if it is accepted."""
    try:
        check_url(url, ports=ports, allow_http=allow_http, is_allowed=AllowedAddresses().allows)
    except ValueError as e:
        return str(e)
    return ""


@pytest.mark.parametrize(
    "url",
    [
        *("https://hooks.example", "https://hooks.example/a/b?token=c%20d&e=[f]"),
        *("https://hooks.example:443/", "https://HOOKS.example./", "HTTPS://hooks.example/"),
        *("https://xn--bcher-kva.example/", "https://a_b.example/", "https://1.example/"),
        *("https://8.8.8.8/", "https://[2606:4700::1111]/"),
        "https://localhost/",  # the address is checked when it is connected
    ],
)
def test_url_is_accepted(url: str) -> None:
    assert problem(url) == ""


REJECTED = {
    "is required": [""],
    "must begin with https://": [
        *("hooks.example", "//hooks.example/", "https:hooks.example/", "ftp://hooks.example/"),
        *("file:///etc/passwd", "http://hooks.example/"),
    ],
    "must contain a host name or an IP address": [
        *(
            "https://",
            "https:///path",
            "https://:443/",
            "https://a..example/",
            "https://-a.example/",
        ),
        *(f"https://{'a' * 64}.example/", f"https://{'a.' * 127}example/", "https://ex%61mple/"),
        *("https://a,b/", "https://[v1.x]/"),
        # Other notations of 127.0.0.1.
        *("https://127.1/", "https://2130706433/", "https://0x7f.0.0.1/", "https://0177.0.0.01/"),
        *("https://127.0.0.1./", "https://0x7f000001/"),
    ],
    "must not contain an address that is not public": [
        *("https://127.0.0.1/", "https://169.254.169.254/", "https://[::ffff:10.0.0.1]/"),
        *("https://[fe80::1%25eth0]/", "https://[::1]:443/"),
    ],
    "must be a valid URL": [
        *("https://[::1/", "https://hooks.example:x/", "https://hooks.example:99999/"),
        "https://hooks.example:/",
    ],
    "must have an allowed port: 443": ["https://hooks.example:80/"],
    "must not contain a user name or password": [
        *("https://u@hooks.example/", "https://u:p@hooks.example/", "https://@hooks.example/")
    ],
    "must not contain a fragment": ["https://hooks.example/#", "https://hooks.example/#a"],
}


@pytest.mark.parametrize(
    ("url", "expected"), [(url, expected) for expected, urls in REJECTED.items() for url in urls]
)
def test_url_is_rejected(url: str, expected: str) -> None:
    assert problem(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        *("https://hooks.example/a b", " https://hooks.example/", "https://hooks.example/\n"),
        *(
            "https://hooks.example/\t",
            "https://hooks.example\\@10.0.0.1/",
            "https://a.example/\x00",
        ),
        *("https://hooks.example/ü", "https://bücher.example/", "https://①②⑦.⓪.⓪.①/"),
        "https://hooks.example\u3002/",
    ],
)
def test_url_of_other_characters_is_rejected(url: str) -> None:
    assert problem(url).startswith("must be a URL of visible ASCII characters")


def test_settings_allow_http_and_other_ports() -> None:
    assert problem("http://hooks.example/", allow_http=True) == "must have an allowed port: 443"
    assert not problem("http://hooks.example/", allow_http=True, ports=(80, 443))
    assert not problem("https://hooks.example:8443/", ports=(8443,))
    assert problem("https://hooks.example/", ports=(9443, 8443)) == (
        "must have an allowed port: 8443, 9443"
    )
    assert problem("ftp://hooks.example/", allow_http=True) == "must begin with https:// or http://"


@given(
    st.text(max_size=40)
    | st.tuples(
        st.sampled_from(["https://", "http://", "https:", "//"]),
        st.text("a1.:@[]%\\/?#-_x", max_size=30),
    ).map("".join)
)
def test_problem_never_repeats_the_url_and_nothing_else_is_raised(url: str) -> None:
    text = problem(url)

    if len(url) > 8:
        assert url not in text
    if not text:
        assert url.lower().startswith("https://")
        assert "@" not in url.split("/")[2]
