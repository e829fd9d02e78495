"""The opening handshake, by the RFC's example and against the client of websockets."""

import pytest
from websockets.client import ClientProtocol
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from heliograph.wire.websocket import (
    MAX_SUBPROTOCOLS,
    HandshakeRefused,
    accept_key,
    check_handshake,
    cut_at_key,
    handshake_response,
    is_key,
    offered_subprotocols,
)

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
GOOD = {
    b"host": b"example.com",
    b"upgrade": b"websocket",
    b"connection": b"Upgrade",
    b"sec-websocket-key": KEY,
    b"sec-websocket-version": b"13",
}


def test_the_example_of_the_rfc() -> None:
    assert accept_key(KEY) == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert check_handshake("GET", "1.1", list(GOOD.items())) == KEY
    assert handshake_response(KEY, subprotocol=b"chat") == (
        b"HTTP/1.1 101 Switching Protocols\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
        b"Sec-WebSocket-Protocol: chat\r\n"
        b"\r\n"
    )


def test_lists_and_letters_are_read_as_http_has_them() -> None:
    headers = {**GOOD, b"upgrade": b"h2c, WebSocket", b"connection": b"keep-alive, UPGRADE"}
    assert check_handshake("GET", "1.1", list(headers.items())) == KEY


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({b"upgrade": b"h2c"}, 426),
        ({b"connection": b"close"}, 400),
        ({b"sec-websocket-version": b"8"}, 426),
        ({b"sec-websocket-version": b"13, 8"}, 426),
        ({b"sec-websocket-key": b"short"}, 400),
        ({b"sec-websocket-key": b"c2hvcnQ="}, 400),
        ({b"sec-websocket-key": b""}, 400),
    ],
)
def test_what_is_no_handshake(changes: dict[bytes, bytes], status: int) -> None:
    with pytest.raises(HandshakeRefused) as caught:
        check_handshake("GET", "1.1", list({**GOOD, **changes}.items()))
    assert caught.value.status == status


def test_another_method_another_version_and_two_keys_are_none_either() -> None:
    headers = list(GOOD.items())
    for method, version, offered in (
        ("POST", "1.1", headers),
        ("GET", "1.0", headers),
        ("GET", "1.1", [*headers, (b"sec-websocket-key", KEY)]),
    ):
        with pytest.raises(HandshakeRefused):
            check_handshake(method, version, offered)


def test_offers_that_are_no_tokens_are_left_out() -> None:
    headers = [(b"sec-websocket-protocol", b"a, b c,,d"), (b"sec-websocket-protocol", b"e\r\nX: y")]
    assert offered_subprotocols(headers) == [b"a", b"d"]


def test_a_header_that_would_break_the_answer_is_our_fault() -> None:
    with pytest.raises(ValueError, match="one line"):
        handshake_response(KEY, headers=[(b"X", b"a\r\nb")])


def test_websockets_accepts_our_answer() -> None:
    theirs = ClientProtocol(parse_uri("ws://example.com/"), subprotocols=[Subprotocol("chat")])
    request = theirs.connect()
    headers = [(name.lower().encode(), value.encode()) for name, value in request.headers.items()]
    key = check_handshake("GET", "1.1", headers)
    (offer,) = offered_subprotocols(headers)
    theirs.receive_data(handshake_response(key, subprotocol=offer))
    assert theirs.handshake_exc is None
    assert theirs.subprotocol == "chat"


def test_of_endless_offers_of_subprotocols_only_the_first_are_read() -> None:
    offers = [b"a%d" % number for number in range(8000)]
    headers = [(b"sec-websocket-protocol", b",".join(offers))]
    assert offered_subprotocols(headers) == offers[:MAX_SUBPROTOCOLS]


def test_a_handshake_is_cut_around_its_key() -> None:
    before, after = b"GET / HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Key: ", b"\r\nX: y\r\n\r\n"
    assert cut_at_key(before + KEY + after) == (before, KEY, after)
    assert cut_at_key(before + KEY) == (before, KEY, b"")
    assert cut_at_key(before + KEY[:-1]) is None
    assert cut_at_key(before.lower() + KEY + after) is None
    assert cut_at_key(b"Sec-WebSocket-Key: " + KEY) is None
    assert cut_at_key(b"") is None


def test_a_key_is_sixteen_bytes_in_base64() -> None:
    assert is_key(KEY)
    for other in (b"", KEY[:-1], KEY + b"=", KEY + b"A", KEY[:-4], b"!" + KEY[1:], b" " + KEY):
        assert not is_key(other)
