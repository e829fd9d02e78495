"""The URL of a server, as `heliograph.client` accepts it."""

import pytest

from heliograph.client.publisher import Publisher
from heliograph.client.signing import Credentials
from heliograph.client.urls import HTTP, WEBSOCKET, base_url


@pytest.mark.parametrize(
    ("url", "http", "websocket"),
    [
        ("ws://a", "http://a", "ws://a"),
        ("http://a:80/", "http://a:80", "ws://a:80"),
        ("WSS://a.example:65535/p/q/", "https://a.example:65535/p/q", "wss://a.example:65535/p/q"),
        ("https://[::1]:8080/p", "https://[::1]:8080/p", "wss://[::1]:8080/p"),
    ],
)
def test_requests_and_websockets_use_one_address(url: str, http: str, websocket: str) -> None:
    assert base_url(url, HTTP) == http
    assert base_url(url, WEBSOCKET) == websocket


@pytest.mark.parametrize(
    "url",
    ["", "a", "a:8080", "ftp://a", "ws://", "ws:///p", "ws://[::1", "ws://a:65536", "ws://a:0"],
)
def test_what_is_no_url_of_a_server_is_refused_at_once(url: str) -> None:
    for schemes in (HTTP, WEBSOCKET):
        with pytest.raises(ValueError, match="is not a URL such as wss://"):
            base_url(url, schemes)
    with pytest.raises(ValueError, match="is not a URL such as wss://"):
        Publisher(url, "1", Credentials("key", "secret"))
