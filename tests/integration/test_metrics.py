"""What is measured, over real sockets, and read with Prometheus' own parser."""

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from heliograph.engine.base import EVENT_OVERHEAD_BYTES
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


async def test_what_is_kept_and_what_clients_resume_is_counted() -> None:
    app = (("app", "3"),)
    async with serving(metrics=True, broker="memory", history_limit=3) as rig, rig.client() as ann:
        await ann.send("pusher:subscribe", {"channel": "a", "history": {}})
        await ann.receive()
        start = json.loads(json.loads(await ann.receive())["data"])
        for number in range(3):
            await rig.publish("n", "a", str(number))
        await rig.publish("n", "cache-b", "x")
        found = await scrape(rig)
        assert found["heliograph_history_events", app] == 4
        assert found["heliograph_history_channels", app] == 2
        assert 4 * EVENT_OVERHEAD_BYTES < found["heliograph_history_bytes", app] < 4000
        assert found["heliograph_history_max_bytes", ()] == 64 << 20
        async with rig.client() as bob:
            await bob.send("pusher:subscribe", {"channel": "a", "history": start})
            await bob.receive()
            for _ in range(3):
                assert json.loads(await bob.receive())["event"] == "pusher_internal:next_position"
                await bob.receive()
            assert json.loads(await bob.receive())["event"] == "pusher_internal:position"
        await rig.publish("n", "a", "3")
        for epoch, offset in ((start["epoch"], 0), (start["epoch"], 9), ("another", 4)):
            async with rig.client() as bob:
                position = {"epoch": epoch, "offset": offset}
                await bob.send("pusher:subscribe", {"channel": "a", "history": position})
                await bob.receive()
                assert json.loads(await bob.receive())["event"] == "pusher_internal:gap"
        found = await scrape(rig)
    assert of_metric(found, "heliograph_resumes_total") == {"continued": 1, "gap": 3}
    assert of_metric(found, "heliograph_gaps_total") == {
        "trimmed": 1, "ahead": 1, "epoch": 1, "no_history": 0
    }  # fmt: skip
    assert found["heliograph_replayed_events_total", ()] == 3
    assert found["heliograph_history_events", app] == 4


async def test_only_a_client_that_missed_events_counts_as_a_resume() -> None:
    """One that asks for positions has nothing to resume, with or without history."""
    for broker in ("none", "memory"):
        async with serving(metrics=True, broker=broker) as rig, rig.client() as ann:
            await ann.send("pusher:subscribe", {"channel": "a", "history": {}})
            await ann.receive()
            found = await scrape(rig)
        assert of_metric(found, "heliograph_resumes_total") == {"continued": 0, "gap": 0}
    async with serving(metrics=True) as rig, rig.client() as ann:
        start = {"epoch": "x", "offset": 3}
        await ann.send("pusher:subscribe", {"channel": "a", "history": start})
        await ann.receive()
        assert json.loads(await ann.receive())["event"] == "pusher_internal:gap"
        found = await scrape(rig)
    assert of_metric(found, "heliograph_resumes_total") == {"continued": 0, "gap": 1}
    assert of_metric(found, "heliograph_gaps_total")["no_history"] == 1


async def test_events_that_expired_are_not_among_the_kept_ones() -> None:
    app = (("app", "3"),)
    async with serving(metrics=True, broker="memory", history_ttl=0.001) as rig:
        await rig.publish("n", "a", "x")
        async with asyncio.timeout(5):
            while (await scrape(rig))["heliograph_history_events", app]:
                pass  # each scrape takes longer than an event is kept
        assert (await scrape(rig))["heliograph_history_channels", app] == 0


async def test_evicted_events_are_counted_under_the_new_name_and_the_old_one() -> None:
    large = {"max_event_bytes": 0, "history_max_bytes": 1 << 20}
    async with serving(metrics=True, broker="memory", **large) as rig:
        for number in range(3):
            await rig.publish("n", f"channel-{number}", "x" * 500_000)
        found = await scrape(rig)
    assert found["heliograph_evicted_events_total", ()] == 1
    assert found["heliograph_cached_events_evicted_total", ()] == 1
    assert found["heliograph_history_events", (("app", "3"),)] == 2


async def test_a_repeated_publish_is_counted() -> None:
    event = {"name": "n", "channel": "a", "data": "{}", "idempotency_key": "k"}
    async with serving(metrics=True) as rig:
        for _ in range(3):
            assert (await rig.request("POST", "/events", event)).status == 200
        found = await scrape(rig)
    assert found["heliograph_repeated_publishes_total", ()] == 2


def of_metric(found: Found, name: str) -> dict[str, float]:
    """Return the values of a metric with one label, by the value of the label."""
    return {labels[0][1]: value for (one, labels), value in found.items() if one == name}


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
        assert panel["type"] == "row" or panel["targets"]
        assert all(target["expr"] for target in panel.get("targets", []))


def test_the_table_of_the_document_is_the_one_of_the_code() -> None:
    document = (ROOT / "docs" / "operations.md").read_text()
    _, _, rest = document.partition("<!-- metrics -->\n")
    assert rest.partition("<!-- /metrics -->")[0] == metrics.table()
