"""Which pages may connect; how operators write origins is in `test_config.py`."""

import pytest

from heliograph.origins import origin_allowed


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
