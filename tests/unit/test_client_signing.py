"""The signatures of `heliograph.client`, by the vectors of Pusher's documents."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.client.signing import Credentials, body_md5, query, request_text
from heliograph.protocols.pusher import auth

KEY = "278d425bdf160c739803"
SECRET = "7ad3773142a6692b25b8"
APP = Credentials(KEY, SECRET)
SOCKET_ID = "1234.1234"
AT = 1353088179
MEMBER = '{"user_id":10,"user_info":{"name":"Mr. Channels"}}'


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
            MEMBER,
            "31935e7d86dba64c2a90aed31fdc61869f9b22ba9d8863bba239c03ca481bc80",
        ),
        (
            "presence-foobar",
            MEMBER.replace("Channels", "Pusher"),  # the signature that the document prints
            "afaed3695da2ffd16931f457e338e6c9f2921fa133ce7dac49f529792be6304c",
        ),
        (
            "private-foobar",
            "",
            "fb799eb5e55306a4911a0b1f25f875bb765b797ea357a8d311a40259e66eadcf",
        ),
    ],
)
def test_a_subscription_is_signed_as_the_documents_say(
    channel: str, channel_data: str | None, signature: str
) -> None:
    signed = APP.authorize_subscription(SOCKET_ID, channel, channel_data)
    assert signed == f"{KEY}:{signature}"


def test_a_sign_in_is_signed_as_the_documents_say() -> None:
    assert APP.authorize_user(SOCKET_ID, '{"id":"12345"}') == (
        f"{KEY}:4708d583dada6a56435fb8bc611c77c359a31eebde13337c16ab43aa6de336ba"
    )


BODY = b'{"name":"foo","channels":["project-3"],"data":"{\\"some\\":\\"data\\"}"}'


def test_a_publish_is_signed_as_the_documents_say() -> None:
    assert APP.request_parameters("POST", "/apps/3/events", at=AT, body=BODY) == [
        ("auth_key", KEY),
        ("auth_timestamp", "1353088179"),
        ("auth_version", "1.0"),
        ("body_md5", "ec365a775a4cd0599faeb73354201b6f"),
        ("auth_signature", "da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c"),
    ]


def test_a_query_is_signed_as_the_documents_say() -> None:
    target = APP.request_target(
        "get",
        "/apps/3/channels",
        at=AT + 0.9,
        parameters=[("info", "user_count"), ("filter_by_prefix", "presence-")],
    )
    assert target == (
        f"/apps/3/channels?auth_key={KEY}&auth_timestamp=1353088179&auth_version=1.0"
        "&filter_by_prefix=presence-&info=user_count"
        "&auth_signature=16819168891cb5dfd72b5c7a5d3d602605b26c6ba1930033b5e2eeeb65010291"
    )


def test_a_body_without_bytes_has_no_checksum() -> None:
    names = [name for name, _ in APP.request_parameters("GET", "/apps/3/channels", at=AT)]
    assert names == ["auth_key", "auth_timestamp", "auth_version", "auth_signature"]


def test_values_are_signed_as_they_are_and_sent_percent_encoded() -> None:
    target = APP.request_target("GET", "/p", at=AT, parameters=[("z", "a b&c=ü/+")])
    assert "&z=a%20b%26c%3D%C3%BC%2F%2B&auth_signature=" in target
    signed = f"GET\n/p\nauth_key={KEY}&auth_timestamp={AT}&auth_version=1.0&z=a b&c=ü/+"
    assert target.endswith(f"&auth_signature={APP.sign(signed)}")


def test_repeated_parameters_keep_their_order() -> None:
    parameters = [("b[]", "2"), ("B[]", "1"), ("a", "0")]
    assert request_text("GET", "/", parameters) == "GET\n/\na=0&b[]=2&b[]=1"
    assert query(parameters) == "b[]=2&B[]=1&a=0"


def test_no_representation_has_the_secret() -> None:
    assert repr(APP) == f"Credentials(key='{KEY}')"
    assert SECRET not in str(APP)


PARAMETERS = st.lists(st.tuples(st.text("abAB[]_", min_size=1), st.text("a& =é1")))


@given(
    secret=st.text(st.characters(exclude_categories=["Cs"]), max_size=100),
    method=st.sampled_from(["GET", "post"]),
    parameters=PARAMETERS,
    body=st.binary(),
)
def test_whatever_the_request_the_server_computes_the_same_signature(
    secret: str, method: str, parameters: list[tuple[str, str]], body: bytes
) -> None:
    """Both sides have code of their own."""
    *added, (name, signature) = Credentials("key", secret).request_parameters(
        method, "/apps/1/events", at=AT, parameters=parameters, body=body
    )
    expected = auth.request_string(method, "/apps/1/events", [*parameters, *added])
    assert (name, signature) == ("auth_signature", auth.sign(secret.encode(), expected))
    assert body_md5(body) == auth.body_md5(body)
