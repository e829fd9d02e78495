"""Signatures, by the vectors of Pusher's documentation and of its libraries."""

import hashlib
import hmac
from collections.abc import Callable

import pytest

from heliograph.protocols.pusher import auth

SECRET = b"7ad3773142a6692b25b8"


@pytest.mark.parametrize(
    ("channel", "channel_data", "signature"),
    [
        (
            "private-foobar",
            None,
            "58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4",
        ),
        (
            "presence-foobar",
            '{"user_id":10,"user_info":{"name":"Mr. Channels"}}',
            "31935e7d86dba64c2a90aed31fdc61869f9b22ba9d8863bba239c03ca481bc80",
        ),
        (
            "private-foobar",
            '{"user_id":10,"user_info":{"name":"Mr. Channels"}}',
            "c0fce2476efabe5968aaaed2f994c63d0500b98879e0cf55005f2744a96a4331",
        ),
        (
            "private-foobar",
            "",
            "fb799eb5e55306a4911a0b1f25f875bb765b797ea357a8d311a40259e66eadcf",
        ),
        (
            "presence-foobar",
            None,
            "71506e66e7fdca106571b8999a849ad34245bc653772e51e0026c1a2475b92ba",
        ),
    ],
)
def test_channel_signatures(channel: str, channel_data: str | None, signature: str) -> None:
    text = auth.channel_string("1234.1234", channel, channel_data)
    assert auth.sign(SECRET, text) == signature


def test_user_signature() -> None:
    text = auth.user_string("1234.1234", '{"id":"12345"}')
    assert auth.sign(SECRET, text) == (
        "4708d583dada6a56435fb8bc611c77c359a31eebde13337c16ab43aa6de336ba"
    )


COMMON = [
    ("auth_key", "278d425bdf160c739803"),
    ("auth_timestamp", "1353088179"),
    ("auth_version", "1.0"),
]


def test_signature_of_a_post() -> None:
    body = b'{"name":"foo","channels":["project-3"],"data":"{\\"some\\":\\"data\\"}"}'
    assert auth.body_md5(body) == "ec365a775a4cd0599faeb73354201b6f"
    text = auth.request_string(
        "POST", "/apps/3/events", [*COMMON, ("body_md5", auth.body_md5(body))]
    )
    assert auth.sign(SECRET, text) == (
        "da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c"
    )


GET = [("info", "user_count"), ("filter_by_prefix", "presence-"), *COMMON]


@pytest.mark.parametrize(
    ("parameters", "signature"),
    [
        (GET, "16819168891cb5dfd72b5c7a5d3d602605b26c6ba1930033b5e2eeeb65010291"),
        (
            [*GET, ("body_md5", "d41d8cd98f00b204e9800998ecf8427e")],  # the Python SDK's way
            "f3f17c61ae491cc9085db68b22076e9b772e3bcb301659d655153ee3f9782aba",
        ),
    ],
)
def test_signature_of_a_get(parameters: list[tuple[str, str]], signature: str) -> None:
    text = auth.request_string("get", "/apps/3/channels", parameters)
    assert auth.sign(SECRET, text) == signature


def test_repeated_parameters_keep_their_order() -> None:
    parameters = [("b[]", "2"), ("B[]", "1"), ("a", "0")]
    assert auth.request_string("GET", "/", parameters) == "GET\n/\na=0&b[]=2&b[]=1"


def test_what_cannot_be_encoded_never_matches_and_never_raises() -> None:
    assert not auth.matches(auth.sign(SECRET, "\ud800"), "\udfff")


@pytest.mark.parametrize("length", [1, 63, 64, 65, 200])
def test_a_prepared_signer_signs_as_hmac_does(length: int) -> None:
    secret = b"s" * length
    signer = auth.Signer(secret)
    for message in (b"", b"m", b"m" * 1000):
        assert signer.sign(message) == hmac.new(secret, message, "sha256").hexdigest()
        assert signer.signed(message, signer.sign(message).encode())
        assert not signer.signed(message + b"x", signer.sign(message).encode())


# -- In constant time ------------------------------------------------------------------------

MD5_OF_BODY = hashlib.md5(b"body", usedforsecurity=False).hexdigest().encode()


@pytest.mark.interpreted
@pytest.mark.parametrize(
    ("compares", "expected", "received"),
    [
        (lambda: auth.matches("right", "given"), b"right", b"given"),
        (lambda: auth.matches("same", "same"), b"same", b"same"),
        (lambda: auth.matches("right", "\udfff"), b"right", b"\xed\xbf\xbf"),
        (
            lambda: auth.Signer(SECRET).signed(b"message", b"given"),
            hmac.new(SECRET, b"message", "sha256").hexdigest().encode(),
            b"given",
        ),
        (lambda: auth.is_checksum(b"given", b"body"), MD5_OF_BODY, b"given"),
        (lambda: auth.is_checksum(MD5_OF_BODY, b"body"), MD5_OF_BODY, MD5_OF_BODY),
    ],
)
def test_what_is_secret_is_compared_in_constant_time(
    compares: Callable[[], bool], expected: bytes, received: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `hmac.compare_digest`, which is given both whole, and whose answer is the answer."""
    compared: list[tuple[bytes, bytes]] = []
    answers = iter([True, False])

    def compare_digest(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return next(answers)

    monkeypatch.setattr(hmac, "compare_digest", compare_digest)
    assert [compares(), compares()] == [True, False]
    assert [set(pair) for pair in compared] == [{expected, received}] * 2


@pytest.mark.parametrize("wrong", [b"", b"0" * 32, MD5_OF_BODY.upper(), MD5_OF_BODY + b"0"])
def test_a_checksum_is_that_of_the_body_in_lower_case(wrong: bytes) -> None:
    assert auth.is_checksum(MD5_OF_BODY, b"body")
    assert auth.body_md5(b"body").encode() == MD5_OF_BODY
    assert not auth.is_checksum(wrong, b"body")
    assert not auth.is_checksum(MD5_OF_BODY, b"body ")


def test_a_signature_is_whole_and_in_lower_case() -> None:
    right = auth.sign(SECRET, "text")
    assert auth.matches(right, right)
    for wrong in ("", right[:-1], right + "0", right.upper(), "0" * 64):
        assert not auth.matches(right, wrong)
        assert not auth.Signer(SECRET).signed(b"text", wrong.encode())


def test_the_method_of_a_request_is_signed_in_capitals_and_names_are_not() -> None:
    text = auth.request_string("post", "/p", [("B", "X"), ("a", "Y")])
    assert text == "POST\n/p\na=Y&b=X"
