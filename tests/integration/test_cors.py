"""Pages of other sites and the HTTP API: nothing unless asked for, and no more than that."""

import pytest

from tests.integration.rig import Engines, Reply, Rig, parse, serving
from tests.integration.test_http import wire

SITE = "https://admin.example.com"


async def ask(rig: Rig, method: str, target: str, *headers: str) -> Reply:
    async with wire(rig) as one:
        lines = "".join(f"{header}\r\n" for header in headers)
        await one.send(
            f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{lines}\r\n".encode()
        )
        return parse(await one.read_all())


def permitting(reply: Reply) -> dict[str, str]:
    return {
        name.removeprefix("Access-Control-"): value
        for name, value in reply.headers.items()
        if name.startswith("Access-Control-")
    }


PREFLIGHT = (f"Origin: {SITE}", "Access-Control-Request-Method: POST")


async def test_no_page_has_access_to_the_api_unless_an_option_allows_it() -> None:
    async with serving(allowed_origins="*") as rig:
        for method in ("GET", "OPTIONS", "POST"):
            target = rig.signed(method, "/apps/3/channels")
            assert permitting(await ask(rig, method, target, *PREFLIGHT)) == {}


@pytest.mark.parametrize("late", [False, True])
async def test_a_page_of_a_site_on_the_list_reads_answers_and_errors(
    late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engines, "late", late)
    async with serving(cors_allowed_origins="https://*.example.com", metrics=True) as rig:
        target = rig.signed("GET", "/apps/3/channels")
        for asked, status in ((target, 200), (target + "x", 401), ("/apps/3/nothing", 404)):
            reply = await ask(rig, "GET", asked, f"Origin: {SITE}")
            assert reply.status == status
            assert permitting(reply) == {"Allow-Origin": SITE}
            assert reply.headers["Vary"] == "Origin"
        body = b'{"name":"n","channel":"c","data":"x"}'
        assert (await rig.request("POST", "/events", body)).body == b"{}"


async def test_a_request_with_two_origins_comes_from_none() -> None:
    async with serving(cors_allowed_origins=SITE) as rig:
        for second in (SITE, "https://example.org"):
            origins = (f"Origin: {SITE}", f"Origin: {second}")
            assert permitting(await ask(rig, "GET", "/apps/3/channels", *origins)) == {}


async def test_a_browser_that_asks_first_is_told() -> None:
    async with serving(cors_allowed_origins=SITE) as rig:
        reply = await ask(
            rig,
            "OPTIONS",
            "/apps/3/events",
            *PREFLIGHT,
            "Access-Control-Request-Headers: content-type, x-pusher-library",
        )
        assert (reply.status, reply.body) == (204, b"")
        assert permitting(reply) == {
            "Allow-Origin": SITE,
            "Allow-Methods": "GET, HEAD, POST",
            "Allow-Headers": "content-type, x-pusher-library",
            "Max-Age": "600",
        }


@pytest.mark.parametrize(
    "origin",
    [
        "https://example.org",
        "http://admin.example.com",
        "https://admin.example.com.example.org",
        "https://admin.example.com:444",
        "null",
        "",
    ],
)
async def test_a_page_of_any_other_site_reads_nothing(origin: str) -> None:
    async with serving(cors_allowed_origins=SITE) as rig:
        for method in ("GET", "OPTIONS"):
            target = rig.signed(method, "/apps/3/channels")
            headers = (f"Origin: {origin}", "Access-Control-Request-Method: GET")
            reply = await ask(rig, method, target, *headers)
            assert permitting(reply) == {}
            assert reply.status == (200 if method == "GET" else 204)


async def test_nothing_that_a_page_writes_breaks_the_answer() -> None:
    async with serving(cors_allowed_origins="*") as rig:
        for origin in ("x" * 300, "https://\xe9.example.com", "a b", "https://a\tb"):
            assert permitting(await ask(rig, "GET", "/apps/3/channels", f"Origin: {origin}")) == {}
        for headers in ("x" * 300, "a; b", "\xe9"):
            asked = f"Access-Control-Request-Headers: {headers}"
            reply = await ask(rig, "OPTIONS", "/apps/3/events", *PREFLIGHT, asked)
            assert "Allow-Headers" not in permitting(reply)


async def test_only_the_api_is_permitted() -> None:
    async with serving(
        cors_allowed_origins="*", path_prefix="/realtime", metrics=True, metrics_token="t"
    ) as rig:
        for target in ("/health", "/metrics", "/app/x", "/apps/3/channels"):
            assert permitting(await ask(rig, "GET", target, f"Origin: {SITE}")) == {}
        reply = await ask(rig, "GET", "/realtime/apps/3/channels", f"Origin: {SITE}")
        assert permitting(reply) == {"Allow-Origin": SITE}


async def test_what_asks_for_no_permission_is_given_none() -> None:
    """OPTIONS lists the methods of a path where no page asks what it may do."""
    async with serving(cors_allowed_origins=SITE) as rig:
        reply = await ask(rig, "OPTIONS", "/apps/3/events", f"Origin: {SITE}")
        assert (reply.status, reply.headers["Allow"]) == (204, "POST, OPTIONS")
        assert permitting(reply) == {"Allow-Origin": SITE}
