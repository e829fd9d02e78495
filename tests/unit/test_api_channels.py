"""What is asked about channels: which questions are refused, and that each endpoint looks."""

from typing import Any

import pytest

from heliograph.client.signing import Credentials, query
from heliograph.wire.http import Request
from heliograph.wire.responses import Response
from tests.unit.test_api_auth import NOW, Post, Server


def signed_get(path: str, *parameters: tuple[str, str]) -> Request:
    """A request with a signature; *path* is below the app's."""
    whole = f"/apps/1{path}"
    app = Credentials("key", "secret")
    added = app.request_parameters("GET", whole, at=NOW, parameters=parameters)
    given = query([*parameters, *added])
    target = f"{whole}?{given}".encode()
    return Request("GET", target, whole.encode(), given.encode(), "1.1", [], keep_alive=True)


def get(server: Server, path: str, *parameters: tuple[str, str]) -> tuple[int, str]:
    """Return the answer to a signed request."""
    answer = server.routes.handle(signed_get(path, *parameters))
    assert isinstance(answer, Response)
    return answer.status, answer.body.decode()


@pytest.mark.parametrize("path", ["", "/users", "/stats"])
@pytest.mark.parametrize("name", ["presence-a%20b", "presence-a!", "presence-" + "x" * 200])
def test_every_endpoint_of_a_channel_refuses_a_name_that_is_none(path: str, name: str) -> None:
    status, text = get(Server(), f"/channels/{name}{path}")
    assert (status, text.startswith("Invalid channel name: presence-")) == (400, True)


@pytest.mark.parametrize("path", ["", "/users", "/stats"])
def test_a_name_may_be_as_long_as_the_limit(path: str) -> None:
    name = "presence-".ljust(200, "x")
    assert get(Server(), f"/channels/{name}{path}")[0] == 200


@pytest.mark.parametrize("path", ["", "/c", "/presence-c/users", "/presence-c/stats"])
def test_parameters_that_an_endpoint_does_not_know_are_refused(path: str) -> None:
    status, text = get(Server(), f"/channels{path}", ("colour", "red"), ("b", "c"))
    assert status == 400
    assert text == "The following query string parameters are extraneous: colour, b\n"


@pytest.mark.parametrize(
    ("path", "info", "status"),
    [
        ("", "user_count", 400),
        ("", "subscription_count", 200),
        ("", "cache", 400),
        ("", "", 200),
        ("", "subscription_count,subscription_count", 200),
        ("", "subscription_count,", 400),
        ("/c", "user_count", 400),
        ("/c", "cache", 400),
        ("/c", "subscription_count", 200),
        ("/presence-c", "user_count,subscription_count", 200),
        ("/presence-c", "cache", 400),
        ("/cache-c", "cache", 200),
        ("/presence-cache-c", "cache,user_count", 200),
    ],
)
def test_attributes_are_told_of_channels_that_have_them(path: str, info: str, status: int) -> None:
    assert get(Server(), f"/channels{path}", ("info", info))[0] == status


def test_user_counts_are_told_where_only_presence_channels_are_asked_for() -> None:
    def ask(prefix: str) -> int:
        parameters = (("info", "user_count"), ("filter_by_prefix", prefix))
        return get(Server(), "/channels", *parameters)[0]

    assert [ask(one) for one in ("presence-", "presence-x", "presence", "private-", "")] == [
        *(200, 200, 400, 400, 400)
    ]


def test_of_parameters_with_one_name_the_last_one_counts() -> None:
    def publish(*names: str) -> int:
        extra: Any = (*(("name", one) for one in names), ("channel", "c"), ("data", "x"))
        return Server().ask(Post(body=b"", extra=extra))[0]

    assert publish("pusher:x", "good") == 200
    assert publish("good", "pusher:x") == 400
