"""The examples, and the README's quick start, do what they say: against a real server."""

import asyncio
import http.client
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.rig import APP_ID, KEY, PATIENCE_S, SECRET, Client, Rig, serving

ROOT = Path(__file__).parents[2]
CHAT = ROOT / "examples" / "chat" / "app.py"


class Visitor:
    """A browser's requests to the chat's application."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.token = ""

    async def fetch(
        self, method: str, path: str, body: str | None = None
    ) -> tuple[int, Mapping[str, str], str]:
        return await asyncio.to_thread(self._fetch, method, path, body)

    def _fetch(
        self, method: str, path: str, body: str | None
    ) -> tuple[int, Mapping[str, str], str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            connection.request(method, path, body, {"Authorization": f"Bearer {self.token}"})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read().decode()
        finally:
            connection.close()

    async def get(self, path: str) -> Any:
        status, _, text = await self.fetch("GET", path)
        assert status == 200, text
        return json.loads(text)

    async def post(self, path: str, **fields: str) -> Any:
        status, _, text = await self.fetch("POST", path, json.dumps(fields))
        assert status == 200, text
        return json.loads(text)

    async def join(self, name: str) -> None:
        self.token = (await self.post("/join", name=name))["token"]

    async def authorize(self, client: Client, channel: str) -> tuple[int, str]:
        """Ask as pusher-js asks: with a form."""
        form = f"socket_id={client.socket_id}&channel_name={channel}"
        status, _, text = await self.fetch("POST", "/auth", form)
        return status, text

    async def enter(self, client: Client) -> Any:
        """Subscribe to the room, and return who is there."""
        status, text = await self.authorize(client, "presence-chat")
        assert status == 200, text
        await client.send("pusher:subscribe", {"channel": "presence-chat", **json.loads(text)})
        acknowledgement = json.loads(await client.receive())
        assert acknowledgement["event"] == "pusher_internal:subscription_succeeded"
        return json.loads(acknowledgement["data"])["presence"]


@asynccontextmanager
async def chatting(rig: Rig, *options: str, **environment: str) -> AsyncIterator[int]:
    """Run the chat for the server of *rig*; give its port."""
    command = [sys.executable, str(CHAT), *options, "--listen", "0"]
    command += ["--host", "127.0.0.1", "--port", str(rig.server.port)]
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            line = (await process.stdout.readline()).decode()
        opened = re.fullmatch(r"Open http://localhost:(\d+) in two windows\.\n", line)
        assert opened, line
        yield int(opened[1])
    finally:
        process.terminate()
        await process.communicate()


FLAGS = ("--app_id", APP_ID, "--key", KEY, "--secret", SECRET)


async def test_the_chat_lets_people_in_and_carries_what_they_say() -> None:
    async with serving() as rig, chatting(rig, *FLAGS) as port:
        ada, bob = Visitor(port), Visitor(port)
        await ada.join("Ada")
        await bob.join("  Bob \n Łukasz ")
        async with rig.client() as adas, rig.client() as bobs:
            assert (await ada.enter(adas))["count"] == 1
            present = await bob.enter(bobs)
            names = [member["name"] for member in present["hash"].values()]
            assert names == ["Ada", "Bob Łukasz"]
            assert "member_added" in await adas.receive()

            await bob.post("/messages", text=' "Hello" <b> ')
            event = json.loads(await adas.receive())
            assert (event["event"], event["channel"]) == ("message", "presence-chat")
            said = json.loads(event["data"])
            assert (said["name"], said["text"]) == ("Bob Łukasz", '"Hello" <b>')
            assert said["user_id"] == present["ids"][1]
            assert json.loads(await bobs.receive()) == event

            await adas.send("client-typing", {}, channel="presence-chat")
            typing = json.loads(await bobs.receive())
            assert (typing["event"], typing["user_id"]) == ("client-typing", present["ids"][0])

            assert await ada.get("/messages") == [said]


async def test_the_chat_serves_its_page() -> None:
    async with serving() as rig, chatting(rig, *FLAGS) as port:
        visitor = Visitor(port)
        for path, content_type in (
            ("/", "text/html; charset=utf-8"),
            ("/chat.css", "text/css; charset=utf-8"),
            ("/chat.js", "text/javascript; charset=utf-8"),
        ):
            status, headers, text = await visitor.fetch("GET", path)
            assert (status, headers["Content-Type"]) == (200, content_type)
            assert text
        settings = await visitor.get("/settings")
        assert settings == {
            "key": KEY,
            "host": "127.0.0.1",
            "port": rig.server.port,
            "channel": "presence-chat",
        }
        status, headers, _ = await visitor.fetch("GET", "/pusher.js")
        assert (status, headers["Location"].startswith("https://js.pusher.com/")) == (302, True)
        assert (await visitor.fetch("GET", "/app.py"))[0] == 404


async def test_a_copy_of_pusher_js_does_without_the_cdn(tmp_path: Path) -> None:
    script = tmp_path / "pusher.min.js"
    script.write_text("a copy")
    async with serving() as rig, chatting(rig, *FLAGS, "--pusher_js", str(script)) as port:
        assert (await Visitor(port).fetch("GET", "/pusher.js"))[::2] == (200, "a copy")


async def test_the_chat_is_configured_by_the_environment_too() -> None:
    environment = {"PUSHER_APP_ID": APP_ID, "PUSHER_APP_KEY": KEY, "PUSHER_APP_SECRET": SECRET}
    async with serving() as rig, chatting(rig, **environment) as port, rig.client() as client:
        visitor = Visitor(port)
        await visitor.join("Ada")
        assert (await visitor.enter(client))["count"] == 1


async def test_the_chat_vouches_for_nobody_else_and_for_no_other_room() -> None:
    async with serving() as rig, chatting(rig, *FLAGS) as port, rig.client() as client:
        visitor = Visitor(port)
        visitor.token = 'beef.{"id":"1","name":"Ada"}'
        assert await visitor.authorize(client, "presence-chat") == (403, "Please join first.\n")
        assert (await visitor.fetch("POST", "/messages", '{"text":"x"}'))[0] == 403
        await visitor.join("Ada")
        assert await visitor.authorize(client, "private-other") == (403, "There is no such room.\n")


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/join", '{"name":" "}', 400),
        ("/join", "[]", 400),
        ("/join", "nonsense", 400),
        ("/messages", '{"text":5}', 400),
        ("/messages", "x" * 20_000, 413),
        ("/elsewhere", "{}", 404),
    ],
)
async def test_the_chat_refuses_what_it_does_not_understand(
    path: str, body: str, status: int
) -> None:
    async with serving() as rig, chatting(rig, *FLAGS) as port:
        visitor = Visitor(port)
        await visitor.join("Ada")
        assert (await visitor.fetch("POST", path, body))[0] == status


async def test_the_chat_says_when_it_cannot_publish() -> None:
    wrong = ("--app_id", APP_ID, "--key", KEY, "--secret", "wrong")
    async with serving() as rig, chatting(rig, *wrong) as port:
        visitor = Visitor(port)
        await visitor.join("Ada")
        status, _, text = await visitor.fetch("POST", "/messages", '{"text":"x"}')
        assert (status, text.startswith("Heliograph says 401: Invalid signature")) == (502, True)


def test_the_chat_asks_for_what_it_needs() -> None:
    done = subprocess.run(
        [sys.executable, CHAT, "--app_id", "1"], capture_output=True, text=True, check=False, env={}
    )
    assert done.returncode == 2
    assert "--key is missing; Heliograph prints it in its development mode" in done.stderr


# -- The README's quick start --------------------------------------------------------------


def quick_start(language: str) -> str:
    """Return the only block of *language* in the quick start that publishes."""
    readme = (ROOT / "README.md").read_text()
    section = readme.partition("## Quick start")[2].partition("\n## ")[0]
    blocks = re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)
    (block,) = [block for block in blocks if "my-event" in block]
    return str(block)


@pytest.mark.parametrize(
    ("language", "command"), [("python", [sys.executable, "-"]), ("sh", ["bash", "-eu"])]
)
async def test_the_quick_start_publishes_as_written(language: str, command: list[str]) -> None:
    """Nothing of the block is changed but the address, which has a free port here."""
    block = quick_start(language)
    assert "8080" in block
    app = {"pusher_app_id": "1", "pusher_app_key": "my-app-key", "pusher_secret": "my-app-secret"}
    async with serving(**app) as rig:
        async with rig.client("/app/my-app-key?protocol=7") as client:
            await client.subscribe("my-channel")
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={**os.environ, "no_proxy": "*"},
            )
            text = block.replace("8080", str(rig.server.port)).replace("localhost", "127.0.0.1")
            printed, _ = await process.communicate(text.encode())
            assert process.returncode == 0, printed
            event = json.loads(await client.receive())
            assert (event["event"], event["channel"]) == ("my-event", "my-channel")
            assert isinstance(json.loads(event["data"])["message"], str)
