"""Which pages may connect, and how operators write their origins."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from heliograph import origins
from heliograph.origins import origin_allowed
from tests.unit.configurations import SINGLE, only, problem, resolve


@pytest.mark.parametrize(
    ("origin", "allowed", "is_allowed"),
    [
        (None, (), True),
        ("https://evil.example", (), True),
        (None, ("*",), False),
        ("https://a.example", ("*",), True),
        ("https://a.example", ("https://a.example",), True),
        ("https://A.Example", ("https://a.example",), True),
        ("https://a.example", ("HTTPS://A.EXAMPLE",), True),
        ("http://a.example", ("https://a.example",), False),
        ("https://a.example:444", ("https://a.example",), False),
        ("https://a.example", ("a.example",), True),
        ("http://a.example:8000", ("a.example",), True),
        ("http://a.example:8000", ("a.example:8000",), True),
        ("http://a.example:8001", ("a.example:8000",), False),
        ("https://b.example", ("a.example", "b.example"), True),
        ("https://a.example.evil.example", ("a.example",), False),
        ("https://evil-a.example", ("a.example",), False),
        ("https://x.a.example", ("a.example",), False),
        ("https://x.a.example", ("*.a.example",), True),
        ("https://x.a.example:9", ("*.a.example",), True),
        ("https://a.example", ("*.a.example",), False),
        ("https://x.a.example", ("https://*.a.example",), True),
        ("http://x.a.example", ("https://*.a.example",), False),
        ("null", ("a.example",), False),
        ("", ("a.example",), False),
        ("a.example", ("a.example",), True),
        ("https://[::1]:8000", ("[::1]",), True),
        ("https://[::1]:8000", ("https://[::1]:8000",), True),
        ("https://1", ("[::1]",), False),
        ("https://a", ("?",), False),
    ],
)
def test_a_page_is_of_a_site_that_the_app_allows(
    origin: str | None, allowed: tuple[str, ...], is_allowed: bool
) -> None:
    assert origin_allowed(origin, allowed) is is_allowed


# -- As operators write them -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("https://shop.example.com/", "https://shop.example.com"),
        ("https://Shop.Example.com:443", "https://shop.example.com"),
        ("http://example.com:80/", "http://example.com"),
        ("https://example.com:80", "https://example.com:80"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("[::1]", "[::1]"),
        ("example.com", "example.com"),
        ("example.com:443", "https://example.com"),
        ("example.com:80", "http://example.com"),
        ("localhost:*", "localhost:*"),
        ("*", "*"),
        ("*.example.com", "*.example.com"),
        ("https://*.example.com", "https://*.example.com"),
        ("*://example.com", "*://example.com"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("null", "null"),
        ("http://[0:0:0:0:0:0:0:1]:8000", "http://[::1]:8000"),
        ("http://a.example:080", "http://a.example"),
        ("file://*", "file://*"),
        ("app+electron://app", "app+electron://app"),
    ],
)
def test_origins_are_read_as_browsers_send_them(written: str, read: str) -> None:
    flags = {**SINGLE, "allowed_origins": written, "cors_allowed_origins": written}
    config = resolve(flags)
    assert (only(config).allowed_origins, config.http_requests.cors_allowed_origins) == (
        (read,),
        (read,),
    )


@pytest.mark.parametrize(
    "text",
    [
        *("https://example.com/page", "https://example.com?", "https://", "://example.com"),
        *("https://user@example.com", "::1", "http://::1", "https://exa mple.com", "https://a:b"),
        *("https://example.com//", "http://[::1", "http://a:99999", "http://[:::::]"),
    ],
)
@pytest.mark.parametrize("name", ["allowed_origins", "cors_allowed_origins"])
def test_an_entry_that_matches_no_origin_is_refused(name: str, text: str) -> None:
    assert problem({**SINGLE, name: text}).startswith(f"--{name}: ")


@given(st.sampled_from(["http", "https"]), st.sampled_from(["a.example", "[::1]", "10.0.0.1"]))
@example("https", "[2001:db8::1]")
def test_an_origin_that_a_browser_sends_is_an_entry_that_matches_it(scheme: str, host: str) -> None:
    for port in ("", ":8000"):
        origin = f"{scheme}://{host}{port}"
        for written in (origin, origin + "/", origin.upper(), host + port, host):
            entry = origins.entry(written)
            assert origins.entry(entry) == entry
            assert origin_allowed(origin, (entry,)), written
