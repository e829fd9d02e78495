"""
The opening handshake: what exactly is refused and how, and websockets' client as its oracle.

The RFC's example and the simple refusals are in `test_handshake.py`.
"""

import base64
import re
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from heliograph.wire.websocket import (
    HandshakeRefused,
    check_handshake,
    handshake_response,
    offered_subprotocols,
)

Fields = list[tuple[bytes, bytes]]

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = (b"upgrade", b"websocket")
CONNECTION = (b"connection", b"Upgrade")
VERSION = (b"sec-websocket-version", b"13")
OFFERED_KEY = (b"sec-websocket-key", KEY)
GOOD: Fields = [UPGRADE, CONNECTION, VERSION, OFFERED_KEY]


def without(field: tuple[bytes, bytes], *instead: tuple[bytes, bytes]) -> Fields:
    return [*(one for one in GOOD if one != field), *instead]


def refusal(headers: Fields, method: str = "GET", version: str = "1.1") -> HandshakeRefused:
    with pytest.raises(HandshakeRefused) as caught:
        check_handshake(method, version, headers)
    return caught.value


def outcome(method: str, headers: Fields) -> bytes | HandshakeRefused:
    try:
        return check_handshake(method, "1.1", headers)
    except HandshakeRefused as refused:
        return refused


# -- Refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        [],
        without(UPGRADE),
        without(UPGRADE, (b"upgrade", b"")),
        without(UPGRADE, (b"upgrade", b"websockets")),  # a member of the list, not a part of one
        without(UPGRADE, (b"upgrade", b"not websocket")),
    ],
)
def test_without_an_upgrade_to_websocket_the_answer_says_what_is_required(headers: Fields) -> None:
    refused = refusal(headers)
    assert refused.status == 426
    assert list(refused.headers) == [(b"Upgrade", b"websocket"), (b"Connection", b"Upgrade")]
    assert "WebSocket" in refused.text


@pytest.mark.parametrize(
    "headers",
    [
        without(VERSION),
        without(VERSION, (b"sec-websocket-version", b"")),
        without(VERSION, (b"sec-websocket-version", b"8")),
        without(VERSION, (b"sec-websocket-version", b"013")),
        [*GOOD, VERSION],
    ],
)
def test_for_another_version_the_answer_says_ours(headers: Fields) -> None:
    refused = refusal(headers)
    assert refused.status == 426
    assert list(refused.headers) == [(b"Sec-WebSocket-Version", b"13")]


@pytest.mark.parametrize(
    "headers",
    [
        without(OFFERED_KEY),
        [*GOOD, OFFERED_KEY],
        without(OFFERED_KEY, (b"sec-websocket-key", base64.b64encode(bytes(15)))),
        without(OFFERED_KEY, (b"sec-websocket-key", base64.b64encode(bytes(17)))),
        without(OFFERED_KEY, (b"sec-websocket-key", KEY.rstrip(b"="))),
        without(OFFERED_KEY, (b"sec-websocket-key", KEY + b"AAAA")),
        without(OFFERED_KEY, (b"sec-websocket-key", KEY[:4] + b"\n" + KEY[4:])),
        without(OFFERED_KEY, (b"sec-websocket-key", b"\xff" * 24)),
        without(CONNECTION),
        without(CONNECTION, (b"connection", b"upgraded")),
    ],
)
def test_what_else_is_missing_or_broken_is_a_bad_request(headers: Fields) -> None:
    assert refusal(headers).status == 400


def test_a_handshake_is_a_get_of_http_1_1() -> None:
    assert refusal(GOOD, method="POST").status == 400
    assert refusal(GOOD, version="1.0").status == 400


def test_lists_may_go_on_in_another_header() -> None:
    headers = [
        (b"upgrade", b"h2c"),
        (b"upgrade", b" WebSocket "),
        (b"connection", b"keep-alive"),
        (b"connection", b"x,, UPGRADE"),
        VERSION,
        OFFERED_KEY,
    ]
    assert check_handshake("GET", "1.1", headers) == KEY


# -- Whatever is sent ----------------------------------------------------------------------

