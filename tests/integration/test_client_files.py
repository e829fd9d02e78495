"""Files for pages, from a real server: the add-on to pusher-js."""

import pytest

from tests.integration.rig import parse, serving
from tests.integration.test_http import wire
from tests.unit.test_addon import ADDON

PATH = "/clients/heliograph-resume-1.js"


async def test_the_add_on_is_served_on_a_port_for_clients() -> None:
    async with serving(metrics=True) as rig:
        reply = await rig.fetch("GET", PATH)
        assert (reply.status, reply.body) == (200, ADDON)
        assert reply.headers["Content-Type"] == "text/javascript; charset=utf-8"
        reply = await rig.fetch("HEAD", PATH)
        assert (reply.status, reply.body) == (200, b"")
        assert reply.headers["Content-Length"] == str(len(ADDON))
        metrics = (await rig.fetch("GET", "/metrics")).text
        assert 'route="/clients/{file}",status="200"} 2' in metrics


async def test_a_browser_that_has_the_add_on_gets_it_only_once() -> None:
    async with serving() as rig:
        tag = (await rig.fetch("GET", PATH)).headers["ETag"]
        async with wire(rig) as one:
            await one.send(
                f"GET {PATH} HTTP/1.1\r\nHost: x\r\nIf-None-Match: {tag}\r\n"
                "Connection: close\r\n\r\n".encode()
            )
            reply = parse(await one.read_all())
        assert (reply.status, reply.body, reply.headers["ETag"]) == (304, b"", tag)


async def test_a_version_of_the_add_on_that_does_not_exist_is_not_found() -> None:
    async with serving() as rig:
        for path in ("/clients/heliograph-resume.js", "/clients/heliograph-resume-2.js"):
            assert (await rig.fetch("GET", path)).status == 404


@pytest.mark.parametrize("prefix", ["", "/realtime"])
async def test_the_add_on_has_a_path_with_and_without_the_prefix(prefix: str) -> None:
    async with serving(path_prefix="/realtime") as rig:
        assert (await rig.fetch("GET", prefix + PATH)).body == ADDON


async def test_a_port_for_the_http_api_alone_has_no_add_on() -> None:
    async with serving(pusher_api_port=0) as rig:
        assert (await rig.fetch("GET", PATH, port=rig.server.port)).status == 200
        assert (await rig.fetch("GET", PATH, port=rig.server.api_port)).status == 404


@pytest.mark.parametrize("options", [{}, {"cors_allowed_origins": "https://admin.example.com"}])
async def test_a_page_of_any_origin_may_load_the_add_on(options: dict[str, str]) -> None:
    """Whatever pages may use the HTTP API."""
    async with serving(**options) as rig, wire(rig) as one:
        await one.send(
            f"GET {PATH} HTTP/1.1\r\nHost: x\r\nOrigin: https://shop.example.com\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        head = (await one.read_all()).partition(b"\r\n\r\n")[0]
        assert head.count(b"Access-Control-Allow-Origin: *") == 1
