"""The publisher of `heliograph.client`, at real servers and at some that are none."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from heliograph.client.errors import InvalidAnswer, RequestRefused, Unreachable
from heliograph.client.listener import Listener
from heliograph.client.publisher import OutgoingEvent, Publisher
from heliograph.client.signing import Credentials
from tests import certificates
from tests.conftest import StartServer
from tests.integration.rig import APP_ID, KEY, PATIENCE_S, SECRET, Rig, serving

APP = Credentials(KEY, SECRET)


def publisher(url: str, **options: Any) -> Publisher:
    return Publisher(url, APP_ID, options.pop("credentials", APP), **options)


@asynccontextmanager
async def listening(rig: Rig, *channels: str) -> AsyncIterator[Listener]:
    async with await Listener.connect(rig.url, APP) as listener:
        for channel in channels:
            await listener.subscribe(channel)
        yield listener


async def heard(listener: Listener, number: int) -> list[tuple[str | None, str, str]]:
    async with asyncio.timeout(PATIENCE_S):
        events = [await listener.receive() for _ in range(number)]
    return [(event.channel, event.name, event.data) for event in events]


async def test_events_reach_their_channels() -> None:
    async with serving() as rig, listening(rig, "a", "private-b") as listener:
        async with publisher(rig.url) as api:
            assert await api.publish("a", "n", "text") == {}
            assert await api.publish(["a", "private-b"], "n", {"x": [1, "é"]}) == {}
            assert (
                await api.publish_batch(
                    [OutgoingEvent("a", "m", 1), OutgoingEvent("private-b", "m", None)]
                )
                == []
            )
            await api.publish("a", "left out", "", socket_id=listener.socket_id)
            await api.publish("a", "last", "")
        assert await heard(listener, 6) == [
            ("a", "n", "text"),
            ("a", "n", '{"x":[1,"é"]}'),
            ("private-b", "n", '{"x":[1,"é"]}'),
            ("a", "m", "1"),
            ("private-b", "m", "null"),
            ("a", "last", ""),
        ]


async def test_answers_have_the_attributes_that_were_asked_for() -> None:
    both = ("subscription_count", "user_count")
    async with serving() as rig, listening(rig, "a") as listener, publisher(rig.url) as api:
        await listener.subscribe("presence-b", {"user_id": "ann"})
        assert await api.publish(["a", "presence-b"], "n", "", info=both) == {
            "a": {"subscription_count": 1},
            "presence-b": {"subscription_count": 1, "user_count": 1},
        }
        assert await api.publish_batch(
            [OutgoingEvent("a", "n", ""), OutgoingEvent("a", "n", "", info=["subscription_count"])]
        ) == [{}, {"subscription_count": 1}]
        assert await api.channels() == {"a": {}, "presence-b": {}}
        assert await api.channels(prefix="presence-", info=["user_count"]) == {
            "presence-b": {"user_count": 1}
        }
        assert await api.channel("a", info=["subscription_count"]) == {
            "occupied": True,
            "subscription_count": 1,
        }
        assert await api.channel("=@,;x_-.") == {"occupied": False}
        assert await api.users("presence-b") == ["ann"]


async def test_a_user_is_reached_and_terminated_whatever_the_id() -> None:
    user_id = "ann;=@,_-."
    async with serving() as rig, listening(rig) as listener, publisher(rig.url) as api:
        await listener.sign_in({"id": user_id})
        await listener.subscribe(f"#server-to-user-{user_id}")
        await api.publish_to_user(user_id, "n", "for ann")
        assert await heard(listener, 1) == [(f"#server-to-user-{user_id}", "n", "for ann")]
        await listener.subscribe("presence-c", {"user_id": "ü/ser 1+%20?"})
        assert await api.users("presence-c") == ["ü/ser 1+%20?"]
        await api.terminate("ü/ser 1+%20?")  # nobody is signed in so, and the signature is right
        await api.terminate(user_id)
        async with asyncio.timeout(PATIENCE_S):
            assert (await listener.closed()).code == 4009


async def test_requests_share_one_connection_in_their_order() -> None:
    async with serving() as rig, listening(rig, "c") as listener, publisher(rig.url) as api:
        await asyncio.gather(*(api.publish("c", "n", str(number)) for number in range(50)))
        assert len(rig.server.context.http_connections) == 1
        assert [data for _, _, data in await heard(listener, 50)] == [str(n) for n in range(50)]


async def test_a_closed_publisher_opens_a_connection_again() -> None:
    async with serving() as rig:
        api = publisher(rig.url)
        await api.close()
        assert await api.channels() == {}
        await api.close()
        assert await api.channels() == {}
        await api.close()


async def test_what_the_server_refuses_has_its_status_and_its_text() -> None:
    async with serving(max_event_bytes=10) as rig, publisher(rig.url) as api:
        with pytest.raises(RequestRefused) as refused:
            await api.publish("c", "n", "x" * 11)
        assert refused.value.status == 413
        assert refused.value.message.startswith("The data content of this event exceeds")
        with pytest.raises(RequestRefused, match=r"400 Invalid channel name: a b"):
            await api.publish("a b", "n", "")
        assert await api.publish("c", "n", "x" * 10) == {}


async def test_a_refused_signature_is_an_error_that_has_no_secret() -> None:
    wrong = Credentials(KEY, "another")
    async with serving() as rig, publisher(rig.url, credentials=wrong) as api:
        with pytest.raises(RequestRefused, match="401 Invalid signature") as refused:
            await api.channels()
        assert "another" not in str(refused.value)


async def test_requests_are_signed_with_the_time_of_the_clock() -> None:
    async with serving() as rig, publisher(rig.url, clock=lambda: 1353088179.0) as api:
        with pytest.raises(
            RequestRefused, match=r"401 Timestamp expired: Given timestamp \(2012-11-"
        ):
            await api.channels()


async def test_a_prefix_of_the_path_is_not_signed() -> None:
    async with serving(path_prefix="/realtime") as rig:
        for url in (f"{rig.url}/realtime", f"{rig.url}/realtime/"):
            async with publisher(url) as api:
                assert await api.channels() == {}
        async with publisher(rig.url) as api:
            with pytest.raises(RequestRefused, match="404"):
                await api.channels()


async def test_a_server_with_tls_is_verified(tmp_path: Path) -> None:
    pair = certificates.make(tmp_path, "pair")
    async with serving(**pair.options) as rig:
        url = f"wss://localhost:{rig.server.port}"
        async with publisher(url, ssl=pair.trusting()) as api:
            assert await api.publish("c", "n", "") == {}
        async with publisher(url) as api:
            with pytest.raises(Unreachable, match="certificate verify failed"):
                await api.channels()


async def test_a_server_that_goes_away_is_unreachable_until_it_is_back(
    start_server: StartServer,
) -> None:
    server = start_server()
    async with publisher(server.url) as api:
        assert await api.channels() == {}
        await asyncio.to_thread(server.kill)
        with pytest.raises(Unreachable):
            await api.channels()
        await asyncio.to_thread(server.start)
        assert await api.channels() == {}


@asynccontextmanager
async def answering(answer: bytes | None) -> AsyncIterator[str]:
    """A server that sends *answer* to each request, or nothing at all."""
    served: asyncio.Queue[None] = asyncio.Queue()
    begun = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal begun
        begun += 1
        await reader.readuntil(b"\r\n\r\n")
        if answer is None:
            await reader.read()
        else:
            writer.write(answer)
        writer.close()
        await writer.wait_closed()
        served.put_nowait(None)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for _ in range(begun):
            await served.get()


async def test_no_answer_in_time_is_an_error() -> None:
    async with answering(None) as url, publisher(url, timeout_s=0.1) as api:
        with pytest.raises(Unreachable, match=r"no answer within 0\.1 s"):
            await api.channels()


def ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (ok(b"no"), InvalidAnswer, "the answer is not a JSON object: no"),
        (ok(b"[]"), InvalidAnswer, "the answer is not a JSON object: "),
        (ok(b"\xff"), InvalidAnswer, "the answer is not a JSON object: \ufffd"),
        (ok(b"x" * 101), InvalidAnswer, "the answer exceeds 100 bytes"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", InvalidAnswer, "the answer is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", Unreachable, "not completed"),
        (b"", Unreachable, "Server disconnected"),
        (
            b"HTTP/1.1 301 X\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n",
            RequestRefused,
            "301",
        ),
    ],
)
async def test_answers_of_other_servers_are_errors(
    answer: bytes, error: type[Exception], text: str
) -> None:
    async with answering(answer) as url, publisher(url, max_answer_bytes=100) as api:
        with pytest.raises(error, match=text):
            await api.channels()


async def test_an_answer_may_be_as_large_as_the_limit() -> None:
    body = json.dumps({"channels": {}}).encode()
    async with answering(ok(body)) as url:
        async with publisher(url, max_answer_bytes=len(body)) as api:
            assert await api.channels() == {}
        async with publisher(url, max_answer_bytes=len(body) - 1) as api:
            with pytest.raises(InvalidAnswer):
                await api.channels()


async def test_a_port_that_nobody_listens_on_is_unreachable() -> None:
    async with publisher("http://127.0.0.1:1") as api:
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1"):
            await api.channels()