names = st.sampled_from(
    [b"upgrade", b"connection", b"sec-websocket-key", b"sec-websocket-version", b"host"]
)
values = st.one_of(
    st.binary(max_size=30),
    st.sampled_from([b"websocket", b"Upgrade", b"13", KEY, b"a, b", b"", b","]),
)
fields = st.lists(st.tuples(names, values), max_size=8)


@given(
    st.one_of(fields, fields.map(lambda more: GOOD + more)), st.sampled_from(["GET", "HEAD", ""])
)
def test_any_headers_are_accepted_or_refused(headers: Fields, method: str) -> None:
    result = outcome(method, headers)
    if isinstance(result, HandshakeRefused):
        assert result.status in {400, 426}
        assert result.text.isascii()
        assert result.text.isprintable()
    else:
        assert method == "GET"
        assert len(base64.b64decode(result)) == 16


# As HTTP lets headers through: no control characters, and no space at the ends.
legal_values = st.one_of(
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30).map(str.strip),
    st.sampled_from(["websocket", "Upgrade", "keep-alive, upgrade", "13", KEY.decode()]),
)
legal_fields = st.dictionaries(names.map(bytes.decode), legal_values, max_size=5)
good_fields = {name.decode(): value.decode() for name, value in GOOD}


@given(legal_fields.map(lambda changes: {**good_fields, **changes}))
@example(good_fields)
def test_what_we_accept_the_server_of_websockets_accepts(headers: dict[str, str]) -> None:
    """It never is the stricter one, but for a list of upgrades: it wants websocket alone."""
    fields = [(name.encode(), value.encode()) for name, value in headers.items()]
    if isinstance(outcome("GET", fields), HandshakeRefused):
        return
    try:
        ServerProtocol().process_request(Request("/", Headers(headers)))
    except InvalidHandshake:
        assert "," in headers["upgrade"]


# -- The answer ----------------------------------------------------------------------------

TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
tokens = st.from_regex(TOKEN, fullmatch=True).filter(lambda token: len(token) < 40)


def shake_hands(offers: Sequence[str], choice: int) -> ClientProtocol:
    """A client of websockets after our answer, which has chosen one of its *offers*."""
    theirs = ClientProtocol(
        parse_uri("ws://example.com/app/key"),
        subprotocols=[Subprotocol(offer) for offer in offers] or None,
    )
    request = theirs.connect()
    headers = [(name.lower().encode(), value.encode()) for name, value in request.headers.items()]
    key = check_handshake("GET", "1.1", headers)
    offered = offered_subprotocols(headers)
    assert offered == [offer.encode() for offer in offers]
    chosen = offered[choice % len(offered)] if offered else None
    theirs.receive_data(handshake_response(key, subprotocol=chosen))
    return theirs


@given(st.lists(tokens, max_size=4, unique=True), st.integers(0, 3))
def test_websockets_takes_our_answer_with_any_subprotocol_it_offered(
    offers: list[str], choice: int
) -> None:
    theirs = shake_hands(offers, choice)
    assert theirs.handshake_exc is None
    assert theirs.subprotocol == (offers[choice % len(offers)] if offers else None)


@pytest.mark.parametrize(
    "subprotocol",
    [b"", b" ", b"a b", b"a,b", b"a;b", b"a\r\nSet-Cookie: x", b"a\n", b"\xff", b"a\x00", b'"a"'],
)
def test_a_subprotocol_that_is_no_token_is_never_said(subprotocol: bytes) -> None:
    with pytest.raises(ValueError, match="token"):
        handshake_response(KEY, subprotocol=subprotocol)


@given(st.binary(max_size=40))
def test_what_a_client_offers_becomes_no_header_of_its_own(offer: bytes) -> None:
    for subprotocol in offered_subprotocols([(b"sec-websocket-protocol", offer)]):
        head = handshake_response(KEY, subprotocol=subprotocol)
        assert head.endswith(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        assert lines[4:] == [b"Sec-WebSocket-Protocol: " + subprotocol, b"", b""]


def test_more_headers_follow_as_they_are_spelled() -> None:
    head = handshake_response(KEY, headers=[(b"X-One", b"1"), (b"x-two", b"2")])
    assert head.endswith(b"\r\nX-One: 1\r\nx-two: 2\r\n\r\n")
