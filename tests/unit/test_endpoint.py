"""What a client says of itself before its first message, and what of it is refused."""

import string

import pytest

from heliograph.errors import ClientError
from heliograph.protocols.pusher import endpoint, refusals
from heliograph.protocols.pusher.names import is_channel_name


def code_of(check: object) -> object:
    """What *check* returns, or the code that it refuses with."""
    try:
        return check() if callable(check) else check
    except ClientError as error:
        return error.code if error.closes else error


@pytest.mark.parametrize(
    ("path", "prefix", "key"),
    [
        ("/app/k", "", "k"),
        ("/app/k/", "", "k"),
        ("/ws/app/k", "/ws", "k"),
        ("/app/k", "/ws", 4005),
        ("/ws/app/k", "", 4005),
        ("/app/", "", 4005),
        ("/app", "", 4005),
        ("/app//", "", 4005),
        ("/app/k/l", "", 4005),
        ("/app/k//", "", 4005),
        ("/apps/k", "", 4005),
        ("/xyz/k", "", 4005),
        ("/xy/app/k", "/ws", 4005),
        ("/x/app/k", "", 4005),
        ("/", "", 4005),
        ("", "", 4005),
    ],
)
def test_a_path_names_one_key(path: str, prefix: str, key: object) -> None:
    assert code_of(lambda: endpoint.app_key(path, prefix)) == key
    assert endpoint.is_endpoint(path, prefix) is isinstance(key, str)
    asked = path.encode()
    assert key == code_of(
        lambda: endpoint.requested_app(asked, b"protocol=7", prefix, lenient=False)
    )


@pytest.mark.parametrize(
    ("query", "version"),
    [
        *((f"protocol={number}", number) for number in (4, 5, 6, 7)),
        *((f"protocol={number}", 4007) for number in (0, 1, 2, 3, 8, 9, 10, 70)),
        *(
            (f"protocol={text}", 4007)
            for text in (
                "07",
                "+7",
                "-7",
                "7.0",
                "%207",
                "x",
                "\N{ARABIC-INDIC DIGIT SEVEN}",
                "\N{SUPERSCRIPT TWO}",
            )
        ),
        ("protocol=7&protocol=3", 7),
        ("protocol=3&protocol=7", 4007),
        ("protocol=", 4008),
        ("protocol", 4008),
        ("Protocol=7", 4008),
        ("", 4008),
    ],
)
def test_the_version_of_the_protocol_is_one_of_ours(query: str, version: int) -> None:
    parameters = endpoint.query_parameters(query.encode())
    assert code_of(lambda: endpoint.check_protocol(parameters, lenient=False)) == version
    lenient = 7 if version == 4008 else version
    assert code_of(lambda: endpoint.check_protocol(parameters, lenient=True)) == lenient


def test_a_subprotocol_is_echoed_if_it_is_pushers_and_whole() -> None:
    ours = b"pusher-channels-protocol-7"
    assert endpoint.subprotocol([b"x", ours, b"pusher-channels-protocol-6"]) == ours
    for other in (b"", b"pusher-channels-protocol-", ours + b"x", b"x" + ours, ours.upper()):
        assert endpoint.subprotocol([other]) is None


def test_a_query_is_split_as_pushers_libraries_write_it() -> None:
    assert endpoint.query_parameters(b"a=b=c&&d&=e&f=g;h,i") == [
        *(("a", "b=c"), ("d", ""), ("", "e"), ("f", "g;h,i")),
    ]
    assert endpoint.query_parameters(b"a%20b=c+d&e=%C3%A9&f=%ff") == [
        *(("a b", "c d"), ("e", "é"), ("f", "\N{REPLACEMENT CHARACTER}")),
    ]


LEGAL = {*string.ascii_letters, *string.digits, *"-_=@,.;"}


def test_a_name_is_of_certain_characters_and_no_others() -> None:
    for character in map(chr, range(0x250)):
        legal = character in LEGAL
        for name in (character, f"a{character}", f"{character}a", f"a{character}a"):
            assert is_channel_name(name, 0) is legal, ascii(name)
    assert is_channel_name("#server-to-user-a", 0)
    for name in ("#a", "#server-to-user-", "a#server-to-user-a", "#server-to-user-a#", ""):
        assert not is_channel_name(name, 0)


LONG = "x" * 5000


@pytest.mark.parametrize(
    "error",
    [
        refusals.invalid_signature(LONG, LONG),
        refusals.invalid_key(LONG),
        refusals.not_subscribed(LONG),
        refusals.invalid_channel_name(LONG),
        refusals.client_event_not_subscribed(LONG),
        refusals.unsupported_event(LONG),
    ],
)
def test_what_a_client_sent_is_repeated_in_part_only(error: ClientError) -> None:
    assert len(error.message) < 1200
    assert "x" * 32 in error.message
    assert not error.closes
    assert error.code is None


def test_what_is_short_is_repeated_whole() -> None:
    assert refusals.invalid_key("x" * 20).message.endswith(f"'{'x' * 20}'")
