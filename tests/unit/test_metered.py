"""The page that shows what is measured, and who may read it."""

import hmac

import pytest

from heliograph.observe.metrics_page import MetricsPage, Requests
from heliograph.wire.http import Request
from heliograph.wire.responses import Response

TOKEN = "open sesame"


def page() -> MetricsPage:
    return MetricsPage(lambda: b"measured\n", TOKEN)


def ask(page: MetricsPage, *values: bytes, method: str = "GET", path: bytes = b"/metrics") -> int:
    headers = [(b"host", b"a"), *((b"authorization", value) for value in values)]
    answer = page.handle(Request(method, path, path, b"", "1.1", headers, True))
    assert isinstance(answer, Response)
    assert (b"measured" in answer.body) is (answer.status == 200)
    return answer.status


@pytest.mark.interpreted
def test_the_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """By `hmac.compare_digest`, which is given both whole, and whose answer is the answer."""
    compared: list[set[bytes]] = []
    answers = iter([True, False])

    def compare_digest(one: bytes, other: bytes) -> bool:
        compared.append({one, other})
        return next(answers)

    monkeypatch.setattr(hmac, "compare_digest", compare_digest)
    given = (b"Bearer wrong", b"Bearer open sesame")
    assert [ask(page(), one) for one in given] == [200, 401]
    whole = TOKEN.encode()
    assert len(compared) == 2
    # However the scheme is read, the token is compared with what was given, and with no part of it.
    assert all(any(one.endswith(whole) for one in pair) for pair in compared)
    assert any(one.endswith(b"wrong") for one in compared[0])


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ((b"Bearer open sesame",), 200),
        ((), 401),
        ((b"",), 401),
        ((b"Bearer",), 401),
        ((b"Bearer ",), 401),
        ((b"open sesame",), 401),
        ((b"Basic open sesame",), 401),
        ((b"Bearer open sesam",), 401),
        ((b"Bearer open sesame!",), 401),
        ((b"Bearer OPEN SESAME",), 401),
        ((b"Bearer open sesame, Bearer open sesame",), 401),
        ((b"Bearer wrong", b"Bearer open sesame"), 401),
    ],
)
def test_a_token_opens_the_page_and_nothing_else_does(
    given: tuple[bytes, ...], status: int
) -> None:
    assert ask(page(), *given) == status


def test_without_a_token_the_page_is_open_and_only_to_be_read() -> None:
    free = MetricsPage(lambda: b"measured\n", None)
    assert [ask(free, method=method) for method in ("GET", "HEAD", "POST")] == [200, 200, 405]
    assert ask(free, path=b"/metrics/") == 404


def test_of_a_long_path_that_a_stranger_asks_for_little_is_remembered() -> None:
    asked: list[bytes] = []

    def route_of(path: bytes) -> str:
        asked.append(path)
        return "other"

    requests = Requests(route_of)
    for number in range(3):
        requests.count(b"/stranger/" + b"x" * 5000 + b"%d" % number, 404, 0.001)
    assert [len(path) for path in asked] == [256]  # equal in what is kept
    assert requests.answered == {("other", "404"): 3.0}
