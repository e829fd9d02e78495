"""What is measured, over real sockets, and read with Prometheus' own parser."""

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from heliograph.observe import metrics
from tests.integration.rig import Rig, serving

ROOT = Path(__file__).parents[2]

Found = dict[tuple[str, tuple[tuple[str, str], ...]], float]


async def scrape(rig: Rig, port: int | None = None, token: str | None = None) -> Found:
    status, text = await get(rig, port, token)
    assert status == 200, text
    return samples(text)


def samples(text: str) -> Found:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def get(rig: Rig, port: int | None = None, token: str | None = None) -> tuple[int, str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port or rig.server.port)
    head = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    if token:
        head += f"Authorization: Bearer {token}\r\n"
    writer.write(f"{head}\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition("\r\n\r\n")
    if " 200 " in head:
        assert f"Content-Type: {metrics.CONTENT_TYPE}" in head
    return int(head.split()[1]), body


async def test_what_clients_and_publishers_do_is_counted() -> None:
    async with serving(metrics=True, max_client_events_per_second=0) as rig:
        async with rig.client() as ann, rig.client() as bob:
            await ann.subscribe("public")
            await bob.subscribe("public")
            await ann.subscribe("private-a")
            await ann.join("presence-a", "ann")
            await rig.publish("one", "public", "hello")
            await rig.publish("two", "public", "hello")
            for client in (ann, bob):
                await client.receive()
                await client.receive()
            await ann.send("pusher:subscribe", {"channel": "private-b", "auth": "no:no"})
            await ann.receive()
            found = await scrape(rig)

        app = ("app", "3")
        assert found["heliograph_connections", (app,)] == 2
        assert found["heliograph_subscriptions", (app,)] == 4
        assert found["heliograph_channels", (app, ("kind", "public"))] == 1
        assert found["heliograph_channels", (app, ("kind", "private"))] == 1
        assert found["heliograph_channels", (app, ("kind", "presence"))] == 1
        assert found["heliograph_publishes_total", ()] == 2
        assert found["heliograph_deliveries_total", ()] == 4
        assert 2 <= found["heliograph_writes_total", ()] <= 4
        assert found["heliograph_messages_received_total", ()] == 5
        assert found["heliograph_messages_sent_total", ()] == 5
        assert found["heliograph_auth_failures_total", (("of", "client"),)] == 1
        assert sum(v for (name, _), v in found.items() if "client_errors" in name) == 1
        route = (("route", "/apps/{app}/events"), ("status", "200"))
        assert found["heliograph_api_requests_total", route] == 2
        assert found["heliograph_api_request_duration_seconds_count", ()] >= 2
        assert found["heliograph_bytes_received_total", ()] > 500
        assert found["heliograph_bytes_delivered_total", ()] > 100

        await until_nobody_is_connected(rig)
        found = await scrape(rig)
        assert found["heliograph_connections", (app,)] == 0
        assert found["heliograph_subscriptions", (app,)] == 0
        assert sum(v for (name, _), v in found.items() if name == "heliograph_channels") == 0


async def until_nobody_is_connected(rig: Rig) -> None:
    async with asyncio.timeout(5):
        while rig.server.node.connections:  # noqa: ASYNC110 - a server has no event for it
            await asyncio.sleep(0.01)


async def test_every_metric_is_promised_and_every_promise_is_kept() -> None:
    async with serving(metrics=True) as rig:
        _, text = await get(rig)
        told = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    promised = {family.name for family in metrics.FAMILIES}
    if sys.platform != "linux":
        promised -= {"heliograph_resident_memory_bytes", "heliograph_open_descriptors"}
    assert told == promised


async def test_metrics_are_off_unless_asked_for() -> None:
    async with serving() as rig:
        assert (await get(rig))[0] == 404


async def test_a_port_of_its_own_serves_nothing_else() -> None:
    async with serving(metrics_port=0) as rig:
        assert (await get(rig))[0] == 404
        await scrape(rig, rig.server.metrics_port)
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.server.metrics_port)
        writer.write(b"GET /up HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 404")
        writer.close()


async def test_a_token_is_required_where_one_is_set() -> None:
    async with serving(metrics=True, metrics_token="open sesame") as rig:
        for wrong in (None, "open", "open sesame!"):
            status, text = await get(rig, token=wrong)
            assert status == 401
            assert "sesame" not in text
        await scrape(rig, token="open sesame")


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (("Bearer t",), 200),
        (("bearer t",), 200),  # RFC 9110 11.1
        (("BEARER   t",), 200),
        (("bearer T",), 401),
        (("Bearert",), 401),
        (("Basic t",), 401),
        (("bearer",), 401),
        (("bearer \xe9",), 401),
        (("Bearer t", "Bearer t"), 401),
        (("Bearer t", "Bearer x"), 401),
    ],
)
async def test_the_scheme_of_the_token_is_the_same_in_any_case(
    lines: tuple[str, ...], status: int
) -> None:
    async with serving(metrics=True, metrics_token="t") as rig:
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.server.port)
        headers = "".join(f"Authorization: {line}\r\n" for line in lines)
        writer.write(f"GET /metrics HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode("latin-1"))
        assert (await reader.readline()).startswith(f"HTTP/1.1 {status} ".encode())
        writer.close()


async def test_requests_for_unknown_paths_make_no_new_labels() -> None:
    async with serving(metrics=True) as rig:
        for path in (
            "/a",
            "/b?c",
            "/apps/7/events",
            "/apps/8/no",
            "/app/x/y",
            f"/apps/{'x' * 999}",
        ):
            await rig.fetch("GET", path)
        found = await scrape(rig)
    name = "heliograph_api_requests_total"
    routes = {dict(labels)["route"] for found_name, labels in found if found_name == name}
    assert routes == {"other", "/apps/{app}/events"}


def test_a_scrape_does_not_hold_a_busy_server_up() -> None:
    """It reads counters, and walks over apps, never over clients or channels."""
    text = (ROOT / "src/heliograph/instruments.py").read_text()
    assert not re.search(r"for .* in .*(sessions|subscriptions|_channels)\b", text)


# -- What is built on them -----------------------------------------------------------------


def names_in(text: str) -> set[str]:
    return set(re.findall(r"heliograph_[a-z_]+", text))


def told_names() -> set[str]:
    names = set()
    for family in metrics.FAMILIES:
        names.add(family.name)
        if family.kind == metrics.HISTOGRAM:
            names |= {f"{family.name}_{suffix}" for suffix in ("bucket", "sum", "count")}
    return names


@pytest.mark.parametrize("name", ["grafana-dashboard.json", "alerts.yml"])
def test_dashboard_and_alerts_name_only_what_exists(name: str) -> None:
    named = names_in((ROOT / "ops" / name).read_text())
    assert named
    assert named <= told_names()


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    dashboard = json.loads((ROOT / "ops" / "grafana-dashboard.json").read_text())
    assert dashboard["title"] == "Heliograph"
    panels: list[dict[str, Any]] = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["title"]
        assert all(target["expr"] for target in panel["targets"])


def test_the_table_of_the_document_is_the_one_of_the_code() -> None:
    document = (ROOT / "docs" / "operations.md").read_text()
    _, _, rest = document.partition("<!-- metrics -->\n")
    assert rest.partition("<!-- /metrics -->")[0] == metrics.table()
